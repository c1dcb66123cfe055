-- sql/42_order.sql
-- Intake of orders as JSON.

-- ecstats.order_lock: one writer at a time for the same order, so that two replacements never mix their
-- lines. 1,024 locks for all orders: a batch must not fill the lock table.
CREATE OR REPLACE FUNCTION ecstats.order_lock_buckets(buckets integer[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bucket integer;
BEGIN
	FOREACH bucket IN ARRAY buckets LOOP		-- sorted: no deadlock
		PERFORM pg_advisory_xact_lock(hashtext('ecstats.order_lines'), bucket);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.order_lock_buckets(integer[]) IS 'Waits until no other transaction replaces an order of these sorted buckets.';

CREATE OR REPLACE FUNCTION ecstats.order_lock(payload jsonb) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.order_lock_buckets(ecstats.order_buckets(payload)) $$;
COMMENT ON FUNCTION ecstats.order_lock(jsonb) IS 'Waits until no other transaction replaces an order of this payload.';

-- ecstats.order_line_key: a hash of a line's key, to remember which lines a run has met.
CREATE OR REPLACE FUNCTION ecstats.order_line_key(order_id text, line_no integer, order_time timestamptz) RETURNS bigint
	LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.hash_record_extended(ROW(order_id, line_no, order_time), 0) $$;
COMMENT ON FUNCTION ecstats.order_line_key(text, integer, timestamptz) IS 'A 64-bit hash of the key of an order line.';

-- ecstats.order_store: the lines of each (order_id, order_time) become those of the payload.
-- Arguments: payload as of ecstats_order; raise_errors; whole: unlisted lines go. Result: lines changed; lines
-- taken (changed or not); bad elements as [{payload, sqlstate, reason}]; where wanted, a key of each line, and the orders.
-- Touches ecstats.order_lines, and there only what differs: a repeat writes nothing and marks no day.
-- The plan is made once a session and must hold for any payload and any table: what is stored is found by the
-- key's index alone (LATERAL … OFFSET 0 and unnest() are nested loops; an instant that is compared by IS NOT
-- DISTINCT FROM tempts no other index), and old and new meet in one sort, not in a join.
CREATE OR REPLACE FUNCTION ecstats.order_store(payload jsonb, raise_errors boolean, whole boolean, want_keys boolean,
											   OUT changed bigint, OUT taken bigint, OUT bad jsonb, OUT keys bigint[],
											   OUT order_ids text[], OUT order_times timestamptz[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
	WITH parsed AS MATERIALIZED (		-- an order (a line, where not whole) that is sent twice: the last one holds
		SELECT p.*, max(p.ord) OVER (PARTITION BY p.order_id, p.order_time, CASE WHEN NOT whole THEN p.line_no END) AS last_ord
		  FROM ecstats.order_parse(payload, raise_errors) p
	), good AS (
		SELECT p.order_id COLLATE "C" AS order_id, p.line_no, p.order_time, p.user_id COLLATE "C" AS user_id,
			   p.product_id COLLATE "C" AS product_id, p.region COLLATE "C" AS region, p.channel COLLATE "C" AS channel,
			   p.quantity, p.amount, p.status, p.paid_time, p.extra
		  FROM parsed p WHERE p.sqlstate IS NULL AND p.ord = p.last_ord
	), stored AS MATERIALIZED (
		SELECT l.*
		  FROM (SELECT DISTINCT g.order_id, g.order_time FROM good g) o
		 CROSS JOIN LATERAL (SELECT * FROM ecstats.order_lines l
							  WHERE l.order_id = o.order_id AND l.order_time IS NOT DISTINCT FROM o.order_time OFFSET 0) l
	), compared AS MATERIALIZED (
		SELECT b.*, lead(b.sent) OVER line AS next_is_sent, lag(b.content) OVER line AS old_content
		  FROM (SELECT g.order_id, g.line_no, g.order_time, true AS sent,
					   ROW(g.user_id, g.product_id, g.region, g.channel, g.quantity, g.amount, g.status, g.paid_time, g.extra) AS content,
					   g.user_id, g.product_id, g.region, g.channel, g.quantity, g.amount, g.status, g.paid_time, g.extra
				  FROM good g WHERE g.line_no IS NOT NULL
				UNION ALL
				SELECT s.order_id, s.line_no, s.order_time, false,
					   ROW(s.user_id, s.product_id, s.region, s.channel, s.quantity, s.amount, s.status, s.paid_time, s.extra),
					   s.user_id, s.product_id, s.region, s.channel, s.quantity, s.amount, s.status, s.paid_time, s.extra
				  FROM stored s) b
		WINDOW line AS (PARTITION BY b.order_id, b.line_no, b.order_time ORDER BY b.sent)
	), gone AS (
		SELECT array_agg(c.order_id) AS order_ids, array_agg(c.line_no) AS line_nos, array_agg(c.order_time) AS order_times
		  FROM compared c WHERE whole AND NOT c.sent AND c.next_is_sent IS NULL
	), removed AS (
		DELETE FROM ecstats.order_lines l
		 USING unnest((SELECT x.order_ids FROM gone x), (SELECT x.line_nos FROM gone x), (SELECT x.order_times FROM gone x)) d(order_id, line_no, order_time)
		 WHERE l.order_id = d.order_id AND l.line_no = d.line_no AND l.order_time IS NOT DISTINCT FROM d.order_time
		RETURNING 1
	), written AS (
		INSERT INTO ecstats.order_lines AS l (order_id, line_no, order_time, user_id, product_id, region, channel,
											  quantity, amount, status, paid_time, extra)
		SELECT c.order_id, c.line_no, c.order_time, c.user_id, c.product_id, c.region, c.channel,
			   c.quantity, c.amount, c.status, c.paid_time, c.extra
		  FROM compared c WHERE c.sent AND c.content IS DISTINCT FROM c.old_content
		 ORDER BY c.order_id, c.line_no, c.order_time
		ON CONFLICT (order_id, line_no, order_time) DO UPDATE
		   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
			   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
			   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra
		 WHERE (l.user_id, l.product_id, l.region, l.channel, l.quantity, l.amount, l.status, l.paid_time, l.extra)
			   IS DISTINCT FROM
			   (excluded.user_id, excluded.product_id, excluded.region, excluded.channel, excluded.quantity,
				excluded.amount, excluded.status, excluded.paid_time, excluded.extra)
		RETURNING 1
	), orders AS (
		SELECT DISTINCT p.order_id, p.order_time FROM parsed p WHERE want_keys AND p.sqlstate IS NULL
	)
	SELECT (SELECT count(*) FROM removed) + (SELECT count(*) FROM written),
		   count(*) FILTER (WHERE p.line_no IS NOT NULL AND p.ord = p.last_ord),
		   coalesce(jsonb_agg(jsonb_build_object('payload', p.payload_element, 'sqlstate', p.sqlstate, 'reason', p.reason) ORDER BY p.ord)
					FILTER (WHERE p.sqlstate IS NOT NULL), '[]'),
		   coalesce(array_agg(ecstats.order_line_key(p.order_id, p.line_no, p.order_time))
					FILTER (WHERE want_keys AND p.line_no IS NOT NULL), '{}'),
		   (SELECT coalesce(array_agg(o.order_id ORDER BY o.order_id, o.order_time), '{}') FROM orders o),
		   (SELECT coalesce(array_agg(o.order_time ORDER BY o.order_id, o.order_time), '{}') FROM orders o)
	  INTO changed, taken, bad, keys, order_ids, order_times
	  FROM parsed p;
END
$$;
COMMENT ON FUNCTION ecstats.order_store(jsonb, boolean, boolean, boolean) IS
	'Makes the lines of every order of a payload what it says, writing only what differs; lines changed and taken, bad elements, and a key of each line and the orders if wanted.';

-- ecstats_order: stores one order or an array of them.
-- Arguments: payload, {order_id, order_time | timestamp, user_id?, region?, channel?, status?, paid_time?,
-- items: [{line_no?, product_id, quantity, amount}]} or an array of at most 100,000; on_error as in ecstats_track.
-- It replaces the lines of (order_id, order_time). Result: lines changed; a repeat returns 0.
-- Errors: as ecstats_track. Touches ecstats.order_lines, ecstats.rejects.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_order(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
	result record;
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_order replaces orders');
	PERFORM ecstats.order_lock(payload);
	SELECT * INTO result FROM ecstats.order_store(payload, raise_errors, true, false);
	IF result.bad <> '[]' THEN
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'order', e.value -> 'payload', e.value ->> 'sqlstate', e.value ->> 'reason'
		  FROM jsonb_array_elements(result.bad) WITH ORDINALITY e(value, n) ORDER BY e.n;
	END IF;
	RETURN result.changed;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_order(jsonb, text) IS
	'Stores one order or an array of them (at most 100,000): replaces the lines of (order_id, order_time) and returns the lines changed, 0 for a repeat. on_error: raise (default) or quarantine. Errors name element, item, member and value.';

