-- A shop's apps log in as this role; what they may do is the profile writer.
DO $$
BEGIN
	CREATE ROLE ecstats_app LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;
SELECT ecstats_grant('ecstats_app', 'writer');
GRANT SELECT ON ecstats.events TO ecstats_app;
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
SELECT ecstats_prepare('2025-03-01', '2025-03-03');
