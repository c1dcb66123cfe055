-- sql/31_order_tables.sql

