-- sql/44_job.sql

