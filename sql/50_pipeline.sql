-- sql/50_pipeline.sql
-- The only place where areas meet.

-- ecstats_retry_rejects: takes those rejects that are valid now.
-- Arguments: source 'track' or 'order', NULL for both. Result: rejects taken in. Rejects that are still bad
-- stay, with today's reason, and so do orders that were sent again since. Touches ecstats.rejects and what the intake touches.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_retry_rejects(source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
	r record;
	taken bigint := 0;
	code text;
	message text;
	more text;
	cure text;
BEGIN
	IF source IS NOT NULL AND source NOT IN ('track', 'order') THEN
		RAISE EXCEPTION 'rejects of this source are not retried'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(source, 60)),
				  HINT = 'Sources are track and order; leave it out for both. Rejects of a source are taken by its next run (ecstats_collect), of a landed table by themselves.';
	END IF;
	-- All the locks of orders at once, as an intake takes them: one by one they would meet it in a deadlock.
	PERFORM ecstats.order_lock_buckets(array(
		SELECT DISTINCT b FROM ecstats.rejects j, unnest(ecstats.order_buckets(j.payload)) AS b
		 WHERE j.source = 'order' AND j.day IS NULL AND jsonb_typeof(j.payload) = 'object'
		   AND (ecstats_retry_rejects.source IS NULL OR ecstats_retry_rejects.source = 'order')
		 ORDER BY b));
	FOR r IN SELECT j.id, j.source AS origin, j.payload FROM ecstats.rejects j
			  WHERE j.source IN ('track', 'order') AND j.day IS NULL	-- those of a source belong to its next run
				AND (ecstats_retry_rejects.source IS NULL OR j.source = ecstats_retry_rejects.source)
				AND jsonb_typeof(j.payload) = 'object'		-- else it was no element and is none now
			  ORDER BY j.source, CASE j.source WHEN 'order' THEN -j.id ELSE j.id END FOR UPDATE LOOP
		-- An order that was stored since is newer than its reject, and so is a reject of it that came later.
		IF r.origin = 'order' THEN
			PERFORM ecstats.order_lock(r.payload);		-- of one that came since, too: before the look
		END IF;
		CONTINUE WHEN r.origin = 'order' AND EXISTS (
			SELECT FROM ecstats.order_parse(r.payload, false) p
			 WHERE p.sqlstate IS NULL AND EXISTS (		-- one look into the key's index, see ecstats.order_store
				SELECT FROM ecstats.order_lines l
				 WHERE l.order_id = p.order_id AND l.order_time IS NOT DISTINCT FROM p.order_time OFFSET 0));
		BEGIN
			IF r.origin = 'track' THEN
				PERFORM @extschema@.ecstats_track(r.payload, 'raise');
			ELSE
				PERFORM @extschema@.ecstats_order(r.payload, 'raise');
			END IF;
			DELETE FROM ecstats.rejects j WHERE j.id = r.id;
			taken := taken + 1;
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL, cure = PG_EXCEPTION_HINT;
			message := concat_ws(' ', message || '.', nullif(more, ''), nullif(cure, ''));
			UPDATE ecstats.rejects j SET sqlstate = code, reason = message WHERE j.id = r.id AND (j.sqlstate, j.reason) <> (code, message);
		END;
	END LOOP;
	RETURN taken;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_retry_rejects(text) IS
	'Takes in the rejects of a source (track, order, or NULL for both) that are valid now and returns how many; the others stay.';


-- ecstats_daily: closes a business day.
-- First closes, in order, every ended day before it that has data and is not closed, and computes every
-- closed day whose rows changed since; then their weeks and months; then users are scored. Its reports are queued at its first close.
-- Arguments: day (default: yesterday). Result: its row of ecstats.daily_kpi. Errors: 22023 for a day that has
-- not ended. Touches the rollup tables, and the deliveries of its reports.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_daily(day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	at timestamptz := clock_timestamp();
	due date[];
	d date;
	closed record;
	moved date[] := '{}';			-- days whose number of new users changed by what happened to others
	moved_users bigint[] := '{}';
	is_new boolean := false;
	caught_up date[] := '{}';
	result ecstats.daily_kpi;
BEGIN
	PERFORM ecstats.day_must_have_ended(day, at);
	PERFORM ecstats.must_be_read_committed('ecstats_daily closes days');
	PERFORM ecstats.rollup_lock();
	PERFORM ecstats.rollup_partitioned();

	due := array(SELECT ecstats.rollup_open_days(day)
				 UNION SELECT ecstats.rollup_stale_days()
				 UNION SELECT day WHERE NOT EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day)
				 ORDER BY 1);
	FOREACH d IN ARRAY due LOOP
		SELECT * INTO STRICT closed FROM ecstats.rollup_close(d, at);
		moved := moved || closed.moved;
		moved_users := moved_users || closed.moved_users;
		IF closed.first AND d = day THEN
			is_new := true;
		ELSIF closed.first THEN
			caught_up := caught_up || d;
		END IF;
	END LOOP;
	PERFORM ecstats.rollup_put_new_users(moved, moved_users, due, at);
	PERFORM ecstats.rollup_periods(due, at);
	PERFORM ecstats.rollup_settle(at);
	PERFORM ecstats.pipeline_score(day, due || moved);
	-- What is told comes last: it may speak of the week and the month.
	IF is_new THEN
		PERFORM ecstats.pipeline_queue_reports(day);
	END IF;
	IF caught_up <> '{}' THEN
		PERFORM ecstats.pipeline_caught_up(day, caught_up);
	END IF;

	SELECT * INTO STRICT result FROM ecstats.daily_kpi k WHERE k.day = ecstats_daily.day;
	RETURN result;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_daily(date) IS
	'Closes a business day (default yesterday) after every earlier one that is open and has data, computes again what changed, scores users, queues its reports at the first close; returns its row. 22023 for a day that has not ended, 25000 unless READ COMMITTED.';

-- ecstats.day_must_have_ended: 22023 unless the day is over.
CREATE OR REPLACE FUNCTION ecstats.day_must_have_ended(day date, at timestamptz) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF day IS NULL OR NOT isfinite(day) OR day < date '1999-12-30' THEN
		RAISE EXCEPTION 'no such business day'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Day: %s.', coalesce(day::text, 'NULL')),
				  HINT = 'Give a date from 2000 on.';
	END IF;
	IF ecstats.day_start(day + 1) > at THEN
		RAISE EXCEPTION 'the business day has not ended'
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('Day %s ends at %s.', day, ecstats.day_start(day + 1)),
				  HINT = 'SELECT * FROM ecstats_today() computes the running day and writes nothing.';
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.day_must_have_ended(date, timestamptz) IS '22023 unless the business day is over at an instant.';

-- ecstats.pipeline_figures: the figures of a day that is not closed, with its new users, from one scan of its
-- events. Writes nothing.
CREATE OR REPLACE FUNCTION ecstats.pipeline_figures(the_day date) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	k ecstats.daily_kpi;
	from_time timestamptz := ecstats.day_start(the_day);
	to_time timestamptz := ecstats.day_start(the_day + 1);
	-- Days that have ended and are not closed yet know their users only as raw rows.
	open_days date[] := array(SELECT ecstats.rollup_open_days(the_day));
	event_totals jsonb;
	order_totals jsonb;
	users bytea[];
	new_users bigint;
BEGIN
	WITH e AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_scan_events(from_time, to_time, ecstats.rollup_page_views(), '{}', true)
	)
	SELECT (SELECT jsonb_object_agg(e.kind, jsonb_build_object('a', e.a, 'b', e.b)) FROM e WHERE e.kind IN ('t', 'v')),
		   (SELECT coalesce(array_agg(e.packed ORDER BY e.name COLLATE "C"), '{}') FROM e WHERE e.kind = 'u')
	  INTO event_totals, users;
	SELECT m.users INTO STRICT new_users FROM ecstats.rollup_first_merge(the_day, users) m WHERE m.of_day = the_day;
	IF open_days <> '{}' THEN
		new_users := new_users - (SELECT count(*) FROM (
			SELECT u.user_id FROM unnest(users) b CROSS JOIN LATERAL ecstats.rollup_users_unpack(b) u
			INTERSECT
			SELECT u.user_id FROM unnest(open_days) d
			 CROSS JOIN LATERAL ecstats.rollup_scan_events(ecstats.day_start(d), ecstats.day_start(d + 1), '{}', '{}', true) e
			 CROSS JOIN LATERAL ecstats.rollup_users_unpack(e.packed) u WHERE e.kind = 'u') known
		 WHERE NOT EXISTS (SELECT FROM ecstats.first_seen f WHERE f.user_id = known.user_id AND f.day < the_day));
	END IF;
	SELECT jsonb_object_agg(o.kind, to_jsonb(o) - 'kind') INTO order_totals
	  FROM ecstats.rollup_scan_orders(from_time, to_time, ecstats.rollup_abnormal()) o
	 WHERE o.kind IN ('t', 'r', 'a', 'p');

	k := ecstats.rollup_kpi(the_day, event_totals, order_totals);
	k.new_user_count := new_users;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_figures(date) IS 'Figures of a day that is not closed, as a row of daily_kpi with revision 0; writes nothing.';

-- ecstats_today: the running business day so far.
-- Result: a row like those of ecstats.daily_kpi, revision 0, not complete. Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_today() RETURNS ecstats.daily_kpi
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
	$$ SELECT ecstats.pipeline_figures(ecstats.day_of(clock_timestamp())) $$;
COMMENT ON FUNCTION @extschema@.ecstats_today() IS
	'Figures of the running business day so far, as a row of daily_kpi with revision 0; writes nothing.';

-- ecstats.pipeline_live: what a report needs of a day that has begun and is not closed; NULL for others.
CREATE OR REPLACE FUNCTION ecstats.pipeline_live(the_day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	from_time timestamptz;
	to_time timestamptz;
BEGIN
	IF the_day IS NULL OR NOT the_day BETWEEN date '1999-12-30' AND ecstats.day_of(clock_timestamp())
		OR EXISTS (SELECT FROM ecstats.daily_kpi k WHERE k.day = the_day) THEN
		RETURN NULL;
	END IF;
	from_time := ecstats.day_start(the_day);
	to_time := ecstats.day_start(the_day + 1);
	RETURN jsonb_build_object(
		'kpi', to_jsonb(ecstats.pipeline_figures(the_day)),
		'at', ecstats.report_timestamp(clock_timestamp(), (SELECT c.timezone FROM ecstats.config c)),
		'sales', (SELECT coalesce(jsonb_agg(jsonb_build_object('day', the_day, 'product_id', o.product_id, 'region', o.region,
							'channel', o.channel, 'total_sold', o.quantity, 'total_revenue', o.amount, 'order_count', o.orders,
							'buyer_count', o.buyers, 'refund_amount', o.refund)), '[]')
					FROM ecstats.rollup_scan_orders(from_time, to_time, '{}') o WHERE o.kind = 's'),
		'funnel', (SELECT coalesce(jsonb_agg(jsonb_build_object('day', the_day, 'step', e.a, 'event', e.name, 'user_count', e.b)), '[]')
					 FROM ecstats.rollup_scan_events(from_time, to_time, '{}', ecstats.rollup_funnel(), false) e WHERE e.kind = 'f'));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_live(date) IS
	'{kpi, sales, funnel, at} of a business day that has begun and is not closed, from raw rows; NULL for a closed or a coming one. Writes nothing.';

