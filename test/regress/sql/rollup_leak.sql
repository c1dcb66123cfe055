-- The scans take no memory that they do not give back, however often a session runs them.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
SET timezone = 'UTC';
SET search_path = pg_catalog, public, pg_temp;
UPDATE ecstats.config SET timezone = 'UTC';

INSERT INTO ecstats.events (event_time, user_id, event)
SELECT '2024-05-06 00:00:00+00'::timestamptz + i * interval '1 minute', 'user-' || i % 90, (ARRAY['view_item', 'add_to_cart', 'purchase'])[1 + i % 3]
  FROM generate_series(1, 400) i;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount, paid_time)
SELECT 'o' || i / 2, i % 2, '2024-05-06 00:00:00+00'::timestamptz + i / 2 * interval '1 minute', 'user-' || i % 90, 'p' || i % 20, 1, 1.25,
	   '2024-05-06 23:00:00+00'
  FROM generate_series(1, 200) i;

-- What is in use is measured three times by the same statement: when it is warm, after 100 runs and after 1,000, all
-- inside one statement, so that what a call leaves in its caller's contexts adds up too.
CREATE FUNCTION pg_temp.growth(query text) RETURNS TABLE (runs integer, rows bigint, grown bigint) LANGUAGE plpgsql AS $$
DECLARE
	earlier bigint;
	latest bigint;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXECUTE 'SELECT count(*) FROM ' || query INTO rows;
		runs := i;
		IF i IN (50, 100, 1000) THEN
			earlier := latest;
			latest := (SELECT sum(c.used_bytes) FROM pg_backend_memory_contexts c);
		END IF;
	END LOOP;
	grown := latest - earlier;
	RETURN NEXT;
END
$$;
\set from '''2024-05-06 00:00+00'', ''2024-05-07 00:00+00'''
SELECT g.runs, g.rows > 5 AS has_rows, g.grown FROM pg_temp.growth($$ecstats.rollup_scan_events($$ || :'from' || $$, '{view_item}', '{view_item,add_to_cart,purchase}', true)$$) g;
SELECT g.runs, g.rows > 5 AS has_rows, g.grown FROM pg_temp.growth($$ecstats.rollup_scan_events($$ || :'from' || $$, '{view_item}', '{view_item,add_to_cart,purchase}', false)$$) g;
SELECT g.runs, g.rows > 5 AS has_rows, g.grown FROM pg_temp.growth($$ecstats.rollup_scan_orders($$ || :'from' || $$, '{cancelled}')$$) g;
-- The measure finds what stays: here a lock a run, until the end of the statement.
SELECT g.grown > 900 AS found FROM pg_temp.growth('(SELECT pg_advisory_xact_lock_shared((2 ^ 30 * random())::bigint)) s') g;

DROP EXTENSION ecstats CASCADE;
