-- sql/90_grants.sql

