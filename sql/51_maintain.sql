-- sql/51_maintain.sql

