-- sql/22_rollup_c.sql

