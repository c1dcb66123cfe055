-- The business day and the settings.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

-- a day is what the shop's clock says
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
SELECT ecstats_day('2026-11-23 15:59:59.999999+00') AS before_midnight, ecstats_day('2026-11-23 16:00+00') AS midnight;
SELECT ecstats.day_start('2026-11-24');
UPDATE ecstats.config SET day_starts_at = '04:00';
SELECT ecstats_day('2026-11-23 19:59:59+00') AS before_four, ecstats_day('2026-11-23 20:00+00') AS four;

-- days of 23 and 25 hours
UPDATE ecstats.config SET timezone = 'Europe/London', day_starts_at = '00:00';
SELECT d, ecstats.day_start(d + 1) - ecstats.day_start(d) AS length
  FROM unnest('{2026-03-28,2026-03-29,2026-03-30,2026-10-24,2026-10-25,2026-10-26}'::date[]) d;
-- a start that the spring change skips is the first instant after the gap; a repeated one is the first
UPDATE ecstats.config SET day_starts_at = '01:30';
SELECT d, ecstats.day_start(d) FROM unnest('{2026-03-28,2026-03-29,2026-03-30,2026-10-25}'::date[]) d;
SELECT t, ecstats_day(t) FROM unnest('{2026-03-29 00:59:59+00,2026-03-29 01:00+00,2026-10-25 00:29:59+00,2026-10-25 00:30+00,2026-10-25 01:30+00}'::timestamptz[]) t;

-- every instant belongs to exactly the day whose start it is not before, in many zones and starts
SET client_min_messages = warning;
CREATE TEMP TABLE wrong (zone text, starts time, t timestamptz, day date);
DO $$
DECLARE
	z text;
	s time;
BEGIN
	FOREACH z IN ARRAY '{UTC,Asia/Shanghai,Europe/London,America/New_York,America/St_Johns,Australia/Lord_Howe,Asia/Kathmandu,Pacific/Apia,America/Sao_Paulo,Asia/Gaza}'::text[] LOOP
		FOREACH s IN ARRAY '{00:00,00:30,02:00,02:30,04:00,23:59:59}'::time[] LOOP
			UPDATE ecstats.config SET timezone = z, day_starts_at = s;
			INSERT INTO wrong SELECT z, s, t, ecstats_day(t)
			  FROM generate_series('2011-12-25 00:00+00'::timestamptz, '2012-01-05', '30 minutes') t
			 WHERE NOT (ecstats.day_start(ecstats_day(t)) <= t AND t < ecstats.day_start(ecstats_day(t) + 1));
			INSERT INTO wrong SELECT z, s, t, ecstats_day(t)
			  FROM generate_series('2018-01-01 00:00+00'::timestamptz, '2019-01-01', '6 hours 29 minutes 30 seconds') t
			 WHERE NOT (ecstats.day_start(ecstats_day(t)) <= t AND t < ecstats.day_start(ecstats_day(t) + 1));
		END LOOP;
	END LOOP;
END
$$;
RESET client_min_messages;
SELECT count(*) AS wrong FROM wrong;

-- where the clock has no change near, the day is what plain SQL says
UPDATE ecstats.config SET timezone = 'Asia/Shanghai', day_starts_at = '05:30';
SELECT count(*) AS wrong FROM generate_series('2025-01-01 00:00+00'::timestamptz, '2026-01-01', '47 minutes') t
 WHERE ecstats_day(t) <> ((t AT TIME ZONE 'Asia/Shanghai') - interval '5:30')::date;

-- bad input
SELECT ecstats_day('infinity');
SELECT ecstats.day_start('infinity');
UPDATE ecstats.config SET timezone = 'Asia/Shangri-La';
UPDATE ecstats.config SET timezone = 'FOO5BAR';
UPDATE ecstats.config SET currency = 'yuan';
UPDATE ecstats.config SET max_running_jobs = 0;
UPDATE ecstats.config SET score_half_life_days = 0;
INSERT INTO ecstats.config (timezone) VALUES ('UTC');
DELETE FROM ecstats.config;

-- a change is seen by the same session at once, and not after it was rolled back
UPDATE ecstats.config SET timezone = 'UTC', day_starts_at = '00:00';
BEGIN;
UPDATE ecstats.config SET timezone = 'Pacific/Kiritimati';
SELECT ecstats_day('2026-11-23 12:00+00');
ROLLBACK;
SELECT ecstats_day('2026-11-23 12:00+00');

-- the clock stays once days are closed; before that, rows move to where the new clock puts them
SELECT ecstats_prepare('2024-05-01', '2024-05-03');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-05-01 12:00+09', 'u', 'login'), ('2024-05-01 20:00+00', 'u', 'login');
UPDATE ecstats.config SET timezone = 'Asia/Tokyo';
SELECT count(*) FROM pg_partition_tree('ecstats.events') WHERE isleaf;
SELECT event_time, tableoid::regclass FROM ecstats.events ORDER BY event_time;
SELECT ecstats_prepare('2024-05-01', '2024-05-02');
SELECT event_time, tableoid::regclass FROM ecstats.events ORDER BY event_time;
SELECT (ecstats_daily('2024-05-01')).event_count;
UPDATE ecstats.config SET day_starts_at = '03:00';
-- a day that its zone skipped has no partition, and is in nobody's way
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET timezone = 'Pacific/Apia';
SELECT ecstats_prepare('2011-12-29', '2011-12-31');

-- the shipped jobs follow the clock
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET day_starts_at = '22:30';
SELECT name, schedule FROM ecstats.jobs ORDER BY name;

-- parallel workers read the settings too; a failure leaves nothing half read
CREATE TABLE many AS SELECT '2026-01-01 00:00+00'::timestamptz + i * interval '1 minute' AS t FROM generate_series(1, 20000) i;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
SELECT count(*) FROM (SELECT ecstats_day(t) FROM many GROUP BY 1) d;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET max_parallel_workers_per_gather;
DROP TABLE many;
SELECT n, ecstats.timezone_valid(n) FROM unnest('{Asia/Shanghai,asia/shanghai,Etc/GMT+8,EST5EDT,GMT0,America/Port-au-Prince,Foo/Bar5,Asia/Shanghi8,right/UTC,localtime,<+08>-8,""}'::text[]) n;
SELECT ecstats.day_start('5874897-12-31');
-- fractions of a second, before the epoch too
UPDATE ecstats.config SET timezone = 'UTC', day_starts_at = '23:59:59.5';
SELECT ecstats.day_start('1999-06-01'), ecstats.day_start('2026-06-01');
