-- sql/43_rollup_period.sql
-- Weeks and months. What adds up is added up over the stored days; what is distinct is counted anew over the ids that
-- each stored day left behind, never over raw rows: days whose raw rows are gone count as before. All under
-- ecstats.rollup_lock.

-- ecstats.rollup_period_start: the Monday of a day's week, the 1st of its month.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_start(kind text, day date) RETURNS date
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS
	$$ SELECT CASE WHEN kind IN ('week', 'month') THEN date_trunc(kind, day::timestamp)::date END $$;
COMMENT ON FUNCTION ecstats.rollup_period_start(text, date) IS 'First day of the week (kind week, a Monday) or month (kind month) that a business day is in.';

-- ecstats.rollup_period_end: the day after the last one of the period that begins on a day.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_end(kind text, start date) RETURNS date
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS
	$$ SELECT CASE kind WHEN 'week' THEN start + 7 WHEN 'month' THEN (start::timestamp + interval '1 month')::date END $$;
COMMENT ON FUNCTION ecstats.rollup_period_end(text, date) IS 'The day after a week or month that begins on a day.';

-- ecstats.rollup_period_sums: every period with a stored day: what adds up over these days, and whether each of them is
-- complete. One pass over daily_kpi, a few milliseconds for years of days.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_sums()
	RETURNS TABLE (kind text, day date, gmv numeric, quantity bigint, paid_amount numeric, refund_amount numeric,
		event_count bigint, pv bigint, new_user_count bigint, complete boolean)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN grouping(p.month) = 1 THEN 'week' ELSE 'month' END, coalesce(p.week, p.month), sum(p.gmv), sum(p.quantity)::bigint,
		   sum(p.paid_amount), sum(p.refund_amount), sum(p.event_count)::bigint, sum(p.pv)::bigint, sum(p.new_user_count)::bigint,
		   bool_and(p.complete)
	  FROM (SELECT date_trunc('week', k.day::timestamp)::date AS week, date_trunc('month', k.day::timestamp)::date AS month, k.*
			  FROM ecstats.daily_kpi k) p
	 GROUP BY GROUPING SETS ((p.week), (p.month)) $$;
COMMENT ON FUNCTION ecstats.rollup_period_sums() IS
	'Each week and month with a stored day: sums over its stored days, and whether all of them are complete.';

-- ecstats.rollup_period_stored: both tables as one.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_stored(OUT kind text, OUT kpi ecstats.daily_kpi) RETURNS SETOF record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'week', ROW(w.*)::ecstats.daily_kpi FROM ecstats.weekly_kpi w
	UNION ALL SELECT 'month', ROW(m.*)::ecstats.daily_kpi FROM ecstats.monthly_kpi m $$;
COMMENT ON FUNCTION ecstats.rollup_period_stored() IS 'The rows of weekly_kpi and monthly_kpi, with their kind, as rows of daily_kpi.';

-- ecstats.rollup_period_kpi: the figures of a period from its stored days, as a row that is not closed; NULL where no
-- day of it is stored. known: a row of the period whose distinct counts still hold, NULL to count them.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_kpi(kind text, start date, known ecstats.daily_kpi DEFAULT NULL) RETURNS ecstats.daily_kpi
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k ecstats.daily_kpi := known;
	stop date := ecstats.rollup_period_end(kind, start);
BEGIN
	SELECT sum(d.gmv), sum(d.quantity), sum(d.paid_amount), sum(d.refund_amount), sum(d.net_amount), sum(d.event_count), sum(d.pv),
		   sum(d.new_user_count), bool_and(d.complete)
	  INTO k.gmv, k.quantity, k.paid_amount, k.refund_amount, k.net_amount, k.event_count, k.pv, k.new_user_count, k.complete
	  FROM ecstats.daily_kpi d WHERE d.day >= start AND d.day < stop;
	IF k.gmv IS NULL THEN
		RETURN NULL;
	END IF;
	IF known.day IS NULL THEN
		SELECT p.uv, p.orders, p.return_orders, p.abnormal_orders, p.paid_orders, p.buyers, p.payers
		  INTO k.uv, k.order_count, k.refund_order_count, k.abnormal_order_count, k.paid_order_count, k.buyer_count, k.payer_count
		  FROM ecstats.rollup_period(start, stop) p;
	END IF;
	k.day := start;
	k.aov := k.gmv / nullif(k.order_count, 0);
	k.amount_per_buyer := k.gmv / nullif(k.buyer_count, 0);
	k.conversion_rate := k.buyer_count::numeric / nullif(k.uv, 0);
	k.closed_at := NULL;
	k.revision := 0;
	RETURN k;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_period_kpi(text, date, ecstats.daily_kpi) IS
	'Figures of the week or month that begins on a day, from its stored days: a row with revision 0, complete where every stored day is; NULL where none is stored. Distinct counts are taken from known where it is given.';

-- ecstats.rollup_period_put: the only writer of weekly_kpi and monthly_kpi. open: the period has not ended, or an ended
-- day of it has data and is not closed. A first close is revision 1; a change of figures adds one; a row that says what
-- it has to is not touched. recount: the ids of its days may have changed.
CREATE OR REPLACE FUNCTION ecstats.rollup_period_put(kind text, start date, at timestamptz, open boolean, recount boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	relation regclass := CASE kind WHEN 'week' THEN 'ecstats.weekly_kpi' ELSE 'ecstats.monthly_kpi' END;
	state_columns text[] := '{day,complete,closed_at,revision}';
	stored ecstats.daily_kpi;
	kpi ecstats.daily_kpi;
BEGIN
	EXECUTE format('SELECT * FROM %s k WHERE k.day = $1', relation) INTO stored USING start;
	kpi := ecstats.rollup_period_kpi(kind, start, CASE WHEN NOT recount THEN stored END);
	IF stored.revision > 0 THEN
		kpi.closed_at := stored.closed_at;
		kpi.revision := stored.revision + (to_jsonb(stored) - state_columns <> to_jsonb(kpi) - state_columns)::int;
	ELSIF NOT open THEN
		kpi.closed_at := at;
		kpi.revision := 1;
	END IF;
	-- Its last day may have had no rows: somebody who began before its end may still bring some.
	kpi.complete := kpi.complete AND kpi.revision > 0
		AND (coalesce(stored.complete, false) OR ecstats.rollup_complete(ecstats.rollup_period_end(kind, start) - 1, at));
	IF kpi IS NOT DISTINCT FROM stored THEN
		RETURN;
	END IF;
	EXECUTE format('DELETE FROM %s k WHERE k.day = $1', relation) USING start;
	IF kpi.day IS NOT NULL THEN			-- else no day of it is stored any more
		EXECUTE format('INSERT INTO %s SELECT ($1).*', relation) USING kpi;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_period_put(text, date, timestamptz, boolean, boolean) IS
	'Brings the row of a week or month to its stored days: revision 0 while it is open, 1 at its close, one more when the figures of a closed one changed; touches nothing that is right. recount false: distinct counts stay as stored.';

-- ecstats.rollup_periods: brings weeks and months up to date. Distinct counts are made anew for those of the given days
-- (what a close computed: a day's ids can change where its figures do not) and those that are not stored; any other
-- that is not what its stored days say gets its sums, as where a first-seen user moved to another day, a day became
-- complete or the period's end has passed.
CREATE OR REPLACE FUNCTION ecstats.rollup_periods(days date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	p record;
	open_days date[];
BEGIN
	FOR p IN
		WITH wanted AS MATERIALIZED (
			SELECT coalesce(s.kind, t.kind) AS kind, coalesce(s.day, (t.kpi).day) AS day, t.kpi IS NULL AS missing, (t.kpi).revision,
				   (s.gmv, s.quantity, s.paid_amount, s.refund_amount, s.event_count, s.pv, s.new_user_count, s.complete AND (t.kpi).revision > 0)
				   IS DISTINCT FROM ((t.kpi).gmv, (t.kpi).quantity, (t.kpi).paid_amount, (t.kpi).refund_amount, (t.kpi).event_count, (t.kpi).pv,
									 (t.kpi).new_user_count, (t.kpi).complete) AS differs
			  FROM ecstats.rollup_period_sums() s
			  FULL JOIN ecstats.rollup_period_stored() t ON t.kind = s.kind AND (t.kpi).day = s.day
		), changed AS MATERIALIZED (
			SELECT DISTINCT k AS kind, ecstats.rollup_period_start(k, d) AS day FROM unnest(days) d, unnest('{week,month}'::text[]) k
		)
		SELECT w.kind, w.day, w.missing OR c.day IS NOT NULL AS recount, coalesce(w.revision, 0) AS revision, e.stop,
			   ecstats.day_start(e.stop) <= at AS ended
		  FROM wanted w LEFT JOIN changed c ON c.kind = w.kind AND c.day = w.day
		 CROSS JOIN LATERAL (SELECT ecstats.rollup_period_end(w.kind, w.day) AS stop) e
		 WHERE w.missing OR w.differs OR c.day IS NOT NULL OR w.revision = 0 AND ecstats.day_start(e.stop) <= at
		 ORDER BY w.day, w.kind
	LOOP
		IF p.revision = 0 AND p.ended AND open_days IS NULL THEN
			open_days := array(SELECT ecstats.rollup_open_days(ecstats.day_of(at)));
		END IF;
		PERFORM ecstats.rollup_period_put(p.kind, p.day, at,
			NOT p.ended OR EXISTS (SELECT FROM unnest(open_days) o WHERE o >= p.day AND o < p.stop), p.recount);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_periods(date[], timestamptz) IS
	'Brings weekly_kpi and monthly_kpi up to date: distinct counts of the periods of the given days, sums, state and missing rows of all.';
