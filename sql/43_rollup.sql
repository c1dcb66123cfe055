-- sql/43_rollup.sql

