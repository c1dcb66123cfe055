-- sql/46_channel.sql

