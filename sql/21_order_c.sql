-- sql/21_order_c.sql

