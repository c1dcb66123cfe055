-- sql/30_event_tables.sql

