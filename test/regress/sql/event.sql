-- Events: the rules, the JSON intake, repeats, partitions, marks.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

-- one event, in the form of the interface; again: a repeat
SELECT ecstats_track('{"event": "click", "timestamp": 1712050800, "user_id": "u123456", "page_url": "/home", "extra": {"button_id": "btn-login"}}');
SELECT ecstats_track('{"event": "click", "timestamp": 1712050800, "user_id": "u123456", "page_url": "/home", "extra": {"button_id": "btn-login"}}');
SELECT event_time, user_id, event, event_id, page_url, extra FROM ecstats.events;

-- every form of a timestamp
SELECT ecstats_track('[{"event":"t","user_id":"1","timestamp":1712050800.5},
	{"event":"t","user_id":"2","timestamp":1712050800123},
	{"event":"t","user_id":"3","timestamp":1712050800123.456},
	{"event":"t","user_id":"4","timestamp":"2024-04-02T17:40:00+08:00"},
	{"event":"t","user_id":"5","timestamp":"2024-04-02T09:40:00Z"},
	{"event":"t","user_id":"6","timestamp":"2024-04-02 09:40:00.1234567+0000"},
	{"event":"t","user_id":"7","timestamp":"2024-04-02T09:40-01:30"},
	{"event":"t","user_id":8,"timestamp":99999999999}]', 'quarantine');
SELECT user_id, event_time FROM ecstats.events WHERE event = 't' ORDER BY user_id;
SELECT sqlstate, reason FROM ecstats.rejects;
TRUNCATE ecstats.rejects;

-- unknown members go into extra; null is as good as nothing
SELECT ecstats_track('{"event":"search","timestamp":1712050800,"user_id":"x","q":"围巾","n":[1,2],"page_url":null,"event_id":null,"extra":{"a":{"b":1}}}');
SELECT page_url, extra FROM ecstats.events WHERE event = 'search';

-- each rule, its error
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.try(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text; d text; h text; c text; t text;
BEGIN
	PERFORM ecstats_track(payload);
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, c = COLUMN_NAME, t = TABLE_NAME;
	RETURN concat_ws(' | ', SQLSTATE, t || '.' || c, m, d, h);
END
$$;
SELECT n, pg_temp.try('{"event":"ok","timestamp":1712050800,"user_id":"x"}'::jsonb || patch) FROM (VALUES
	(1, '{"user_id":""}'::jsonb), (2, jsonb_build_object('user_id', repeat('é', 65))), (3, '{"user_id":"a\nb"}'), (4, '{"user_id":null}'),
	(5, '{"user_id":true}'), (6, '{"user_id":1.5}'), (7, '{"event":""}'), (8, '{"event":"1st"}'), (9, '{"event":"Buy"}'), (10, '{"event":"buy now"}'),
	(11, jsonb_build_object('event', repeat('e', 65))), (12, '{"event":7}'), (13, '{"page_url":"/\u0001"}'),
	(14, jsonb_build_object('page_url', repeat('/', 2049))), (15, '{"page_url":{}}'), (16, '{"extra":[]}'), (17, '{"extra":"x"}'),
	(18, jsonb_build_object('extra', jsonb_build_object('x', repeat('x', 17000)))),
	(19, jsonb_build_object('extra', (SELECT jsonb_object_agg(i, i) FROM generate_series(1, 65) i))),
	(20, '{"extra":{"q":1},"q":2}'), (21, '{"timestamp":null}'), (22, '{"timestamp":"2024-04-02T09:40:00"}'), (23, '{"timestamp":"yesterday"}'),
	(24, '{"timestamp":"2024-02-30T09:40:00Z"}'), (25, '{"timestamp":"2024-04-02T24:00:00Z"}'), (26, '{"timestamp":1}'), (27, '{"timestamp":1e300}'),
	(28, '{"timestamp":"1712050800"}'), (29, '{"event_id":"not-a-uuid"}'), (30, '{"event_id":"4b2705d6-b270-8daa-8fda-52038563"}'),
	(31, '{"user_id":"\u009f"}'), (32, '{"timestamp":"infinity"}'), (33, '{"timestamp":-1}')) v(n, patch) ORDER BY n;
SELECT pg_temp.try('3'), pg_temp.try('[[]]'), pg_temp.try('[]'), pg_temp.try('null');
SELECT ecstats_track('[]', 'ignore');
SELECT ecstats_track(NULL);

-- the same rules hold for INSERT and COPY
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('1999-12-31', 'x', 'ok');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('infinity', 'x', 'ok');
\set VERBOSITY terse
INSERT INTO ecstats.events (event_time, user_id, event) VALUES (now() + interval '1 day 1 minute', 'x', 'ok');
INSERT INTO ecstats.events (user_id, event) VALUES (NULL, 'ok');
\set VERBOSITY default
COPY ecstats.events (user_id, event) FROM stdin;
good	ok
bad	Not ok
\.
SELECT count(*) FROM ecstats.events WHERE user_id = 'good';

-- one bad row in a thousand: 999 are stored and the one is kept, whole
SELECT ecstats_track((SELECT jsonb_agg(jsonb_build_object('event', CASE WHEN i = 500 THEN 'NO' ELSE 'yes' END, 'timestamp', 1712050800 + i, 'user_id', i::text, 'i', i))
						FROM generate_series(1, 1000) i), 'quarantine');
SELECT source, payload, sqlstate, reason FROM ecstats.rejects;
-- all or nothing by default
SELECT ecstats_track('[{"event":"aa","timestamp":1712050800,"user_id":"all"},{"event":"AA","timestamp":1712050800,"user_id":"all"}]');
SELECT count(*) FROM ecstats.events WHERE user_id = 'all';
-- a reject that is valid by now is taken
UPDATE ecstats.rejects SET payload = jsonb_set(payload, '{event}', '"no"');
SELECT ecstats_retry_rejects('order'), ecstats_retry_rejects('track'), ecstats_retry_rejects();
SELECT count(*) FROM ecstats.rejects;
SELECT ecstats_retry_rejects('elsewhere');
-- one that is still bad says today's reason, as it was said at first
SELECT ecstats_track('[{"event":"AA","timestamp":1712050800,"user_id":"still"},{"event":"ok"}]', 'quarantine');
SELECT reason FROM ecstats.rejects ORDER BY id;
SELECT reason AS was, ctid AS at FROM ecstats.rejects ORDER BY id LIMIT 1 \gset
SELECT ecstats_retry_rejects();
SELECT reason = :'was' AS same, ctid = :'at' AS untouched FROM ecstats.rejects ORDER BY id LIMIT 1;
UPDATE ecstats.rejects SET payload = payload || '{"event": "aa", "user_id": ""}' WHERE payload ->> 'event' = 'AA';
SELECT ecstats_retry_rejects();
SELECT reason FROM ecstats.rejects ORDER BY id;
DELETE FROM ecstats.rejects;

-- the same key with other content is never dropped silently
SELECT ecstats_track('{"event":"a","timestamp":1712050800,"user_id":"k","event_id":"00000000-0000-0000-0000-000000000001"}');
SELECT ecstats_track('{"event":"a","timestamp":1712050800,"user_id":"k","event_id":"00000000000000000000000000000001"}');
SELECT ecstats_track('{"event":"b","timestamp":1712050800,"user_id":"k","event_id":"00000000-0000-0000-0000-000000000001"}');
SELECT ecstats_track('[{"event":"b","timestamp":1712050800,"user_id":"k","event_id":"00000000-0000-0000-0000-000000000001"},
					   {"event":"b","timestamp":1712050801,"user_id":"k","event_id":"00000000-0000-0000-0000-000000000001"}]', 'quarantine');
SELECT payload, sqlstate FROM ecstats.rejects;
INSERT INTO ecstats.events (event_time, user_id, event, event_id)
VALUES ('2024-04-02 09:40:00+00', 'k', 'a', '00000000-0000-0000-0000-000000000001') ON CONFLICT DO NOTHING;
INSERT INTO ecstats.events (event_time, user_id, event, event_id)
VALUES ('2024-04-02 09:40:00+00', 'k', 'a', '00000000-0000-0000-0000-000000000001');

-- partitions: recent days by track, a back-fill by prepare, which moves what waits in the default one
SELECT ecstats_track(jsonb_build_object('event', 'now', 'timestamp', extract(epoch FROM now()), 'user_id', 'p'));
SELECT tableoid::regclass::text = 'ecstats.events_' || to_char(ecstats_day(), 'YYYYMMDD') AS in_its_day FROM ecstats.events WHERE event = 'now';
CREATE TEMP TABLE before AS SELECT * FROM ecstats.events;
SELECT count(*) > 0 AS strays FROM ecstats.events_default WHERE event_time < '2024-05-01';
SELECT * FROM ecstats.event_stray_days() d WHERE d < '2025-01-01';
SELECT ecstats_prepare('2024-04-01', '2024-04-03'), ecstats_prepare('2024-04-01', '2024-04-03');
SELECT count(*) AS strays FROM ecstats.events_default WHERE event_time < '2024-05-01';
SELECT count(*) AS lost_or_new FROM (TABLE before EXCEPT ALL SELECT * FROM ecstats.events) x;
SELECT ecstats_prepare('2024-04-03', '2024-04-01');
SELECT ecstats_prepare('2024-01-01', '2030-01-01');
SELECT ecstats_prepare(NULL, '2030-01-01');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2023-01-01', 'old', 'ok');
CALL ecstats_maintain();
SELECT tableoid::regclass FROM ecstats.events WHERE user_id = 'old';
SELECT count(*) FROM ecstats.events_default;
SELECT count(*) = 15 AS week_back_and_ahead FROM generate_series(-7, 7) i WHERE ecstats.day_partition_exists(ecstats_day() + i);

-- marks: ended days of rows that came, changed or went; not the running day, not what was rolled back
DELETE FROM ecstats.day_marks;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-04-02', 'm', 'ok'), ('2024-04-02 20:00+00', 'm', 'ok'), (now(), 'm', 'ok');
BEGIN; INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-05-02', 'm', 'ok'); ROLLBACK;
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;
DELETE FROM ecstats.day_marks;
UPDATE ecstats.events SET event_time = '2024-04-01 12:00+00' WHERE user_id = 'old';
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;
DELETE FROM ecstats.day_marks;
DELETE FROM ecstats.events WHERE user_id = 'old';
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;

-- DROP EXTENSION refuses while there is data
DROP EXTENSION ecstats;

-- larger arrays: a repeat, one that overlaps, one that repeats itself, a key with other content, one in a block
CREATE FUNCTION pg_temp.many(from_no int, to_no int, name text DEFAULT 'click') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('event', name, 'user_id', 'many', 'timestamp', 1712050800 + i,
										'event_id', '00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))) FROM generate_series(from_no, to_no) i $$;
SELECT ecstats_track(pg_temp.many(1, 30));
SELECT ecstats_track(pg_temp.many(1, 30)) AS again;
SELECT ecstats_track(pg_temp.many(20, 49)) AS overlapping;
SELECT ecstats_track(pg_temp.many(60, 79) || pg_temp.many(70, 89)) AS itself_twice;
SELECT ecstats_track(pg_temp.many(100, 129) || pg_temp.many(49, 49, 'view'));
SELECT ecstats_track(pg_temp.many(100, 129) || '{}');
BEGIN;
SELECT ecstats_track(pg_temp.many(40, 69)) AS in_a_block;
COMMIT;
SELECT count(*), count(DISTINCT event_id) FROM ecstats.events WHERE user_id = 'many';
