-- sql/37_report_rows.sql

