-- sql/41_event_partition.sql

