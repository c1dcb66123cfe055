-- sql/20_event_c.sql

