-- The one-pass rollup against the same figures in plain SQL.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
SET timezone = 'UTC';
SET search_path = pg_catalog, public, pg_temp;

-- ---------------------------------------------------------------- helpers
-- What plain SQL says of the events of a range.
CREATE FUNCTION pg_temp.expected_events(from_time timestamptz, to_time timestamptz, page_views text[], funnel text[])
	RETURNS TABLE (kind text, name text, a bigint, b bigint)
	LANGUAGE sql AS $$
	WITH e AS (SELECT user_id, event FROM ecstats.events WHERE event_time >= from_time AND event_time < to_time)
	SELECT 't', NULL, count(*), count(*) FILTER (WHERE event = ANY (page_views)) FROM e
	UNION ALL SELECT 'v', NULL, count(DISTINCT user_id), NULL FROM e
	UNION ALL SELECT 'e', event, count(*), count(DISTINCT user_id) FROM e GROUP BY event
	UNION ALL
	SELECT 'f', funnel[step], step, (
		SELECT count(*) FROM (
			SELECT user_id FROM e WHERE event = ANY (funnel[:step]) GROUP BY user_id
			HAVING count(DISTINCT event) = (SELECT count(DISTINCT f) FROM unnest(funnel[:step]) f)) u)
	FROM generate_subscripts(funnel, 1) step
$$;

-- The differences between the two, and between the users' counts.
CREATE FUNCTION pg_temp.event_differences(from_time timestamptz, to_time timestamptz, page_views text[] DEFAULT '{page_view,e1,nobody}',
		funnel text[] DEFAULT '{page_view,e1,e40}')
	RETURNS TABLE (side text, kind text, name text, a bigint, b bigint)
	LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE got AS SELECT * FROM ecstats.rollup_scan_events(from_time, to_time, page_views, funnel, true);
	CREATE TEMP TABLE want AS SELECT * FROM pg_temp.expected_events(from_time, to_time, page_views, funnel);
	RETURN QUERY
		(SELECT 'only C', g.kind::text, g.name, g.a, g.b FROM got g WHERE g.kind NOT IN ('n', 'u')
			EXCEPT ALL SELECT 'only C', w.* FROM want w)
		UNION ALL
		(SELECT 'only SQL', w.* FROM want w
			EXCEPT ALL SELECT 'only SQL', g.kind::text, g.name, g.a, g.b FROM got g WHERE g.kind NOT IN ('n', 'u'));
	CREATE TEMP TABLE got_counts AS
		SELECT c.user_id, n.name AS event, c.event_count
		FROM got u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.packed) c JOIN got n ON n.kind = 'n' AND n.a = c.event_no
		WHERE u.kind = 'u';
	CREATE TEMP TABLE want_counts AS
		SELECT e.user_id, e.event, count(*) AS event_count FROM ecstats.events e
		WHERE e.event_time >= from_time AND e.event_time < to_time GROUP BY 1, 2;
	RETURN QUERY
		(SELECT 'only C', 'counts', concat_ws(' ', g.user_id, g.event), g.event_count, NULL::bigint FROM got_counts g
			EXCEPT ALL SELECT 'only C', 'counts', concat_ws(' ', w.user_id, w.event), w.event_count, NULL::bigint FROM want_counts w)
		UNION ALL
		(SELECT 'only SQL', 'counts', concat_ws(' ', w.user_id, w.event), w.event_count, NULL::bigint FROM want_counts w
			EXCEPT ALL SELECT 'only SQL', 'counts', concat_ws(' ', g.user_id, g.event), g.event_count, NULL::bigint FROM got_counts g)
		UNION ALL
		SELECT 'block', 'u', g.name, g.a, NULL FROM got g, LATERAL (SELECT count(DISTINCT user_id), min(user_id COLLATE "C") FROM ecstats.rollup_users_unpack(g.packed)) b(users, first_user)
		WHERE g.kind = 'u' AND (g.a, g.name) <> (b.users, b.first_user);
	DROP TABLE got, want, got_counts, want_counts;
END
$$;

-- ---------------------------------------------------------------- events
CREATE TABLE ecstats.rollup_d1 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-01') TO ('2024-05-02');
CREATE TABLE ecstats.rollup_d2 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-02') TO ('2024-05-03')
	PARTITION BY HASH (user_id);
CREATE TABLE ecstats.rollup_d2a PARTITION OF ecstats.rollup_d2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ecstats.rollup_d2b PARTITION OF ecstats.rollup_d2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);

-- A partition whose columns lie otherwise, with one dropped in front and one dropped and added again.
CREATE TABLE ecstats.rollup_d3 (junk int, extra jsonb NOT NULL DEFAULT '{}', event text COLLATE "C" NOT NULL, event_time timestamptz NOT NULL,
	page_url text, user_id int, event_id uuid);
ALTER TABLE ecstats.rollup_d3 DROP COLUMN junk, DROP COLUMN user_id;
ALTER TABLE ecstats.rollup_d3 ADD COLUMN user_id text COLLATE "C" NOT NULL,
	ADD CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, user_id, event, page_url, extra));
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.rollup_d3 FOR VALUES FROM ('2024-05-03') TO ('2024-05-04');

-- Days 1 to 3 have partitions, day 4 and the last hours of 30 April are in the default one.
SELECT setseed(0.5);
INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url)
SELECT timestamptz '2024-04-30 20:00' + random() * interval '4 days',
	(ARRAY['u', 'user-of-a-longer-kind-', '用户', 'é'])[1 + floor(random() * 4)::int] || floor(power(random(), 3) * 900)::int,
	(ARRAY['page_view', 'page_view', 'click', 'e' || floor(random() * 50)::int])[1 + floor(random() * 4)::int],
	CASE WHEN random() < 0.5 THEN gen_random_uuid() END, CASE WHEN random() < 0.5 THEN '/p/' || i END
FROM generate_series(1, 20000) i;
-- One user alone: more than a byte counts, and exactly what it counts, of near and far events.
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2024-05-02 06:00' + i * interval '1 s', 'robot', e.event
FROM (VALUES ('page_view', 256), ('click', 255), ('e0', 257), ('e1', 1024), ('e49', 700), ('e40', 1)) e (event, n),
	generate_series(1, e.n) i;
-- The longest ids, and short ones of every length; instants at the very bounds.
INSERT INTO ecstats.events (event_time, user_id, event) VALUES
	('2024-05-02 00:00', repeat('x', 128), 'page_view'), ('2024-05-02 00:00', repeat('x', 127) || 'y', 'page_view'),
	('2024-05-02 23:59:59.999999', repeat('中', 42) || 'ab', 'e1'), ('2024-05-03 00:00', 'at-midnight', 'click'),
	('2024-05-02 03:30', 'at-the-start', 'click'), ('2024-05-03 02:30', 'at-the-end', 'click'),
	('2024-05-02 12:00', repeat('x', 128), repeat('z', 64));
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT timestamptz '2024-05-02 13:00', left('abcdefghijklmnopqrstuvwxyz', i), 'click' FROM generate_series(1, 26) i;
-- Rows that are gone, and rows that never came.
DELETE FROM ecstats.events WHERE user_id LIKE 'u1%' AND event = 'click';
BEGIN;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-05-02 05:00', 'rolled-back', 'click');
SELECT count(*) AS own_rows FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true) r CROSS JOIN LATERAL ecstats.rollup_users_unpack(r.packed) u
 WHERE r.kind = 'u' AND u.user_id = 'rolled-back';
ROLLBACK;
SELECT count(*) > 100 AS default_has_rows FROM ecstats.events_default;

SELECT * FROM pg_temp.event_differences('2024-05-02', '2024-05-03');
SELECT * FROM pg_temp.event_differences('2024-05-01', '2024-05-02');
SELECT * FROM pg_temp.event_differences('2024-05-03', '2024-05-04');
SELECT * FROM pg_temp.event_differences('2024-05-02 03:30', '2024-05-03 02:30');	-- 23 hours, two partitions
SELECT * FROM pg_temp.event_differences('2024-05-04', '2024-05-05');	-- default partition alone
SELECT * FROM pg_temp.event_differences('-infinity', 'infinity');
SELECT * FROM pg_temp.event_differences('-infinity', 'infinity', '{}', '{}');
SELECT * FROM pg_temp.event_differences('-infinity', 'infinity', '{e0,e0,click}', '{e1,e1,e49}');
SELECT * FROM pg_temp.event_differences('-infinity', 'infinity', '{click}', '{page_view,nobody,click}');
-- Through a file: the users take more than this.
SET work_mem = '64kB';
SELECT * FROM pg_temp.event_differences('-infinity', 'infinity');
RESET work_mem;
-- The same from an all-visible table.
VACUUM ecstats.rollup_d1, ecstats.rollup_d2a, ecstats.rollup_d3;
SELECT * FROM pg_temp.event_differences('2024-05-01', '2024-05-04');

-- Whatever the rules let in: ids that are compressed or out of line are read, too, up to a limit.
BEGIN;
ALTER TABLE ecstats.events DROP CONSTRAINT events_valid;
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT '2024-05-01 12:00', u.id, e.name
FROM (SELECT repeat('long', 3000) UNION ALL SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i UNION ALL SELECT '') u (id),
	(VALUES ('click'), ('click'), (repeat('n', 9000))) e (name);
SELECT side, kind, left(name, 20) AS name, a, b FROM pg_temp.event_differences('2024-05-01', '2024-05-02');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-05-01 12:00', repeat('long', 20000), 'click');
SELECT count(*) FROM ecstats.rollup_scan_events('2024-05-01', '2024-05-02', '{}', '{}', true);
ROLLBACK;
SELECT * FROM pg_temp.event_differences('2024-05-01', '2024-05-02');

-- Nothing in the range; a range that is empty or upside down.
SELECT * FROM ecstats.rollup_scan_events('2023-01-01', '2023-01-02', '{page_view}', '{page_view,click}', true);
SELECT kind, a, b FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-02', '{page_view}', '{}', true);
SELECT kind, a, b FROM ecstats.rollup_scan_events('2024-05-03', '2024-05-02', '{page_view}', '{}', true);
-- Without users there are neither users nor numbers.
SELECT kind, count(*) > 0 AS rows FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{click}', false) GROUP BY kind ORDER BY kind;
-- Numbers are 1 to the number of names.
SELECT min(a) = 1 AND max(a) = count(*) AND count(DISTINCT a) = count(*) AS dense
FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true) WHERE kind = 'n';

-- What is refused.
SELECT * FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{click,NULL}', '{}', true);
SELECT * FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{click,NULL}', true);
SELECT count(*) FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', NULL, true);
CREATE ROLE regress_rollup_reader;
GRANT USAGE ON SCHEMA ecstats TO regress_rollup_reader;
GRANT EXECUTE ON FUNCTION ecstats.rollup_scan_events(timestamptz, timestamptz, text[], text[], boolean, text[]) TO regress_rollup_reader;
SET ROLE regress_rollup_reader;
SELECT count(*) FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', false);
RESET ROLE;
GRANT SELECT ON ecstats.events TO regress_rollup_reader;
ALTER TABLE ecstats.events ENABLE ROW LEVEL SECURITY;
SET ROLE regress_rollup_reader;
SELECT count(*) FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', false);
RESET ROLE;
ALTER TABLE ecstats.events DISABLE ROW LEVEL SECURITY;
SET ROLE regress_rollup_reader;
SELECT count(*) FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', false) WHERE kind = 't';
RESET ROLE;
DROP OWNED BY regress_rollup_reader;
DROP ROLE regress_rollup_reader;
CREATE FOREIGN DATA WRAPPER rollup_nothing;
CREATE SERVER rollup_nowhere FOREIGN DATA WRAPPER rollup_nothing;
CREATE FOREIGN TABLE ecstats.rollup_d9 PARTITION OF ecstats.events FOR VALUES FROM ('2024-05-09') TO ('2024-05-10') SERVER rollup_nowhere;
SELECT * FROM ecstats.rollup_scan_events('2024-05-09', '2024-05-10', '{}', '{}', true);
SELECT a > 0 AS not_opened FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true) WHERE kind = 't';
DROP FOREIGN DATA WRAPPER rollup_nothing CASCADE;

-- Numbers that names have are kept, also one without a name; others come after them, in the order of the names.
SELECT kind, name, a FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true, '{nobody,"",e40,page_view}') WHERE kind = 'n' AND name IN ('e1', 'e10', 'e40', 'page_view') ORDER BY a;
SELECT count(*) FROM (
	SELECT n.name, u.event_no FROM (SELECT * FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true, '{nobody,"",e40,page_view}') OFFSET 0) r
	 CROSS JOIN LATERAL ecstats.rollup_users_unpack(r.packed) u
	  LEFT JOIN (SELECT name, a FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-03', '{}', '{}', true, '{nobody,"",e40,page_view}') WHERE kind = 'n'
				 UNION ALL VALUES ('e40', 3), ('page_view', 4)) n ON n.a = u.event_no
	 WHERE r.kind = 'u') x WHERE name IS NULL;

-- ---------------------------------------------------------------- blocks
-- Ids are in the order of their bytes, whatever they share and however long they are; borders are decided by the ids.
CREATE TEMP TABLE odd_ids (id text COLLATE "C" PRIMARY KEY);
INSERT INTO odd_ids SELECT left(p || repeat(m, i % 13) || i, 128)
  FROM generate_series(1, 1500) i, unnest('{"",u,customer:0000000000000000,客户,ÿ}'::text[]) p, unnest('{"",x,12345678,é}'::text[]) m ON CONFLICT DO NOTHING;
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-06-01 12:00', id, 'click' FROM odd_ids ORDER BY md5(id);
CREATE TEMP TABLE odd AS SELECT * FROM ecstats.rollup_scan_events('2024-06-01', '2024-06-02', '{}', '{}', true) WHERE kind = 'u';
SELECT array_agg(u.user_id ORDER BY o.name COLLATE "C", u.n) = (SELECT array_agg(id ORDER BY id) FROM odd_ids) AS in_order, sum(u.event_count) = (SELECT count(*) FROM odd_ids) AS whole
  FROM odd o CROSS JOIN LATERAL ecstats.rollup_users_unpack(o.packed) WITH ORDINALITY u(user_id, event_no, event_count, n);
SELECT count(*) BETWEEN 150 AND 700 AS some_blocks, max(length(packed)) < 4500 AS small, sum(a) = (SELECT count(*) FROM odd_ids) AS all_ids FROM odd;
-- One user less, and one more, touch the blocks that they are in.
DELETE FROM ecstats.events WHERE user_id = (SELECT id FROM odd_ids ORDER BY id OFFSET 3000 LIMIT 1);
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-06-01 12:00', 'u-new', 'click');
SELECT count(*) BETWEEN 1 AND 6 AS few_blocks FROM (
	SELECT packed FROM ecstats.rollup_scan_events('2024-06-01', '2024-06-02', '{}', '{}', true) WHERE kind = 'u' EXCEPT SELECT packed FROM odd) d;
SELECT ecstats.rollup_gone((SELECT array_agg(packed ORDER BY name COLLATE "C") FROM odd), array_agg(packed ORDER BY name COLLATE "C"))
		= array(SELECT id::text FROM odd_ids ORDER BY id OFFSET 3000 LIMIT 1) AS gone,
	ecstats.rollup_gone(array_agg(packed ORDER BY name COLLATE "C"), (SELECT array_agg(packed ORDER BY name COLLATE "C") FROM odd)) AS come,
	ecstats.rollup_among('{0,u-new,u1,zz}', array_agg(packed ORDER BY name COLLATE "C")) AS among, ecstats.rollup_among('{}', '{}') AS nobody
  FROM ecstats.rollup_scan_events('2024-06-01', '2024-06-02', '{}', '{}', true) WHERE kind = 'u';
DELETE FROM ecstats.events WHERE event_time >= '2024-06-01';
-- What is no block. A good one: a 1 x 3; ab 5 x 130.
SELECT * FROM ecstats.rollup_users_unpack('\x0163000161020103010162030582010a');
SELECT * FROM ecstats.rollup_users_unpack('\x01630001610201030101620305820100');
SELECT * FROM ecstats.rollup_users_unpack('\x016300016102010301016203058201');
SELECT * FROM ecstats.rollup_ids_unpack('\x016e00016103010162ffffffffffffffff7f');
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	d text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' | ', sqlstate, sqlerrm, d);
END
$$;
SELECT c.packed, pg_temp.refusal(format('SELECT count(*) FROM ecstats.rollup_users_unpack(%L)', c.packed))
FROM unnest('{"","\\x01","\\x0263","\\x0164","\\x016e","\\x0163","\\x016300","\\x01630001","\\x0163000161","\\x016301016100","\\x0163000161020003","\\x01630001610200","\\x01630001610401030001","\\x016300016102010000016102","\\x0163000161020103000161020103","\\x01630001620201030001610201","\\x0163000162020103010002","\\x016300016103010380","\\x0163000161030181008001","\\x016300016102010380ffff0361","\\x01630001610681ffffff0f01","\\x0163000161090180808080808080807f"}'::bytea[])
	WITH ORDINALITY c (packed, i) ORDER BY c.i;
SELECT pg_temp.refusal($$SELECT * FROM ecstats.rollup_ids_unpack('\x016300016102010301016203058201')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_gone('{NULL}', '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_among('{a,NULL}', '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_gone(ARRAY['\x01630001620201030101620201030a', '\x016300016102010301016203058201']::bytea[], '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_gone(ARRAY['\x01630001620201030102636302010a', '\x016300016102010301016203058201']::bytea[], '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_gone('{"\\x0163"}', '{}')$$);
-- Random bytes are refused or read, and never more than that.
SELECT count(*) AS tried FROM (
	SELECT pg_temp.refusal(format('SELECT (SELECT count(*) FROM ecstats.rollup_users_unpack(%L)), (SELECT count(*) FROM ecstats.rollup_ids_unpack(%L)), ecstats.rollup_among(''{a,b}'', ARRAY[%1$L]::bytea[])',
		'\x0163'::bytea || substring(sha256(i::text::bytea) FROM 1 FOR i % 32), '\x016e'::bytea || substring(sha256(i::text::bytea) FROM 1 FOR i % 32)))
	FROM generate_series(1, 2000) i) r;

-- ---------------------------------------------------------------- seen first
-- Merged into what is stored: a stays, b comes earlier, c is new, d was only seen on the day and is not any more, e moves to its next day.
CREATE FUNCTION pg_temp.day_blocks(user_ids text[]) RETURNS SETOF ecstats.user_day LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2024-06-01 12:00', u, 'click' FROM unnest(user_ids) u;
	RETURN QUERY SELECT NULL::date, name, a::int, packed FROM ecstats.rollup_scan_events('2024-06-01', '2024-06-02', '{}', '{}', true) WHERE kind = 'u';
	DELETE FROM ecstats.events WHERE event_time >= '2024-06-01';
END
$$;
CREATE FUNCTION pg_temp.merge(the_day date, user_ids text[], gone text[], next date[], OUT what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM ecstats.user_day WHERE day = the_day;
	INSERT INTO ecstats.user_day SELECT the_day, first_user, users, packed FROM pg_temp.day_blocks(user_ids);
	CREATE TEMP TABLE m AS SELECT * FROM ecstats.rollup_first_merge_stored(the_day, gone, next);
	DELETE FROM ecstats.first_seen_block f USING m WHERE m.kind = 'x' AND m.first_user = f.first_user;
	INSERT INTO ecstats.first_seen_block SELECT m.first_user, m.users, m.packed FROM m WHERE m.kind = 'b';
	RETURN QUERY SELECT format('%s: %s', m.of_day, m.users) FROM m WHERE m.kind = 'd' ORDER BY m.of_day;
	RETURN QUERY SELECT format('not stored, %s: %s', c.of_day, c.users) FROM ecstats.rollup_first_merge(the_day, ecstats.rollup_users(the_day)) c;
	DROP TABLE m;
END
$$;
SET datestyle = 'ISO';
SELECT pg_temp.merge('2024-06-05', '{b,e}', '{}', '{}');
SELECT pg_temp.merge('2024-06-01', '{a,d,e}', '{}', '{}');
SELECT user_id, day FROM ecstats.first_seen ORDER BY 1;
SELECT pg_temp.merge('2024-06-01', '{a,b,c}', '{d,e}', '{NULL,2024-06-05}');
SELECT user_id, day FROM ecstats.first_seen ORDER BY 1;
SELECT pg_temp.merge('2024-06-01', '{a,b,c}', '{}', '{}');
SELECT pg_temp.merge('2024-06-01', '{}', '{a,b,c}', '{NULL,NULL,NULL}');
SELECT pg_temp.merge('2024-06-05', '{}', '{a,e}', '{NULL,NULL}');
SELECT count(*) FROM ecstats.first_seen_block;
-- Many: against plain SQL, in three random orders of days.
SELECT setseed(0.5);
CREATE TEMP TABLE seen AS SELECT date '2024-06-01' + (i % 9) AS day, 'u' || floor(random() * 4000)::int AS user_id FROM generate_series(1, 9000) i;
DO $$
BEGIN
	FOR attempt IN 1 .. 3 LOOP
		TRUNCATE ecstats.first_seen_block;
		PERFORM pg_temp.merge(d, array(SELECT DISTINCT s.user_id FROM seen s WHERE s.day = d), '{}', '{}')
		   FROM (SELECT DISTINCT day AS d FROM seen ORDER BY 1) x ORDER BY md5(attempt || x.d::text);
		IF EXISTS ((SELECT user_id, min(day) FROM seen GROUP BY 1) EXCEPT (SELECT user_id, day FROM ecstats.first_seen)) OR
		   (SELECT count(*) FROM ecstats.first_seen) <> (SELECT count(DISTINCT user_id) FROM seen) OR
		   (SELECT sum(users) FROM ecstats.first_seen_block) <> (SELECT count(DISTINCT user_id) FROM seen) THEN
			RAISE 'first_seen is wrong in attempt %', attempt;
		END IF;
	END LOOP;
END
$$;
SELECT ecstats.rollup_without('{a,b,c}', '{b}') AS without, ecstats.rollup_without('{a,b,c}', '{0,a,bb,c,d}') AS w2, ecstats.rollup_without('{}', '{a}') AS w3, ecstats.rollup_without('{a}', '{}') AS w4;
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge('1999-12-29', '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge('infinity', '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge_stored('2024-06-01', '{a}', '{}')$$);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge('2024-06-01', '{"\\x016e"}')$$);
-- A block that is not where its ids belong would have users twice.
UPDATE ecstats.first_seen_block SET first_user = 'zz' WHERE first_user = (SELECT min(first_user) FROM ecstats.first_seen_block);
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge('2024-06-01', '{}')$$);
UPDATE ecstats.first_seen_block SET first_user = (SELECT min(id COLLATE "C") FROM ecstats.rollup_ids_unpack(packed)) WHERE first_user = 'zz';
INSERT INTO ecstats.first_seen_block SELECT 'u1', 2, '\x016e00027531010001797a01';
SELECT pg_temp.refusal($$SELECT ecstats.rollup_first_merge('2024-06-01', '{}')$$);
TRUNCATE ecstats.first_seen_block, ecstats.user_day;
-- Such blocks of a day, whose ids would be counted in rounds without an end.
INSERT INTO ecstats.daily_kpi (day) VALUES ('2024-06-01');
INSERT INTO ecstats.order_day VALUES ('2024-06-01', 'o', 'a', 2, '\x016e0001610100017a01'), ('2024-06-01', 'o', 'm', 1, '\x016e00016d01');
SELECT pg_temp.refusal($$SELECT * FROM ecstats.rollup_period('2024-06-01', '2024-06-02')$$);
UPDATE ecstats.order_day SET packed = '\x016e00016101' WHERE first_id = 'a';
SELECT orders FROM ecstats.rollup_period('2024-06-01', '2024-06-02');
UPDATE ecstats.order_day SET first_id = 'b' WHERE first_id = 'a';
SELECT pg_temp.refusal($$SELECT * FROM ecstats.rollup_period('2024-06-01', '2024-06-02')$$);
TRUNCATE ecstats.daily_kpi, ecstats.order_day;
-- What is no text in this encoding does not become one.
SELECT pg_temp.refusal($$SELECT * FROM ecstats.rollup_ids_unpack('\x016e0001ff00')$$);
SELECT pg_temp.refusal($$SELECT * FROM ecstats.rollup_users_unpack('\x016300034100420201')$$);
-- Ids that were chosen to begin a block do not make a row each.
SELECT count(*) > 200 AS many, (SELECT count(*) FROM pg_temp.day_blocks(array_agg(name))) < count(*) / 6 AS few_blocks FROM odd;

-- ---------------------------------------------------------------- order lines
CREATE FUNCTION pg_temp.expected_orders(from_time timestamptz, to_time timestamptz, abnormal text[])
	RETURNS TABLE (kind text, product_id text, region text, channel text, quantity bigint, amount text, orders bigint, buyers bigint, refund text)
	LANGUAGE sql AS $$
	WITH l AS (SELECT * FROM ecstats.order_lines WHERE order_time >= from_time AND order_time < to_time)
	SELECT 't', NULL, NULL, NULL, coalesce(sum(quantity) FILTER (WHERE quantity > 0), 0), coalesce(sum(amount) FILTER (WHERE quantity > 0), 0)::text,
		count(DISTINCT order_id) FILTER (WHERE quantity > 0), count(DISTINCT user_id) FILTER (WHERE quantity > 0),
		coalesce(- sum(amount) FILTER (WHERE quantity < 0), 0)::text FROM l
	UNION ALL SELECT 'r', NULL, NULL, NULL, NULL, NULL, count(DISTINCT order_id), NULL, NULL FROM l WHERE quantity < 0
	UNION ALL SELECT 'a', NULL, NULL, NULL, NULL, NULL, count(DISTINCT order_id), NULL, NULL FROM l WHERE quantity > 0 AND status = ANY (abnormal)
	UNION ALL SELECT 'p', NULL, NULL, NULL, NULL, coalesce(sum(amount), 0)::text, count(DISTINCT order_id), count(DISTINCT user_id), NULL
		FROM ecstats.order_lines WHERE paid_time >= from_time AND paid_time < to_time AND quantity > 0
	UNION ALL SELECT 's', product_id, region, channel, coalesce(sum(quantity) FILTER (WHERE quantity > 0), 0),
		coalesce(sum(amount) FILTER (WHERE quantity > 0), 0)::text, count(DISTINCT order_id) FILTER (WHERE quantity > 0),
		count(DISTINCT user_id) FILTER (WHERE quantity > 0), coalesce(- sum(amount) FILTER (WHERE quantity < 0), 0)::text
		FROM l GROUP BY product_id, region, channel
$$;
-- Money is compared as text: the display scale counts.
CREATE FUNCTION pg_temp.order_differences(from_time timestamptz, to_time timestamptz, abnormal text[] DEFAULT '{complaint,failed}')
	RETURNS TABLE (side text, kind text, product_id text, region text, channel text, quantity bigint, amount text, orders bigint, buyers bigint, refund text)
	LANGUAGE sql AS $$
	WITH g AS MATERIALIZED (SELECT kind::text, product_id, region, channel, quantity, amount::text, orders, buyers, refund::text
			FROM ecstats.rollup_scan_orders(from_time, to_time, abnormal)),
		w AS MATERIALIZED (SELECT * FROM pg_temp.expected_orders(from_time, to_time, abnormal))
	(SELECT 'only C', g.* FROM g EXCEPT ALL SELECT 'only C', w.* FROM w)
	UNION ALL (SELECT 'only SQL', w.* FROM w EXCEPT ALL SELECT 'only SQL', g.* FROM g)
$$;

SELECT setseed(0.25);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time)
SELECT 'o' || i / 3, i % 3, t.at, CASE WHEN random() < 0.8 THEN 'buyer-' || floor(power(random(), 2) * 700)::int END,
	(ARRAY['p', '商品', ''])[1 + i % 2] || floor(random() * 30)::int, (ARRAY['north', '华东', 'unknown'])[1 + floor(random() * 3)::int],
	(ARRAY['app', 'web'])[1 + floor(random() * 2)::int], q.n,
	sign(q.n) * CASE floor(random() * 6)::int
		WHEN 0 THEN floor(random() * 1000)::numeric
		WHEN 1 THEN round((random() * 100)::numeric, 1)
		WHEN 2 THEN 0.00
		ELSE round((random() * 10000)::numeric, 2) END,
	(ARRAY['placed', 'paid', 'complaint', 'failed'])[1 + floor(random() * 4)::int],
	CASE WHEN random() < 0.7 THEN t.at + random() * interval '30 hours' END
FROM generate_series(1, 9000) i,
	LATERAL (SELECT timestamptz '2024-05-01' + i * interval '29 s' + floor(random() * 3)::int * interval '1 s' AS at) t,
	LATERAL (SELECT CASE WHEN random() < 0.15 THEN -1 - i % 4 ELSE 1 + i % 7 END AS n) q;
DELETE FROM ecstats.order_lines WHERE line_no = 2 AND product_id LIKE '%7';
ANALYZE ecstats.order_lines;

SELECT * FROM pg_temp.order_differences('2024-05-01', '2024-05-02');
SELECT * FROM pg_temp.order_differences('2024-05-02', '2024-05-03');
SELECT * FROM pg_temp.order_differences('2024-05-02 01:00', '2024-05-03', '{}');
SELECT * FROM pg_temp.order_differences('-infinity', 'infinity');
SELECT * FROM pg_temp.order_differences('2023-05-02', '2023-05-03');
-- The blocks of orders and buyers have everybody's roles.
SELECT b.kind, b.side, count(*) FROM (
	WITH l AS (SELECT *, order_time >= '2024-05-02' AND order_time < '2024-05-03' AS here, coalesce(paid_time >= '2024-05-02' AND paid_time < '2024-05-03' AND quantity > 0, false) AS paid FROM ecstats.order_lines),
	g AS MATERIALIZED (SELECT o.kind::text, u.id, u.number FROM ecstats.rollup_scan_orders('2024-05-02', '2024-05-03', '{complaint,failed}', true) o CROSS JOIN LATERAL ecstats.rollup_ids_unpack(o.packed) u WHERE o.kind IN ('o', 'b')),
	w AS MATERIALIZED (SELECT 'o', order_id, (max((here AND quantity > 0)::int) + 2 * max((here AND quantity < 0)::int) + 4 * max((here AND quantity > 0 AND status IN ('complaint', 'failed'))::int) + 8 * max(paid::int))::bigint
			FROM l WHERE here OR paid GROUP BY order_id
		UNION ALL SELECT 'b', user_id, (max((here AND quantity > 0)::int) + 8 * max(paid::int))::bigint FROM l WHERE user_id IS NOT NULL AND (here AND quantity > 0 OR paid) GROUP BY user_id)
	(SELECT 'only C' AS side, g.* FROM g EXCEPT ALL SELECT 'only C', w.* FROM w) UNION ALL (SELECT 'only SQL', w.* FROM w EXCEPT ALL SELECT 'only SQL', g.* FROM g)) b(side, kind, id, roles) GROUP BY 1, 2;
SELECT kind, count(*) > 3 AS blocks, sum(quantity) > 500 AS ids FROM ecstats.rollup_scan_orders('2024-05-02', '2024-05-03', '{}', true) WHERE kind IN ('o', 'b') GROUP BY 1 ORDER BY 1;
SELECT * FROM ecstats.rollup_scan_orders('2023-01-01', '2023-01-02', '{failed}');
SELECT * FROM ecstats.rollup_scan_orders('2023-01-01', '2023-01-02', '{NULL}');

-- Money of every form: long, tiny, negative powers, many scales, beyond 64 bits together.
TRUNCATE ecstats.order_lines;
-- beyond what the CHECK lets in
ALTER TABLE ecstats.order_lines DROP CONSTRAINT order_lines_valid;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, paid_time)
SELECT 'o' || i, 2 * g + (s > 0)::int, '2024-05-01 10:00', 'b', 'p' || g, 'r', 'c', s, s * a.amount, '2024-05-01 11:00'
FROM unnest('{0,0.0,0.000,1.50,2.5,10000,1000000000000,9999999999999999,0.0001,0.00012,0.000000000001,12345678.123456,99999999999999.99,9000000000000000,0.1000,10.10,1200.0000,123456789012}'::numeric[])
		WITH ORDINALITY a (amount, i),
	generate_series(0, 3) g, unnest('{1,-1}'::int[]) s
WHERE a.i % 4 = g OR g = 0;
SELECT * FROM pg_temp.order_differences('2024-05-01', '2024-05-02');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount)
SELECT 'big' || i, i, '2024-05-01 10:00', 'p0', 2147483647, 9000000000000000.0 FROM generate_series(1, 3000) i;
SELECT * FROM pg_temp.order_differences('2024-05-01', '2024-05-02');
SELECT amount, refund FROM ecstats.rollup_scan_orders('2024-05-01', '2024-05-02', '{}') WHERE kind = 't';

-- ---------------------------------------------------------------- a session that calls often
DO $$
DECLARE
	before bigint;
	grown bigint;
BEGIN
	FOR i IN 1 .. 220 LOOP
		PERFORM count(*) FROM ecstats.rollup_scan_events('2024-05-02', '2024-05-02 01:00', '{click}', '{page_view,click}', true) r,
			LATERAL ecstats.rollup_users_unpack(r.packed) WHERE r.kind = 'u';
		PERFORM count(*) FROM ecstats.rollup_scan_orders('2024-05-01', '2024-05-02', '{failed}', true);
		IF i = 20 THEN
			SELECT sum(used_bytes) INTO before FROM pg_backend_memory_contexts;
		END IF;
	END LOOP;
	SELECT sum(used_bytes) - before INTO grown FROM pg_backend_memory_contexts;
	IF grown > 200000 THEN
		RAISE EXCEPTION '200 calls left % bytes', grown;
	END IF;
END
$$;
SELECT count(*) AS contexts_left FROM pg_backend_memory_contexts WHERE name LIKE 'ecstats rollup%';

SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
