-- sql/32_rollup_tables.sql

