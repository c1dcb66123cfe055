-- Cron expressions: next occurrence, list, errors, zones. The vectors are run by test/oracle.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

-- both dialects, any white space between fields
SELECT ecstats_cron_next('30 9 * * 1-5', '2026-11-20 09:30:00+08', 'Asia/Shanghai');
SELECT ecstats_cron_next(E'  0  30\t9 ? *   MON-FRI ', '2026-11-20 09:30:00+08', 'Asia/Shanghai');
SELECT ecstats_cron_next('@daily', '2026-11-20 09:30:00+08', 'Asia/Shanghai');
SELECT e, ecstats.cron_dialect(e) FROM unnest(ARRAY['* * * * *', '@hourly', '* * * * * ?', '* * * * * ? 2027']) e;

-- strictly after; fractions of a second do not matter
SELECT ecstats_cron_next('0 * * * *', '2026-11-20 08:59:59.999999', 'UTC'),
	ecstats_cron_next('0 * * * *', '2026-11-20 09:00:00', 'UTC'),
	ecstats_cron_next('0 * * * *', '2026-11-20 09:00:00.000001', 'UTC'),
	ecstats_cron_next('0 * * * *', '1969-12-31 22:59:59.5', 'UTC');

-- day of month or day of week; a leading * does not count as a restriction
SELECT * FROM ecstats_cron_list('0 0 13 * 5', '2026-11-01 00:00+00', 4, 'UTC');
SELECT * FROM ecstats_cron_list('0 0 */10 * 0', '2026-11-24 00:00+00', 2, 'UTC');
SELECT * FROM ecstats_cron_list('0 0 9 ? * 6L 2027', '2027-10-01 00:00+00', 10, 'UTC');
SELECT * FROM ecstats_cron_list('0 0 18 LW 2,5 ?', '2026-01-01 00:00+00', 3, 'UTC');

-- never again, and nothing after infinity
SELECT ecstats_cron_next('0 0 0 30 2 ?', '2026-11-24 12:00+08', 'UTC') IS NULL AS never,
	ecstats_cron_next('0 0 9 1 1 ? 2026', '2026-01-01 09:00+00', 'UTC') IS NULL AS past,
	ecstats_cron_next('* * * * *', '2199-12-31 23:59+00', 'UTC') IS NULL AS end_of_time,
	ecstats_cron_next('* * * * *', 'infinity', 'UTC') IS NULL AS after_infinity,
	ecstats_cron_next('* * * * *', '-infinity', 'UTC') AS first;

-- NULLs: the shop's zone, or no answer
UPDATE ecstats.config SET timezone = 'Asia/Tokyo';
SELECT ecstats_cron_next('0 9 * * *', '2026-11-20 12:00+09');
SELECT * FROM ecstats_cron_list('0 9 * * *', '2026-11-20 12:00+09', 2);
SELECT ecstats_cron_next(NULL, '2026-11-20 12:00+09', 'UTC') IS NULL AS no_expr,
	ecstats_cron_next('0 9 * * *', NULL, 'UTC') IS NULL AS no_after,
	ecstats.cron_next('0 9 * * *', '2026-11-20 12:00+09', NULL) IS NULL AS no_zone,
	(SELECT count(*) FROM ecstats_cron_list('0 9 * * *', now(), NULL, 'UTC')) AS no_n;
SELECT ecstats_cron_next('* * * * *') > now() AS from_now;

-- a gap fires at its end; a repeated hour once for a fixed time, twice for an interval
SELECT * FROM ecstats_cron_list('30 2 * * *', '2026-03-07 12:00-05', 3, 'America/New_York');
SELECT ecstats_cron_next('30 2 * * *', '2026-03-08 01:59:59-05', 'America/New_York');
SELECT * FROM ecstats_cron_list('30 1 * * *', '2026-10-31 12:00-04', 2, 'America/New_York');
SELECT * FROM ecstats_cron_list('30 * * * *', '2026-11-01 00:30-04', 3, 'America/New_York');
SELECT count(*), min(o), max(o) FROM ecstats_cron_list('30 2 * * *', '2026-01-01 00:00+11', 365, 'Australia/Lord_Howe') o;

-- errors name the field and the position, in characters
SELECT ecstats_cron_next('60 * * * *', now(), 'UTC');
SELECT ecstats_cron_next('0 0 * * MONDAY', now(), 'UTC');
SELECT ecstats.cron_check('0 30 9 * * *');
SELECT ecstats.cron_check('* * * 周 *');
SELECT ecstats.cron_check('周 * * * */8');
SELECT ecstats.cron_check('0 5-');
SELECT ecstats.cron_check('5- 0 * * *');
SELECT ecstats.cron_check('');
SELECT ecstats.cron_check('@fortnightly');
SELECT ecstats.cron_check(E'0 9\n* * *');
SELECT ecstats.cron_check(repeat('1,', 600) || '1 * * * *');
SELECT ecstats.cron_check('30 9 * * 1-5');

-- zones are names of the IANA database
SELECT ecstats_cron_next('* * * * *', now(), 'Asia/Nowhere');
SELECT ecstats_cron_next('* * * * *', now(), 'FOO5BAR');

-- bounded lists
SELECT count(*), max(o) FROM ecstats_cron_list('* * * * * ?', '2026-01-01 00:00+00', 10000, 'UTC') o;
SELECT ecstats_cron_list('* * * * *', '2026-01-01 00:00+00', 10001, 'UTC');
SELECT ecstats_cron_list('* * * * *', '2026-01-01 00:00+00', -1, 'UTC');
SELECT count(*) FROM ecstats_cron_list('* * * * *', '2026-01-01 00:00+00', 0, 'UTC');
SELECT count(*) FROM (SELECT ecstats_cron_list('* * * * *', '2026-01-01 00:00+00', 10, 'UTC') LIMIT 3) l;

-- how the functions are declared
SELECT p.oid::regprocedure, p.provolatile, p.proisstrict, p.proparallel,
	obj_description(p.oid, 'pg_proc') IS NOT NULL AS commented
FROM pg_proc p WHERE p.proname ~ 'cron_(next|list|check|dialect)$' ORDER BY p.oid::regprocedure::text COLLATE "C";

DROP EXTENSION ecstats;
