-- sql/55_pipeline_order.sql
-- Order lines of sources: stored, told apart, and taken away again.

-- ecstats.pipeline_take_orders: stores orders of a source, line by line; none goes.
-- Arguments: payload, an array as of ecstats_order; raise_errors. Result: lines taken (stored before or not); bad
-- elements; a key of each line; the orders, with their times.
CREATE OR REPLACE FUNCTION ecstats.pipeline_take_orders(payload jsonb, raise_errors boolean, OUT taken bigint, OUT bad jsonb, OUT keys bigint[],
														OUT order_ids text[], OUT order_times timestamptz[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT t.taken, t.bad, t.keys, t.order_ids, t.order_times INTO taken, bad, keys, order_ids, order_times
	  FROM ecstats.order_store(payload, raise_errors, false, true) t;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_orders(jsonb, boolean) IS
	'Upserts order lines of a source: lines taken, bad elements, a hash of each line''s key (one sent twice has two), the orders.';

-- ecstats.pipeline_keys_once: a source that gives one line twice contradicts itself: which one would hold?
CREATE OR REPLACE FUNCTION ecstats.pipeline_keys_once(the_source text, keys bigint[]) RETURNS void
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	twice bigint := cardinality(keys) - (SELECT count(DISTINCT k) FROM unnest(keys) k);
BEGIN
	IF twice > 0 THEN
		RAISE EXCEPTION 'source "%" gives order lines twice', the_source
			USING ERRCODE = 'unique_violation', DETAIL = format('%s of %s rows repeat order_id, line_no and order_time.', twice, cardinality(keys)),
				  HINT = 'Return line_no where an order has several lines; a join may multiply rows.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_keys_once(text, bigint[]) IS '23505 where a run of a source met a line''s key twice.';

-- ecstats.pipeline_orders_once: an order on several pages, or twice on one, is one order, if its lines can be told apart:
-- items that have a line_no add up. Without one they are numbered by position, so that an order must be the same
-- whenever it is met: the rest of an order would take the place of its beginning.
-- Arguments: payload, an array of orders; the_fetch, whose earlier pages count. Error: 23505.
CREATE OR REPLACE FUNCTION ecstats.pipeline_orders_once(the_source text, payload jsonb, the_fetch bigint) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	bad record;
BEGIN
	-- One sort of the page and no join of it to itself: the plan must hold for any page and any table.
	WITH page AS MATERIALIZED (
		SELECT p.order_id, p.order_time, p.ord, p.line_no, p.product_id, p.quantity, p.amount
		  FROM ecstats.order_parse(payload, false) p WHERE p.sqlstate IS NULL
	), before AS MATERIALIZED (
		SELECT l.*
		  FROM (SELECT DISTINCT p.order_id, p.order_time FROM page p WHERE EXISTS (SELECT FROM ecstats.source_pages g WHERE g.fetch_id = the_fetch)) o
		 CROSS JOIN LATERAL (SELECT * FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), parts AS (
		SELECT p.*, NOT jsonb_path_exists(payload -> (p.ord - 1), '$.items[*] ? (!exists(@.line_no) || @.line_no == null)') AS numbered FROM page p
		UNION ALL
		SELECT l.order_id, l.order_time, 0, l.line_no, l.product_id, l.quantity, l.amount, NULL
		  FROM before l
		 WHERE ecstats.order_line_key(l.order_id, l.line_no, l.order_time) IN (SELECT unnest(p.keys) FROM ecstats.source_pages p WHERE p.fetch_id = the_fetch)
	), lines AS (
		SELECT p.*, min(p.product_id) OVER line <> max(p.product_id) OVER line AS two_products
		  FROM parts p WINDOW line AS (PARTITION BY p.order_id, p.order_time, p.line_no)
	), elements AS (
		SELECT l.order_id, l.order_time, bool_and(l.numbered) AS numbered, bool_or(l.two_products) AS two_products,
			   array_agg(ROW(l.line_no, l.product_id, l.quantity, trim_scale(l.amount)) ORDER BY l.line_no)::text AS content
		  FROM lines l GROUP BY l.order_id, l.order_time, l.ord
	)
	SELECT e.order_id, e.order_time, bool_and(e.numbered) AS numbered INTO bad
	  FROM elements e GROUP BY e.order_id, e.order_time
	HAVING CASE WHEN bool_and(e.numbered) THEN bool_or(e.two_products) ELSE count(DISTINCT e.content) > 1 END
	 ORDER BY e.order_id, e.order_time LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'source "%" gives an order twice, with different lines', the_source
			USING ERRCODE = 'unique_violation', DETAIL = format('order_id %s, order_time %s UTC. %s', left(bad.order_id, 128), bad.order_time AT TIME ZONE 'UTC',
								  CASE WHEN bad.numbered THEN 'One line_no has two products.' ELSE 'Items without a line_no of their own cannot go on in another element.' END),
				  HINT = 'Map a number of each item, unique in its order, to line_no (options.item_fields, fields).';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_orders_once(text, jsonb, bigint) IS
	'23505 where orders of a page contradict each other, or what earlier pages of the fetch brought of them.';

-- ecstats.pipeline_orders_end: a fetch has seen all its pages: lines that its whole orders do not have any more go.
-- Stored lines are found by the key's index, and those to go in one aggregate, whatever a planner makes of the arrays.
CREATE OR REPLACE FUNCTION ecstats.pipeline_orders_end(the_fetch bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
	WITH orders AS (
		SELECT DISTINCT o.order_id, o.order_time
		  FROM ecstats.source_pages p, unnest(p.order_ids, p.order_times) o(order_id, order_time) WHERE p.fetch_id = the_fetch
	), stored AS MATERIALIZED (
		SELECT l.*
		  FROM orders o
		 CROSS JOIN LATERAL (SELECT l.order_id, l.line_no, l.order_time FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), gone AS MATERIALIZED (
		SELECT max(k.order_id) AS order_id, max(k.line_no) AS line_no, max(k.order_time) AS order_time
		  FROM (SELECT ecstats.order_line_key(s.order_id, s.line_no, s.order_time) AS key, s.order_id, s.line_no, s.order_time FROM stored s
				UNION ALL SELECT unnest(p.keys), NULL, NULL, NULL FROM ecstats.source_pages p WHERE p.fetch_id = the_fetch) k
		 GROUP BY k.key HAVING count(*) = count(k.order_id)
	)
	DELETE FROM ecstats.order_lines l
	 USING unnest(ARRAY(SELECT g.order_id FROM gone g), ARRAY(SELECT g.line_no FROM gone g), ARRAY(SELECT g.order_time FROM gone g)) d(order_id, line_no, order_time)
	 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_orders_end(bigint) IS 'Drops stored lines of the whole orders of a fetch that none of its pages had.';

-- ecstats.pipeline_replace: drops the order lines of a day that a run of its only source did not return.
-- Errors: 55000 where something else writes orders too; P0002 where nothing came, and the day is not empty.
CREATE OR REPLACE FUNCTION ecstats.pipeline_replace(s ecstats.sources, the_day date, keys bigint[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	others text := (SELECT string_agg(o.who, ', ' ORDER BY o.who)
					  FROM (SELECT 'source ' || r.name AS who FROM ecstats.sources r WHERE r.name <> s.name AND r.enabled AND r.target = 'orders'
							UNION ALL SELECT DISTINCT 'landing table ' || t.tgrelid::regclass FROM pg_trigger t
							 WHERE t.tgfoid = to_regprocedure('ecstats.pipeline_land_order()')) o);
BEGIN
	IF others IS NOT NULL THEN
		RAISE EXCEPTION 'source "%" is not the only one that brings orders', s.name
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('So do: %s. options.replace would drop their lines.', left(others, 300)),
				  HINT = 'Take replace out of its options, or disable the others.';
	ELSIF keys = '{}' AND (s.options -> 'replace_empty') IS DISTINCT FROM 'true'
		  AND EXISTS (SELECT FROM ecstats.order_lines l WHERE l.order_time >= ecstats.day_start(the_day) AND l.order_time < ecstats.day_start(the_day + 1)) THEN
		RAISE EXCEPTION 'source "%" returns nothing for a day that has order lines', s.name
			USING ERRCODE = 'no_data_found', DETAIL = format('Day: %s. options.replace would drop them all.', the_day),
				  HINT = 'Look at the source. If the day is empty there, set options.replace_empty and collect it again.';
	END IF;
	WITH gone AS MATERIALIZED (			-- one aggregate, whatever a planner makes of the array
		SELECT max(k.order_id) AS order_id, max(k.line_no) AS line_no, max(k.order_time) AS order_time
		  FROM (SELECT ecstats.order_line_key(l.order_id, l.line_no, l.order_time) AS key, l.order_id, l.line_no, l.order_time
				  FROM ecstats.order_lines l WHERE l.order_time >= ecstats.day_start(the_day) AND l.order_time < ecstats.day_start(the_day + 1)
				UNION ALL SELECT unnest(keys), NULL, NULL, NULL) k
		 GROUP BY k.key HAVING count(*) = count(k.order_id)
	)
	DELETE FROM ecstats.order_lines l
	 USING unnest(ARRAY(SELECT g.order_id FROM gone g), ARRAY(SELECT g.line_no FROM gone g), ARRAY(SELECT g.order_time FROM gone g)) d(order_id, line_no, order_time)
	 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_replace(ecstats.sources, date, bigint[]) IS
	'Drops order lines of a business day whose key is not among keys; 55000 where the source is not the only one, P0002 where it returned nothing.';
