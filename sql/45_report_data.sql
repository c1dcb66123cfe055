-- sql/45_report_data.sql
-- The facts of a day as JSON, from the rollups alone: what a template and a condition see. Numbers
-- stay numerics, unrounded; the few *_text and label members exist because no filter can make them.

-- report_timestamp gives an instant as ISO 8601 in `zone`, whatever the session's time zone is.
CREATE OR REPLACE FUNCTION ecstats.report_timestamp(at timestamptz, zone text) RETURNS text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT to_char(t.local, 'YYYY-MM-DD"T"HH24:MI:SS') || CASE WHEN t.local < t.utc THEN '-' ELSE '+' END
		|| to_char(greatest(t.local - t.utc, t.utc - t.local), 'HH24:MI')
	  FROM (SELECT at AT TIME ZONE zone AS local, at AT TIME ZONE 'UTC' AS utc) t
	$$;
COMMENT ON FUNCTION ecstats.report_timestamp(timestamptz, text) IS
	'ISO 8601 text of an instant in the given IANA zone, with its offset';

-- report_points_text writes a difference in percentage points with its sign; what rounds to 0 has none.
CREATE OR REPLACE FUNCTION ecstats.report_points_text(points numeric, digits int) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN round(points, digits) > 0 THEN '+' ELSE '' END || round(points, digits)::text
	$$;
COMMENT ON FUNCTION ecstats.report_points_text(numeric, int) IS
	'percentage points as signed text, rounded half away from zero to the given digits';

-- report_label makes a name harmless inside Markdown: active characters become their full-width
-- twins, control characters blanks. The name itself is in the facts, too.
CREATE OR REPLACE FUNCTION ecstats.report_label(name text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT translate(regexp_replace(name, '[[:cntrl:]]+', ' ', 'g'), '*_`<>|[]#~\@', '＊＿｀＜＞｜［］＃～＼＠')
	$$;
COMMENT ON FUNCTION ecstats.report_label(text) IS
	'a name with Markdown''s active characters replaced by their full-width twins';

-- report_kpi gives one day's row as facts: every column of daily_kpi, and refund_rate. NULL: no row.
CREATE OR REPLACE FUNCTION ecstats.report_kpi(at_day date, zone text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT to_jsonb(k) || jsonb_build_object(
			'closed_at', ecstats.report_timestamp(k.closed_at, zone),
			'refund_rate', k.refund_amount / nullif(k.paid_amount, 0))
	  FROM ecstats.daily_kpi k
	 WHERE k.day = at_day
	$$;
COMMENT ON FUNCTION ecstats.report_kpi(date, text) IS
	'daily_kpi of one day as a JSON object, with refund_rate (refund_amount / paid_amount); NULL where there is no row';

-- report_change gives (x - base) / |base| of each figure; null where there is no base or it is 0.
CREATE OR REPLACE FUNCTION ecstats.report_change(facts jsonb, base jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg(x.key,
			CASE WHEN jsonb_typeof(x.value) = 'number' AND jsonb_typeof(base -> x.key) = 'number'
				 THEN (x.value::numeric - (base -> x.key)::numeric) / nullif(abs((base -> x.key)::numeric), 0)
			END)
	  FROM jsonb_each(facts) x
	 WHERE x.key NOT IN ('day', 'complete', 'closed_at', 'revision')
	$$;
COMMENT ON FUNCTION ecstats.report_change(jsonb, jsonb) IS
	'relative change per figure against the same figures of another day (NULL: no such day)';

-- report_points gives what a ratio's change is called in: percentage points, as number and as text.
CREATE OR REPLACE FUNCTION ecstats.report_points(facts jsonb, base jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg(r.name, p.points)
		|| jsonb_object_agg(r.name || '_text', ecstats.report_points_text(p.points, 2))
	  FROM (VALUES ('conversion_rate'), ('refund_rate')) r(name),
		   LATERAL (SELECT 100 * ((facts ->> r.name)::numeric - (base ->> r.name)::numeric)) p(points)
	$$;
COMMENT ON FUNCTION ecstats.report_points(jsonb, jsonb) IS
	'change of conversion_rate and refund_rate in percentage points (x - base) * 100; the _text members are signed, 2 decimals';

-- report_sales splits a day's gmv by product, region and channel, in two scans of daily_sales.
--   at_day: the day; base_day: the one that revenue_change compares with; gmv: of the day.
-- Lists are ordered by revenue, then pieces, then name (bytewise), so that a repeat gives the same
-- ranks. Products: the first 10. Regions and channels: 50, and one element `others` for the rest, so
-- that the list still adds up. `first`, `top3`, `top5`, `top10` let a template cut: it cannot count.
CREATE OR REPLACE FUNCTION ecstats.report_sales(at_day date, base_day date, gmv numeric) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH sums AS MATERIALIZED (
		SELECT s.day,
			   CASE WHEN grouping(s.product_id) = 0 THEN 'product_id'
					WHEN grouping(s.region) = 0 THEN 'region' ELSE 'channel' END AS kind,
			   coalesce(s.product_id, s.region, s.channel) AS name,
			   sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue, sum(s.refund_amount) AS refunds
		  FROM ecstats.daily_sales s
		 WHERE s.day IN (at_day, base_day)
		 GROUP BY GROUPING SETS ((s.day, s.product_id), (s.day, s.region), (s.day, s.channel))
	), ranked AS (
		SELECT d.*, b.revenue AS base,
			   row_number() OVER (PARTITION BY d.kind
				ORDER BY d.revenue DESC, d.sold DESC, d.name COLLATE "C") AS rank
		  FROM sums d
		  LEFT JOIN sums b ON b.day = base_day AND b.kind = d.kind AND b.name = d.name
		 WHERE d.day = at_day AND (d.kind <> 'product_id' OR d.sold > 0)
	), folded AS (
		SELECT kind, least(rank, 51) AS rank, CASE WHEN rank <= 50 THEN name END AS name,
			   sum(sold) AS sold, sum(revenue) AS revenue, sum(refunds) AS refunds,
			   sum(base) AS base, count(*) AS members
		  FROM ranked
		 WHERE kind <> 'product_id' OR rank <= 10
		 GROUP BY 1, 2, 3
	), items AS (
		SELECT kind, rank, jsonb_build_object(
				kind, name, 'label', ecstats.report_label(name), 'rank', rank, 'total_sold', sold,
				'total_revenue', revenue, 'refund_amount', refunds, 'share', revenue / nullif(gmv, 0),
				'revenue_change', (revenue - base) / nullif(abs(base), 0),
				'others', rank = 51, 'members', members, 'first', rank = 1,
				'top3', rank <= 3, 'top5', rank <= 5, 'top10', rank <= 10) AS item
		  FROM folded
	)
	SELECT jsonb_build_object(
			'top_products', coalesce(jsonb_agg(item ORDER BY rank) FILTER (WHERE kind = 'product_id'), '[]'),
			'by_region', coalesce(jsonb_agg(item ORDER BY rank) FILTER (WHERE kind = 'region'), '[]'),
			'by_channel', coalesce(jsonb_agg(item ORDER BY rank) FILTER (WHERE kind = 'channel'), '[]'),
			'has_sales', count(*) FILTER (WHERE kind = 'product_id') > 0,
			'reconciles', (SELECT coalesce(sum(revenue), 0) FROM sums WHERE day = at_day AND kind = 'channel')
				IS NOT DISTINCT FROM gmv)
	  FROM items
	$$;
COMMENT ON FUNCTION ecstats.report_sales(date, date, numeric) IS
	'top_products, by_region, by_channel of a day with share of gmv and change against base_day; has_sales; reconciles: the split adds up to gmv';

-- report_funnel lists a day's funnel; rate is against the step before, null at the first.
CREATE OR REPLACE FUNCTION ecstats.report_funnel(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('step', f.step, 'event', f.event,
				'user_count', f.user_count, 'rate', f.rate) ORDER BY f.step), '[]')
	  FROM (SELECT d.step, d.event, d.user_count,
				   d.user_count::numeric / nullif(lag(d.user_count) OVER (ORDER BY d.step), 0) AS rate
			  FROM ecstats.daily_funnel d
			 WHERE d.day = at_day) f
	$$;
COMMENT ON FUNCTION ecstats.report_funnel(date) IS
	'daily_funnel of a day in order of its steps, with the rate from the step before';

-- report_targets compares what is reached from the period's first day to at_day with its targets.
--   at_day: the day, inside the period; period: as in ecstats.targets.
CREATE OR REPLACE FUNCTION ecstats.report_targets(at_day date, period text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH span AS (
		SELECT date_trunc(u.unit, at_day::timestamp)::date AS first_day,
			   (date_trunc(u.unit, at_day::timestamp) + u.step)::date AS next_first
		  FROM (VALUES (4, 'year', interval '1 year'), (7, 'month', interval '1 month'),
					   (10, 'day', interval '1 day')) u(len, unit, step)
		 WHERE u.len = length(period)
	), reached AS (
		SELECT t.metric, t.value, a.achieved, s.next_first - at_day - 1 AS days_left,
			   (at_day - s.first_day + 1)::numeric / (s.next_first - s.first_day) AS time_progress
		  FROM ecstats.targets t, span s,
			   LATERAL (SELECT sum((to_jsonb(k) ->> t.metric)::numeric) AS achieved
						  FROM ecstats.daily_kpi k
						 WHERE k.day BETWEEN s.first_day AND at_day) a
		 WHERE t.period = report_targets.period
	)
	SELECT coalesce(jsonb_object_agg(r.metric, jsonb_build_object(
			'value', r.value, 'achieved', r.achieved, 'rate', r.achieved / r.value,
			'time_progress', r.time_progress,
			'lead_points', 100 * (r.achieved / r.value - r.time_progress),
			'lead_points_text',
				ecstats.report_points_text(100 * (r.achieved / r.value - r.time_progress), 1),
			'ahead', r.achieved / r.value >= r.time_progress, 'days_left', r.days_left,
			'daily_needed', greatest(r.value - r.achieved, 0) / nullif(r.days_left, 0))), '{}')
	  FROM reached r
	$$;
COMMENT ON FUNCTION ecstats.report_targets(date, text) IS
	'{metric: {value, achieved, rate, time_progress, lead_points, days_left, daily_needed, …}} of a period up to and including a day';

-- report_restated gives the latest correction of a closed day, as a list and by column; NULL: none.
CREATE OR REPLACE FUNCTION ecstats.report_restated(at_day date, zone text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object(
			'revision', r.revision, 'at', ecstats.report_timestamp(max(r.at), zone),
			'changes', jsonb_agg(jsonb_build_object('column', r.column_name, 'old', r.old, 'new', r.new)
								 ORDER BY r.column_name),
			'columns', jsonb_object_agg(r.column_name, jsonb_build_object('old', r.old, 'new', r.new)))
	  FROM ecstats.restatements r
	 WHERE r.day = at_day
	   AND r.revision = (SELECT max(l.revision) FROM ecstats.restatements l WHERE l.day = at_day)
	 GROUP BY r.revision
	$$;
COMMENT ON FUNCTION ecstats.report_restated(date, text) IS
	'latest restatement of a day: revision, at, changes [{column, old, new}], columns {column: {old, new}}; NULL where there is none';
