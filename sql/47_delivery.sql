-- sql/47_delivery.sql

