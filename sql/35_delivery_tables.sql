-- sql/35_delivery_tables.sql

