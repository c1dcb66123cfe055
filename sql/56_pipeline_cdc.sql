-- sql/56_pipeline_cdc.sql
-- Orders that arrive by logical replication. It matches tables by qualified name, so a publisher's orders land
-- in a table of that very name; a trigger that also fires for an apply worker brings them to ecstats.order_lines.
--
-- What holds after every transaction: a row of the landing table has either its line, or a row of
-- ecstats.rejects (source 'land:' and the table's name) that is the row as it landed. A row that turns bad
-- loses its line: the publisher no longer says what the line said.
--
-- Whose rights: the trigger's function (src/landing.c) turns the row into JSON as whoever applies, because that
-- may call casts of the table's owner, and hands it to ecstats.pipeline_land, which runs as the extension's owner
-- and which nobody else may call: it believes what it is told of the table. Firing the trigger wants the profile
-- writer, as ecstats_order does of an app.

-- ecstats.pipeline_land_payload: a landed row as ecstats_order's payload, by a mapping of entries
-- 'column=landed column' and 'column:=constant'. key_only: the line's key, the rest harmless.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_payload(mapping text[], landed jsonb, key_only boolean) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	head jsonb;
	item jsonb;
	zone text;
	entry text;
	skipped record;
	local_time constant text := '^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?$';
BEGIN
	FOREACH entry IN ARRAY mapping LOOP
		IF starts_with(entry, 'timezone=') THEN
			zone := substr(entry, 10);
		END IF;
	END LOOP;
	-- A time that the clock skips is no instant. Moved to one, it could be another row's: two rows, one line.
	IF zone IS NOT NULL THEN
		SELECT m[1] AS target, t.at INTO skipped
		  FROM unnest(mapping) u
		 CROSS JOIN LATERAL regexp_match(u, '^(order_time|paid_time)(:?)=(.*)$') m
		 CROSS JOIN LATERAL (SELECT CASE WHEN m[2] = ':' THEN m[3] ELSE landed ->> m[3] END AS at) t
		 WHERE (m[1] = 'order_time' OR NOT key_only) AND CASE WHEN t.at ~ local_time THEN t.at::timestamp AT TIME ZONE zone AT TIME ZONE zone <> t.at::timestamp END
		 LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION '% does not exist: the clock skips it', skipped.target
				USING ERRCODE = 'invalid_datetime_format', SCHEMA = 'ecstats', TABLE = 'order_lines', COLUMN = skipped.target,
					  DETAIL = format('Value: "%s" in %s.', skipped.at, zone),
					  HINT = 'Let times land with their offset, or correct the row; timezone= must name the clock that wrote them.';
		END IF;
	END IF;
	WITH entries AS (			-- what stands before and behind the first =, and whether that is :=
		SELECT rtrim(left(m, eq - 1), ':') AS target,
			   CASE WHEN substr(m, eq - 1, 1) = ':' THEN to_jsonb(substr(m, eq + 1)) ELSE landed -> substr(m, eq + 1) END AS value
		  FROM (SELECT u AS m, strpos(u, '=') AS eq FROM unnest(mapping) u) x
	), sent AS (
		SELECT e.target,
			   CASE WHEN e.target IN ('line_no', 'quantity') AND jsonb_typeof(e.value) = 'string' AND e.value #>> '{}' ~ '^(0|-?[1-9][0-9]{0,9})$'		-- 01 beside 1 would be two rows, one line
						THEN to_jsonb((e.value #>> '{}')::bigint)
					WHEN e.target IN ('order_time', 'paid_time') AND zone IS NOT NULL
						 AND e.value #>> '{}' ~ local_time
						THEN to_jsonb((e.value #>> '{}')::timestamp AT TIME ZONE zone)
					WHEN e.target = 'extra' AND jsonb_typeof(e.value) = 'string' THEN (e.value #>> '{}')::jsonb
					ELSE e.value END AS value
		  FROM entries e
		 WHERE e.value <> 'null' AND e.target NOT IN ('on_error', 'timezone', 'deletes')
		   AND (NOT key_only OR e.target IN ('order_id', 'line_no', 'order_time'))
	)
	SELECT jsonb_object_agg(s.target, s.value) FILTER (WHERE s.target NOT IN ('line_no', 'product_id', 'quantity', 'amount')),
		   jsonb_object_agg(s.target, s.value) FILTER (WHERE s.target IN ('line_no', 'product_id', 'quantity', 'amount'))
	  INTO head, item
	  FROM sent s;
	item := '{"line_no": 1}' || coalesce(item, '{}');
	IF key_only THEN
		item := item || '{"product_id": "-", "quantity": 1, "amount": 0}';
	END IF;
	RETURN coalesce(head, '{}') || jsonb_build_object('items', jsonb_build_array(item));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_payload(text[], jsonb, boolean) IS
	'A landed row as a payload of ecstats_order with one item, by a mapping; key_only: for the key of its line alone. Class 22 for a text that is no time or no JSON, or a time that the clock skips.';

-- ecstats.pipeline_land_forget: the landed row is no more: its line goes, or what was kept of it as a reject.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_forget(landing text, mapping text[], landed jsonb) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	line record;
	lines bigint := 0;
BEGIN
	DELETE FROM ecstats.rejects r
	 WHERE left(r.source, 5) = 'land:' AND r.source = 'land:' || landing AND r.payload = landed;
	IF FOUND THEN
		RETURN 0;				-- a line of that key is somebody else's
	END IF;
	BEGIN
		SELECT p.* INTO line FROM ecstats.order_parse(ecstats.pipeline_land_payload(mapping, landed, true), false) p;
		DELETE FROM ecstats.order_lines l
		 WHERE l.order_id = line.order_id AND l.line_no = line.line_no AND l.order_time IS NOT DISTINCT FROM line.order_time;
		GET DIAGNOSTICS lines = ROW_COUNT;
	EXCEPTION WHEN data_exception THEN
		NULL;					-- it has no key: it never had a line
	END;
	RETURN lines;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_forget(text, text[], jsonb) IS
	'Deletes the reject of a landed row, or its line where it has none; returns lines deleted.';

-- ecstats.pipeline_land_over: were the order lines of all days of a line, of its order and of its payment, dropped?
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_over(order_time timestamptz, paid_time timestamptz) RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
	RETURN EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(order_time) AND s.orders_dropped)
	   AND (paid_time IS NULL OR EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = ecstats.day_of(paid_time) AND s.orders_dropped));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_over(timestamptz, timestamptz) IS
	'True where retention has dropped the order lines of the day of an order and of that of its payment, if any.';

-- ecstats.pipeline_land: takes a row of a landing table from what it was to what it is; NULL: it was not, or is
-- no more. Result: lines changed. Errors, with on_error=raise (the default): as ecstats_order, the row named.
-- Called by src/landing.c alone, and granted to nobody. A row of days whose order lines were dropped by
-- retention gets no line: whether it is touched at the publisher once more, or copied anew, it has had its time.
-- No sequential scan: an initial copy is one transaction, and its plans are those of a table that was empty. An
-- instant compared by IS NOT DISTINCT FROM tempts no index of times: a thousand orders may share one.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land(landing text, old_mapping text[], old_row jsonb, new_mapping text[], new_row jsonb)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	lines bigint := 0;
	same_key boolean := false;
	line record;
	was ecstats.order_lines;
	is_new boolean;
	code text;
	message text;
	more text;
	advice text;
	of_column text;
	of_constraint text;
BEGIN
	IF landing IS NULL OR (old_row IS NOT NULL AND old_mapping IS NULL) OR (new_row IS NOT NULL AND new_mapping IS NULL) THEN
		RAISE EXCEPTION 'a landed row needs its table and its mapping' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	-- Before any look: retention drops lines under a lock that this one waits for.
	LOCK TABLE ecstats.order_lines IN ROW EXCLUSIVE MODE;
	IF old_row IS NOT NULL THEN
		BEGIN
			same_key := ecstats.pipeline_land_payload(old_mapping, old_row, true) = ecstats.pipeline_land_payload(new_mapping, new_row, true);
		EXCEPTION WHEN data_exception THEN
			NULL;				-- one of the two has no key
		END;
		IF same_key IS NOT TRUE THEN
			lines := ecstats.pipeline_land_forget(landing, old_mapping, old_row);
		END IF;
	END IF;
	IF new_row IS NULL THEN
		RETURN lines;
	END IF;

	BEGIN
		SELECT p.* INTO line FROM ecstats.order_parse(ecstats.pipeline_land_payload(new_mapping, new_row, false), true) p;
		SELECT * INTO was FROM ecstats.order_lines l
		 WHERE l.order_id = line.order_id AND l.line_no = line.line_no AND l.order_time IS NOT DISTINCT FROM line.order_time;
		is_new := NOT FOUND;
		IF is_new AND ecstats.pipeline_land_over(line.order_time, line.paid_time) THEN
			IF same_key THEN
				PERFORM ecstats.pipeline_land_forget(landing, old_mapping, old_row);	-- what it may have left as a reject
			END IF;
			RETURN lines;
		END IF;
		-- A line that says it already is not even proposed: the CHECK would mark its days.
		IF is_new OR (was.user_id, was.product_id, was.region, was.channel, was.quantity, was.amount, was.status, was.paid_time, was.extra)
			IS DISTINCT FROM
			(line.user_id, line.product_id, line.region, line.channel, line.quantity, line.amount, line.status, line.paid_time, line.extra) THEN
			INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel,
											 quantity, amount, status, paid_time, extra)
			VALUES (line.order_id, line.line_no, line.order_time, line.user_id, line.product_id, line.region, line.channel,
					line.quantity, line.amount, line.status, line.paid_time, line.extra)
			ON CONFLICT (order_id, line_no, order_time) DO UPDATE
			   SET user_id = excluded.user_id, product_id = excluded.product_id, region = excluded.region,
				   channel = excluded.channel, quantity = excluded.quantity, amount = excluded.amount,
				   status = excluded.status, paid_time = excluded.paid_time, extra = excluded.extra;
			lines := lines + 1;
		END IF;
		IF same_key THEN						-- it may have been bad so far
			DELETE FROM ecstats.rejects r
			 WHERE left(r.source, 5) = 'land:' AND r.source = 'land:' || landing AND r.payload = old_row;
		END IF;
		RETURN lines;
	EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
		GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL,
			advice = PG_EXCEPTION_HINT, of_column = COLUMN_NAME, of_constraint = CONSTRAINT_NAME;
	END;
	more := regexp_replace(more, '^Item 1\. ', '');
	IF 'on_error=quarantine' <> ALL (new_mapping) THEN
		RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, SCHEMA = 'ecstats', TABLE = 'order_lines',
			COLUMN = of_column, CONSTRAINT = of_constraint,
			DETAIL = concat_ws(' ', nullif(more, ''), format('Row of %s: %s.', landing,
				CASE WHEN length(new_row::text) > 300 THEN left(new_row::text, 300) || '...' ELSE new_row::text END)),
			HINT = concat_ws(' ', nullif(advice, ''),
				'on_error=quarantine keeps such rows in ecstats.rejects; ALTER SUBSCRIPTION ... SKIP leaves this transaction out.');
	END IF;
	IF same_key THEN
		lines := lines + ecstats.pipeline_land_forget(landing, old_mapping, old_row);
	END IF;
	INSERT INTO ecstats.rejects (source, payload, sqlstate, reason)
	VALUES ('land:' || landing, new_row, code, concat_ws(' ', message || '.', nullif(more, ''), nullif(advice, '')));
	RETURN lines;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land(text, text[], jsonb, text[], jsonb) IS
	'Takes a row of a landing table from its old to its new state (NULL: none) into ecstats.order_lines or ecstats.rejects; returns lines changed.';

-- The trigger of a landing table, AFTER INSERT OR UPDATE OR DELETE for each row and BEFORE TRUNCATE for the
-- statement; ecstats_land_orders makes both.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_order() RETURNS trigger
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ecstats_land_order';
COMMENT ON FUNCTION ecstats.pipeline_land_order() IS
	'Trigger of a landing table, made by ecstats_land_orders: brings its rows to ecstats.order_lines. Arguments: the mapping.';

CREATE OR REPLACE FUNCTION ecstats.pipeline_land_rows(landing regclass, old_mapping text[], new_mapping text[]) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ecstats_land_rows';
COMMENT ON FUNCTION ecstats.pipeline_land_rows(regclass, text[], text[]) IS
	'Takes every row of a landing table of the caller''s from one mapping to another; returns lines changed. 42501 unless the caller owns the table.';
