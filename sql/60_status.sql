-- sql/60_status.sql

