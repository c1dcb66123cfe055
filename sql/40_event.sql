-- sql/40_event.sql

