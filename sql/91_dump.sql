-- sql/91_dump.sql

