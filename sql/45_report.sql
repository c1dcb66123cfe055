-- sql/45_report.sql

