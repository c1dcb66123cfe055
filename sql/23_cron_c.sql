-- sql/23_cron_c.sql

