-- sql/10_config.sql

