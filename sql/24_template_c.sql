-- sql/24_template_c.sql

