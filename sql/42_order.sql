-- sql/42_order.sql

