-- The proof of stored figures: it finds what was done to any of them, a row each, and nothing where all is right.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
\pset format unaligned
\pset null '-'
\set SHOW_CONTEXT never

SELECT * FROM ecstats_verify();		-- nothing stored, nothing wrong

SELECT ecstats_prepare('2026-03-02', '2026-03-03');
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT ecstats.day_start('2026-03-01') + n * interval '97 minutes', 'u' || n % 23, (ARRAY['login', 'view_item', 'add_to_cart', 'begin_checkout', 'page_view', 'unlisted'])[1 + n % 6]
  FROM generate_series(0, 70) n;
SELECT ecstats_order((SELECT jsonb_agg(jsonb_build_object('order_id', i, 'order_time', ecstats.day_start('2026-03-01') + i * interval '53 minutes',
	'paid_time', CASE WHEN i % 3 > 0 THEN ecstats.day_start('2026-03-01') + i * interval '71 minutes' END, 'user_id', 'u' || i % 29, 'region', 'r' || i % 2,
	'status', CASE WHEN i % 10 = 7 THEN 'cancelled' ELSE 'placed' END,
	'items', jsonb_build_array(jsonb_build_object('product_id', 'p' || i % 3, 'quantity', CASE WHEN i % 9 = 0 THEN -1 ELSE 2 END, 'amount', CASE WHEN i % 9 = 0 THEN -3.5 ELSE i / 8.0 END))))
	FROM generate_series(0, 90) i));
SELECT day, event_count, order_count, revision FROM ecstats_daily('2026-03-04');
SELECT count(*) FROM ecstats.daily_kpi;
SELECT * FROM ecstats_verify();
SELECT * FROM ecstats_verify('2026-03-02', '2026-03-03');

-- one thing at a time, and all of it back: tampered(statement) prints what a proof finds meanwhile
CREATE PROCEDURE pg_temp.tampered(statement text, from_day date DEFAULT NULL, to_day date DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	r record;
	n bigint;
BEGIN
	BEGIN
		EXECUTE statement;
		GET DIAGNOSTICS n = ROW_COUNT;
		RAISE NOTICE '% rows:%', n, rtrim(statement);
		FOR r IN SELECT * FROM ecstats_verify(from_day, to_day) LOOP
			RAISE NOTICE '  %', r;
		END LOOP;
		RAISE 'undo' USING ERRCODE = 'ZZ000';
	EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
		NULL;
	END;
END
$$;
\set VERBOSITY terse
CALL pg_temp.tampered($$ UPDATE ecstats.daily_kpi SET gmv = gmv + 0.001, uv = 5 WHERE day = '2026-03-02' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_kpi SET new_user_count = 1, aov = NULL WHERE day = '2026-03-03' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_kpi SET paid_amount = 0, abnormal_order_count = 77, conversion_rate = 3 WHERE day = '2026-03-01' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_kpi SET gmv = gmv + 0.000, revision = 9, complete = false $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.daily_kpi WHERE day = '2026-03-04' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_sales SET total_revenue = 1 WHERE day = '2026-03-02' AND product_id = 'p1' AND region = 'r0' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_sales SET buyer_count = 100, refund_amount = -1 WHERE day = '2026-03-02' AND product_id < 'p2' AND region = 'r0' $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.daily_sales WHERE day = '2026-03-02' AND product_id = 'p2' AND region = 'r1' $$);
CALL pg_temp.tampered($$ INSERT INTO ecstats.daily_sales VALUES ('2026-03-02', 'none', 'r', 'c', 0, 0, 0, 0, 0) $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_sales_by SET total_revenue = 1 WHERE day = '2026-03-02' AND dimension = 'region' AND value = 'r0' $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.daily_sales_by WHERE day = '2026-03-02' AND dimension = 'product' AND value = 'p2' $$);
CALL pg_temp.tampered($$ INSERT INTO ecstats.daily_sales_by VALUES ('2026-03-02', 'channel', 'none', 0, 0, 0) $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_events SET user_count = user_count + 1 WHERE day = '2026-03-02' AND event = 'login' $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.daily_events WHERE day = '2026-03-02' AND event = 'unlisted' $$);
CALL pg_temp.tampered($$ INSERT INTO ecstats.daily_events VALUES ('2026-03-02', 'none', 1, 1) $$);
CALL pg_temp.tampered($$ UPDATE ecstats.daily_funnel SET user_count = 100 WHERE day = '2026-03-02' AND step = 1 $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.daily_funnel WHERE day = '2026-03-02' AND step = 2 $$);
CALL pg_temp.tampered($$ INSERT INTO ecstats.daily_funnel VALUES ('2026-03-02', 9, 'none', 1) $$);
-- users' counts: other counts and users, no users, a block under a wrong key, an event's name
CALL pg_temp.tampered($$ UPDATE ecstats.user_day SET packed = (SELECT d.packed FROM ecstats.user_day d WHERE d.day = '2026-03-03' ORDER BY d.first_user LIMIT 1) WHERE (day, first_user) = (SELECT d.day, min(d.first_user) FROM ecstats.user_day d WHERE d.day = '2026-03-04' GROUP BY d.day) $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.user_day WHERE day = '2026-03-04' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.user_day SET users = 3 WHERE day = '2026-03-04' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.user_day SET first_user = 'a' WHERE (day, first_user) = (SELECT d.day, min(d.first_user) FROM ecstats.user_day d WHERE d.day = '2026-03-04' GROUP BY d.day) $$);
CALL pg_temp.tampered($$ UPDATE ecstats.event_names SET event = 'other' WHERE event = 'unlisted' $$, '2026-03-04', '2026-03-04');
CALL pg_temp.tampered($$ DELETE FROM ecstats.event_names WHERE event_no = (SELECT max(n.event_no) FROM ecstats.event_names n) $$, '2026-03-04', '2026-03-04');
-- orders and buyers: other roles, one too many, none, a wrong key
CALL pg_temp.tampered($$ UPDATE ecstats.order_day SET packed = (SELECT d.packed FROM ecstats.order_day d WHERE d.day = '2026-03-04' AND d.kind = 'o' ORDER BY d.first_id LIMIT 1) WHERE (day, kind, first_id) = (SELECT d.day, d.kind, min(d.first_id) FROM ecstats.order_day d WHERE d.day = '2026-03-03' AND d.kind = 'o' GROUP BY d.day, d.kind) $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.order_day WHERE day = '2026-03-04' AND kind = 'o' $$);
CALL pg_temp.tampered($$ UPDATE ecstats.order_day SET ids = 1, first_id = first_id || 'x' WHERE day = '2026-03-04' $$);
-- first days: later, earlier than the user was there, missing, of a user that nobody saw
CREATE FUNCTION pg_temp.first_seen_merge(the_day date, gone text[], next date[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE aside AS SELECT * FROM ecstats.user_day WHERE day = the_day;
	DELETE FROM ecstats.user_day WHERE day = the_day;
	WITH m AS MATERIALIZED (SELECT * FROM ecstats.rollup_first_merge_stored(the_day, gone, next)),
	dropped AS (DELETE FROM ecstats.first_seen_block f USING m WHERE m.kind = 'x' AND f.first_user = m.first_user
				AND NOT EXISTS (SELECT FROM m b WHERE b.kind = 'b' AND b.first_user = m.first_user))
	INSERT INTO ecstats.first_seen_block SELECT m.first_user, m.users, m.packed FROM m WHERE m.kind = 'b'
	ON CONFLICT (first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed;
	INSERT INTO ecstats.user_day SELECT * FROM aside;
	DROP TABLE aside;
END
$$;
CALL pg_temp.tampered($$ SELECT pg_temp.first_seen_merge('2026-03-01', '{u1}', '{2026-03-03}') $$);
CALL pg_temp.tampered($$ SELECT pg_temp.first_seen_merge('2026-03-02', '{u20}', '{2026-03-01}') $$);
CALL pg_temp.tampered($$ SELECT pg_temp.first_seen_merge('2026-03-02', '{u20}', '{NULL}') $$);
CALL pg_temp.tampered($$ SELECT pg_temp.first_seen_merge('2026-03-01', '{u1}', '{2026-03-03}') $$, '2026-03-02', '2026-03-02');
CALL pg_temp.tampered($$ UPDATE ecstats.first_seen_block SET users = 3, first_user = 'a' WHERE first_user = (SELECT min(f.first_user) FROM ecstats.first_seen_block f) $$);
-- weeks and months: a figure, a distinct count, a row too few, a row too many
CALL pg_temp.tampered($$ UPDATE ecstats.weekly_kpi SET gmv = 1, uv = 1 WHERE day = '2026-03-02' $$);
CALL pg_temp.tampered($$ DELETE FROM ecstats.monthly_kpi $$, '2026-03-02', '2026-03-02');
CALL pg_temp.tampered($$ INSERT INTO ecstats.monthly_kpi (day) VALUES ('2026-05-01') $$);
CALL pg_temp.tampered($$ UPDATE ecstats.monthly_kpi SET payer_count = 0 $$, '2026-03-02', '2026-03-02');
CALL pg_temp.tampered($$ UPDATE ecstats.weekly_kpi SET payer_count = 0 $$, '2026-03-02', '2026-03-02');
CALL pg_temp.tampered($$ DELETE FROM ecstats.first_seen_block $$, '2026-03-02', '2026-03-02');
-- rows of a day that was never closed
CALL pg_temp.tampered($$ INSERT INTO ecstats.daily_events VALUES ('2026-02-02', 'none', 1, 1) $$);
-- only what is asked for
CALL pg_temp.tampered($$ UPDATE ecstats.daily_kpi SET pv = 1000 $$, '2026-03-02', '2026-03-03');
SELECT * FROM ecstats_verify();

-- the raw rows changed since: found, and said to be waiting; then it is not
\set VERBOSITY default
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 06:00+00', 'late', 'login');
DELETE FROM ecstats.order_lines WHERE order_id = '5';
SELECT day, relation, key, stored, recomputed FROM ecstats_verify();
-- a day with data that is not closed is no error of stored figures
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-06 06:00+00', 'late', 'login');
SELECT count(*) > 0 AS differs FROM ecstats_verify('2026-03-02', '2026-03-10');
SELECT day FROM ecstats_daily('2026-03-06');
SELECT * FROM ecstats_verify();

-- a changed vocabulary holds from a day's next computation: until then the proof says what it would change
UPDATE ecstats.event_types SET is_page_view = true WHERE event = 'login';
SELECT * FROM ecstats_verify('2026-03-02', '2026-03-02');
UPDATE ecstats.event_types SET is_page_view = false WHERE event = 'login';

-- what cannot be recomputed is left out, and said: events gone (orders are still held), all gone
DROP TABLE ecstats.events_20260302;
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20260303;
UPDATE ecstats.day_state SET frozen = true, orders_dropped = true WHERE day = '2026-03-04';
SELECT * FROM ecstats_verify();
UPDATE ecstats.daily_kpi SET gmv = 0, uv = 0, new_user_count = 0;
UPDATE ecstats.daily_sales SET total_sold = 0 WHERE product_id = 'p1' AND region = 'r0';
SELECT * FROM ecstats_verify('2026-03-02', '2026-03-04');
-- a partition that comes back is held again
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.events_20260303 FOR VALUES FROM ('2026-03-02 16:00+00') TO ('2026-03-03 16:00+00');
SELECT * FROM ecstats_verify('2026-03-03', '2026-03-03');
-- whatever the session writes dates like, it writes nothing
SET datestyle = 'SQL, DMY';
SET default_transaction_read_only = on;
SELECT count(*) FROM ecstats_verify('2026-03-03', '2026-03-03');
RESET default_transaction_read_only;
