-- sql/50_pipeline.sql

