-- sql/34_report_tables.sql

