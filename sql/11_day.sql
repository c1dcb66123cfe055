-- sql/11_day.sql

