-- sql/42_order.sql
-- Intake of orders as JSON.

-- ecstats.order_lock: one writer at a time for the same order, so that two replacements never mix their
-- lines. 1,024 locks for all orders: a batch must not fill the lock table.
CREATE OR REPLACE FUNCTION ecstats.order_lock(payload jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bucket integer;
BEGIN
	FOR bucket IN SELECT DISTINCT hashtext(p.order_id) & 1023
					FROM ecstats.order_parse(payload, false) p WHERE p.sqlstate IS NULL ORDER BY 1 LOOP
		PERFORM pg_advisory_xact_lock(hashtext('ecstats.order_lines'), bucket);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.order_lock(jsonb) IS 'Waits until no other transaction replaces an order of this payload.';

-- ecstats.order_replace: the lines of each (order_id, order_time) become those of the payload.
CREATE OR REPLACE FUNCTION ecstats.order_replace(payload jsonb, raise_errors boolean) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH parsed AS MATERIALIZED (
		SELECT p.*, max(p.ord) OVER (PARTITION BY p.order_id, p.order_time) AS last_ord
		  FROM ecstats.order_parse(payload, raise_errors) p
	), good AS (				-- an order that is sent twice: the last one holds
		SELECT * FROM parsed p WHERE p.sqlstate IS NULL AND p.ord = p.last_ord
	), removed AS (
		DELETE FROM ecstats.order_lines l
		 USING (SELECT DISTINCT g.order_id, g.order_time FROM good g) o
		 WHERE l.order_id = o.order_id AND l.order_time = o.order_time
		   AND NOT EXISTS (SELECT FROM good g WHERE g.order_id = l.order_id AND g.order_time = l.order_time
												AND g.line_no = l.line_no)
		RETURNING 1
	), written AS (
		INSERT INTO ecstats.order_lines AS l (order_id, line_no, order_time, user_id, product_id, region, channel,
											  quantity, amount, status, paid_time, extra)
		SELECT g.order_id, g.line_no, g.order_time, g.user_id, g.product_id, g.region, g.channel,
			   g.quantity, g.amount, g.status, g.paid_time, g.extra
		  FROM good g WHERE g.line_no IS NOT NULL
		ON CONFLICT (order_id, line_no, order_time) DO UPDATE
		   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
			   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
			   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra
		 WHERE (l.user_id, l.product_id, l.region, l.channel, l.quantity, l.amount, l.status, l.paid_time, l.extra)
			   IS DISTINCT FROM
			   (excluded.user_id, excluded.product_id, excluded.region, excluded.channel, excluded.quantity,
				excluded.amount, excluded.status, excluded.paid_time, excluded.extra)
		RETURNING 1
	), rejected AS (
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'order', p.payload_element, p.sqlstate, p.reason
		  FROM parsed p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord
	)
	SELECT (SELECT count(*) FROM removed) + (SELECT count(*) FROM written) $$;
COMMENT ON FUNCTION ecstats.order_replace(jsonb, boolean) IS
	'Replaces the lines of every order of a payload and returns the lines changed; bad orders go to ecstats.rejects or raise.';

-- ecstats_order: stores one order or an array of them.
-- Arguments: payload, {order_id, order_time | timestamp, user_id?, region?, channel?, status?, paid_time?,
-- items: [{line_no?, product_id, quantity, amount}]} or an array of at most 100,000; on_error as in ecstats_track.
-- It replaces the lines of (order_id, order_time). Result: lines changed; a repeat returns 0.
-- Errors: as ecstats_track. Touches ecstats.order_lines, ecstats.rejects.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_order(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_order replaces orders');
	PERFORM ecstats.order_lock(payload);
	RETURN ecstats.order_replace(payload, raise_errors);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_order(jsonb, text) IS
	'Stores one order or an array of them (at most 100,000): replaces the lines of (order_id, order_time) and returns the lines changed, 0 for a repeat. on_error: raise (default) or quarantine. Errors name element, item, member and value.';

