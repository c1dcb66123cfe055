-- sql/36_channel_kinds.sql

