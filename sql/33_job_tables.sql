-- sql/33_job_tables.sql

