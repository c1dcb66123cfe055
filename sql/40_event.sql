-- sql/40_event.sql
-- Intake of events as JSON.

-- ecstats.event_partitions_try: makes the partitions that ecstats.event_days_wanted found wanting. Where one cannot be
-- made (a lock was busy, rows wait in the default partition), this session does not try again for a
-- minute: a long COPY of somebody's must not cost every call 100 ms. Within a transaction block none are made:
-- everybody would wait for its end.
CREATE OR REPLACE FUNCTION ecstats.event_partitions_try(days date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d date;
BEGIN
	IF ecstats.in_transaction_block()
		OR extract(epoch FROM at) < nullif(current_setting('ecstats.next_partition_try', true), '')::numeric THEN
		RETURN;
	END IF;
	FOREACH d IN ARRAY days LOOP
		IF NOT ecstats.day_partition_exists(d) AND NOT ecstats.event_partition_try(d) THEN
			PERFORM set_config('ecstats.next_partition_try', (extract(epoch FROM at) + 60)::text, false);
			RETURN;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.event_partitions_try(date[], timestamptz) IS
	'Makes the missing partitions of recent days, NULL being none, or leaves it for a minute where one cannot be made at once.';

-- ecstats.event_conflicts: elements whose key (event_time, user_id, event_id) is stored with other
-- content. Called only when fewer rows were stored than sent. Key by key, by the index: another join would read
-- all that is stored for the sake of a few elements. The bounds are written out, so that the days outside are left
-- out when it is planned: years of partitions cost a second otherwise. at is the clock that the elements were judged by.
CREATE OR REPLACE FUNCTION ecstats.event_conflicts(payload jsonb, at timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event_id uuid)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
	SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
	from_time timestamptz;
	to_time timestamptz;
BEGIN
	SELECT min(p.event_time), max(p.event_time) INTO from_time, to_time
	  FROM ecstats.event_parse(payload, false, at) p WHERE p.sqlstate IS NULL;
	IF from_time IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('SELECT p.ord, p.event_time, p.user_id, p.event_id
		  FROM ecstats.event_parse($1, false, $2) p
		  JOIN ecstats.events e ON e.event_time = p.event_time AND e.user_id = p.user_id AND e.event_id = p.event_id
		 WHERE p.sqlstate IS NULL AND e.event_time BETWEEN %L AND %L
		   AND (e.event, e.page_url, e.extra) IS DISTINCT FROM (p.event COLLATE "C", p.page_url, p.extra)
		 ORDER BY p.ord', from_time, to_time) USING payload, at;
END
$$;
COMMENT ON FUNCTION ecstats.event_conflicts(jsonb, timestamptz) IS
	'Elements of a payload whose key is stored with other content.';

-- ecstats.event_quarantine: stores the valid elements and keeps the others as rejects. One statement, so that
-- every element is judged once.
CREATE OR REPLACE FUNCTION ecstats.event_quarantine(payload jsonb, at timestamptz, OUT valid bigint, OUT stored bigint)
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH parsed AS MATERIALIZED (
		SELECT * FROM ecstats.event_parse(payload, false, at)
	), stored_rows AS (
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra
		  FROM parsed p WHERE p.sqlstate IS NULL
		ON CONFLICT DO NOTHING
		RETURNING 1
	), rejected AS (
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'track', p.payload_element, p.sqlstate, p.reason
		  FROM parsed p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord
	)
	SELECT (SELECT count(*) FROM parsed p WHERE p.sqlstate IS NULL), (SELECT count(*) FROM stored_rows) $$;
COMMENT ON FUNCTION ecstats.event_quarantine(jsonb, timestamptz) IS
	'Stores the valid elements of a payload and puts the others into ecstats.rejects; how many are valid, and how many of these were stored.';

-- ecstats.event_insert: stores the valid elements of a payload; the others are an error (raise) or rejects. Looking
-- for a key before each row, and row by row at all, costs more than twice a COPY's insert, and batches are seldom
-- repeats: a larger one is stored in bulk first. Where that meets a key that is there (a repeated call does so at
-- its first rows), it is undone and repeats are looked for.
CREATE OR REPLACE FUNCTION ecstats.event_insert(payload jsonb, elements bigint, raise_errors boolean, at timestamptz,
												OUT valid bigint, OUT stored bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF elements >= 20 THEN
		BEGIN
			stored := ecstats.event_store(payload, raise_errors, at);
			valid := stored;
		EXCEPTION WHEN unique_violation OR SQLSTATE 'ZE001' THEN
			NULL;
		END;
	END IF;
	IF stored IS NULL AND NOT raise_errors THEN
		SELECT q.valid, q.stored INTO valid, stored FROM ecstats.event_quarantine(payload, at) q;
	ELSIF stored IS NULL THEN
		INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT p.event_time, p.user_id, p.event, p.event_id, p.page_url, p.extra
		  FROM ecstats.event_parse(payload, true, at) p
		ON CONFLICT DO NOTHING;
		GET DIAGNOSTICS stored = ROW_COUNT;
		valid := elements;		-- or it would not have come here
	ELSIF valid < elements THEN
		INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
		SELECT 'track', p.payload_element, p.sqlstate, p.reason
		  FROM ecstats.event_parse(payload, false, at) p WHERE p.sqlstate IS NOT NULL ORDER BY p.ord;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.event_insert(jsonb, bigint, boolean, timestamptz) IS
	'Stores the valid elements of a payload that has so many elements: how many are valid, and how many of these were stored; repeats are not. The others are an error (raise_errors) or go to ecstats.rejects.';

-- ecstats_track: stores one event or an array of them.
-- Arguments: payload, an object {event, timestamp, user_id, page_url?, extra?, event_id?} or an array of at
-- most 100,000; on_error 'raise' (the first bad element is an error and nothing is stored) or 'quarantine'.
-- Result: how many were stored; repeats are not. Errors: 23514, 22007, 23502, 22023 for a bad element with
-- its number and value, 23505 for a key that is stored with other content.
-- Touches ecstats.events and its partitions, ecstats.rejects.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_track(payload jsonb, on_error text DEFAULT 'raise') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	raise_errors boolean := ecstats.on_error_check(on_error);
	at timestamptz := clock_timestamp();		-- every element is judged by this
	elements bigint;
	valid bigint;
	stored bigint;
	conflict record;
BEGIN
	IF payload IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM ecstats.event_partitions_try(ecstats.event_days_wanted(payload, at), at);
	-- A statement of its own: what it unpacks of a large payload is freed at its end.
	elements := CASE jsonb_typeof(payload) WHEN 'array' THEN jsonb_array_length(payload) ELSE 1 END;
	SELECT i.valid, i.stored INTO valid, stored FROM ecstats.event_insert(payload, elements, raise_errors, at) i;
	IF stored < valid THEN
		FOR conflict IN SELECT * FROM ecstats.event_conflicts(payload, at) LOOP
			IF raise_errors THEN
				RAISE EXCEPTION 'an event with this key is stored with other content'
					USING ERRCODE = 'unique_violation', SCHEMA = 'ecstats', TABLE = 'events', COLUMN = 'event_id',
						  DETAIL = format('Element %s of the payload, event_id %s.', conflict.ord, conflict.event_id),
						  HINT = 'Give every event an event_id of its own; correct a stored one with UPDATE.';
			END IF;
			INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
			VALUES ('track', CASE jsonb_typeof(payload) WHEN 'array' THEN payload -> (conflict.ord - 1) ELSE payload END,
					'23505', format('an event with this key is stored with other content. event_id %s. '
						'Give every event an event_id of its own; correct a stored one with UPDATE.', conflict.event_id));
		END LOOP;
	END IF;
	RETURN stored;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_track(jsonb, text) IS
	'Stores one event or an array of them (at most 100,000) and returns how many were stored; repeats are not. on_error: raise (default) or quarantine. Errors 23514, 23502, 22007, 22023 name element, member and value; 23505: key stored with other content.';

