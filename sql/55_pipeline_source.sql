-- sql/55_pipeline_source.sql
-- From sources to events and orders: the intake's own rules, the day as a whole.

-- ecstats.pipeline_reject: keeps what a run could not take; what is kept already stays as it is.
-- Result: the ids of all of them.
CREATE OR REPLACE FUNCTION ecstats.pipeline_reject(the_source text, the_day date, bad jsonb) RETURNS bigint[]
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	ids bigint[];
BEGIN
	WITH b AS MATERIALIZED (
		SELECT DISTINCT ON (e -> 'payload') e -> 'payload' AS payload, e ->> 'sqlstate' AS sqlstate, e ->> 'reason' AS reason
		  FROM jsonb_array_elements(bad) e
	), known AS MATERIALIZED (			-- each by the index, which is in the column's collation, not the caller's
		SELECT b.*, k.ids
		  FROM b
		 CROSS JOIN LATERAL (SELECT array_agg(r.id) AS ids FROM ecstats.rejects r
							  WHERE r.source = the_source COLLATE "default" AND r.day = the_day AND jsonb_hash(r.payload) = jsonb_hash(b.payload)
								AND r.payload = b.payload AND r.sqlstate = b.sqlstate) k
	), added AS (
		INSERT INTO ecstats.rejects (source, day, payload, sqlstate, reason)
		SELECT the_source, the_day, k.payload, k.sqlstate, k.reason FROM known k WHERE k.ids IS NULL
		RETURNING id
	)
	SELECT coalesce(array_agg(i.id), '{}') INTO ids
	  FROM (SELECT a.id FROM added a UNION ALL SELECT unnest(k.ids) FROM known k) i;
	RETURN ids;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_reject(text, date, jsonb) IS
	'Keeps bad elements [{payload, sqlstate, reason}] of a source''s day in ecstats.rejects, each once, and returns their ids.';

-- ecstats.pipeline_unreject: a run has seen the whole day; what it did not meet again is no reject any more.
CREATE OR REPLACE FUNCTION ecstats.pipeline_unreject(the_source text, the_day date, met bigint[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone bigint[] := ARRAY(SELECT r.id FROM ecstats.rejects r WHERE r.source = the_source COLLATE "default" AND r.day = the_day EXCEPT SELECT unnest(met));
BEGIN
	DELETE FROM ecstats.rejects r USING unnest(gone) g(id) WHERE r.id = g.id;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_unreject(text, date, bigint[]) IS 'Drops the rejects of a source''s day that its latest run did not meet.';

-- ecstats.pipeline_take_events: stores events of a source. Result: events taken (stored before or not); bad elements.
CREATE OR REPLACE FUNCTION ecstats.pipeline_take_events(payload jsonb, raise_errors boolean, at timestamptz, OUT taken bigint, OUT bad jsonb)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stored bigint;
	conflicts jsonb;
	clock timestamptz := clock_timestamp();		-- every element is judged by this
BEGIN
	PERFORM ecstats.event_partitions_try(ecstats.event_days_wanted(payload, at), at);
	WITH parsed AS MATERIALIZED (
		SELECT * FROM ecstats.event_parse(payload, raise_errors, clock)
	), stored_rows AS (
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra FROM parsed p WHERE p.sqlstate IS NULL
		ON CONFLICT DO NOTHING
		RETURNING 1
	)
	SELECT count(*) FILTER (WHERE p.sqlstate IS NULL), (SELECT count(*) FROM stored_rows),
		   coalesce(jsonb_agg(jsonb_build_object('payload', p.payload_element, 'sqlstate', p.sqlstate, 'reason', p.reason) ORDER BY p.ord)
					FILTER (WHERE p.sqlstate IS NOT NULL), '[]')
	  INTO taken, stored, bad
	  FROM parsed p;
	IF stored = taken THEN
		RETURN;
	END IF;
	SELECT coalesce(jsonb_agg(jsonb_build_object('payload', payload -> (c.ord - 1), 'sqlstate', '23505',
			'reason', format('an event with this key is stored with other content. event_id %s. Give every event an event_id of its own; correct a stored one with UPDATE.', c.event_id))
			ORDER BY c.ord), '[]') INTO conflicts
	  FROM ecstats.event_conflicts(payload, clock) c;
	IF raise_errors AND conflicts <> '[]' THEN
		RAISE EXCEPTION 'an event with this key is stored with other content'
			USING ERRCODE = 'unique_violation', SCHEMA = 'ecstats', TABLE = 'events', COLUMN = 'event_id',
				  DETAIL = format('Element: %s.', left(conflicts -> 0 ->> 'payload', 200)),
				  HINT = 'Give every event an event_id of its own; correct a stored one with UPDATE.';
	END IF;
	bad := bad || conflicts;
	taken := taken - jsonb_array_length(conflicts);
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_events(jsonb, boolean, timestamptz) IS
	'Stores events of a source: how many were taken (stored before or not), and the bad elements, those whose key is stored with other content among them.';

-- ecstats.pipeline_collect_query: takes a day of a source of kind query, whose row is locked. Result: rows taken.
CREATE OR REPLACE FUNCTION ecstats.pipeline_collect_query(s ecstats.sources, the_day date, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role oid := ecstats.source_role(s);
	from_time timestamptz := ecstats.day_start(the_day);
	to_time timestamptz := ecstats.day_start(the_day + 1);
	zone text := (SELECT c.timezone FROM ecstats.config c);
	timeout_ms integer := greatest(extract(epoch FROM s.timeout) * 1000, 1);
	mark timestamptz := ecstats.source_watermark(s, the_day, at);
	said timestamptz;
	taken bigint := 0;
	met bigint[] := '{}';
	keys bigint[] := '{}';
	part record;
	b jsonb;
BEGIN
	PERFORM ecstats.source_pin(s);
	-- First how far the source is, then its rows: what commits in between is not claimed to be here.
	-- No farther than has been taken, whatever the source says of days that nobody asked for.
	IF s.watermark_query IS NOT NULL THEN
		said := ecstats.source_instant(s.name, role, s.watermark_query, from_time, to_time, zone, timeout_ms);
		mark := CASE WHEN said IS NULL THEN s.watermark ELSE least(said, mark) END;
	END IF;
	FOR b IN SELECT r.batch FROM ecstats.source_rows(s.target, s.name, role, s.query, from_time, to_time, zone, timeout_ms) r LOOP
		IF s.target = 'orders' THEN
			SELECT * INTO part FROM ecstats.pipeline_take_orders(b, s.on_error = 'raise');
			keys := keys || part.keys;
		ELSE
			SELECT * INTO part FROM ecstats.pipeline_take_events(b, s.on_error = 'raise', at);
		END IF;
		taken := taken + part.taken;
		IF part.bad <> '[]' THEN
			met := met || ecstats.pipeline_reject(s.name, the_day, part.bad);
		END IF;
	END LOOP;
	PERFORM ecstats.pipeline_keys_once(s.name, keys);
	-- A row that could not be read may be a line that is stored: then nothing goes.
	IF s.options -> 'replace' = 'true' AND met = '{}' THEN
		PERFORM ecstats.pipeline_replace(s, the_day, keys);
	END IF;
	PERFORM ecstats.pipeline_unreject(s.name, the_day, met);
	PERFORM ecstats.source_ran(s.name, the_day, taken, mark, at);
	RETURN taken;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_collect_query(ecstats.sources, date, timestamptz) IS
	'Runs the query of a source for a day and takes its rows in: how many. The source''s row is locked.';

-- ecstats_collect: takes a business day of a source again, as a whole.
-- Arguments: source, a name in ecstats.sources; day. Result: kind query: rows taken (stored before or not); kind
-- http: the id of the fetch that was queued for the pusher. Errors: 25000 not READ COMMITTED, 42704 no such source, 55000 disabled, 22023 no
-- such day, 57014 time-out, P0002 nothing came where options.replace would empty the day; what the query raises; with on_error 'raise' what is wrong with a row.
-- Touches ecstats.sources, source_fetches, events, order_lines, rejects.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_collect(source text, day date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s ecstats.sources;
	at timestamptz;
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats_collect takes a day of a source');		-- the watermark speaks of now
	s := ecstats.source_lock(source);
	at := clock_timestamp();
	IF day IS NULL OR NOT isfinite(day) OR day < date '1999-12-30' OR ecstats.day_start(day) > at THEN
		RAISE EXCEPTION 'no such business day, or it has not begun'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(day::text, 'NULL')), HINT = 'Give a date from 2000 to today.';
	END IF;
	IF s.kind = 'http' THEN
		PERFORM ecstats.source_pin(s);
		RETURN ecstats.source_queue(source, day, at);
	END IF;
	RETURN ecstats.pipeline_collect_query(s, day, at);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_collect(text, date) IS
	'Takes a business day of a source again and upserts it. Kind query: returns rows taken; kind http: queues a fetch for the pusher and returns its id. 25000, 42704, 55000, 22023, 57014.';
