-- sql/26_job_c.sql

