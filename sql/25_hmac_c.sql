-- sql/25_hmac_c.sql

