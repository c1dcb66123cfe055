-- sql/45_report_data.sql
-- The facts of a day as JSON, from the rollups alone: what a template and a condition see. Numbers
-- stay numerics, unrounded; the few *_text and label members exist because no filter can make them.
-- Functions called for each element take no SET, so that they are inlined.

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
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT CASE WHEN pg_catalog.round(points, digits) > 0 THEN '+' ELSE '' END || pg_catalog.round(points, digits)::text
	$$;
COMMENT ON FUNCTION ecstats.report_points_text(numeric, int) IS
	'percentage points as signed text, rounded half away from zero to the given digits';

-- report_label makes a name harmless inside Markdown: active characters become their full-width
-- twins (blanks in an encoding without these), control characters blanks ([[:cntrl:]] would take letters of
-- WIN1252 for some). The name itself is in the facts, too.
CREATE OR REPLACE FUNCTION ecstats.report_label(name text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT pg_catalog.translate(pg_catalog.regexp_replace(name, '[\u0001-\u001f\u007f]+', ' ', 'g'), E'*_`<>|[]#~\\@',
		COALESCE(ecstats.native_text('＊＿｀＜＞｜［］＃～＼＠'), '            '))
	$$;
COMMENT ON FUNCTION ecstats.report_label(text) IS
	'a name with Markdown''s active characters replaced by their full-width twins, or by blanks where the encoding has none';

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

-- report_day gives what names a report and its day, the same for every dataset.
CREATE OR REPLACE FUNCTION ecstats.report_day(definition ecstats.reports, day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object(
			'report', definition.name,
			'report_id', format('%s:%s', definition.name, to_char(day, 'YYYY-MM-DD')),		-- whatever DateStyle is
			'dataset', definition.dataset,
			'weekday', to_char(day, 'FMDay'),
			'weekday_cn', coalesce(ecstats.native_text('周') || substr(ecstats.native_text('一二三四五六日'), extract(isodow FROM day)::int, 1), to_char(day, 'FMDay')),
			'day_cn', coalesce(to_char(day, 'FMMM') || ecstats.native_text('月') || to_char(day, 'FMDD') || ecstats.native_text('日'), to_char(day, 'YYYY-MM-DD')),
			'currency', (SELECT c.currency FROM ecstats.config c))
	$$;
COMMENT ON FUNCTION ecstats.report_day(ecstats.reports, date) IS
	'report, report_id, dataset, weekday, weekday_cn, day_cn, currency of a report''s facts';

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

-- report_item makes one element of a split. `first`, `top3`, `top5`, `top10` let a template cut a
-- list: it cannot count. share is of the day's gmv, revenue_change against the same name's base.
CREATE OR REPLACE FUNCTION ecstats.report_item(kind text, name text, rank bigint, sold numeric, revenue numeric,
											   gmv numeric, base numeric) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT pg_catalog.jsonb_build_object(
			kind, name, 'label', ecstats.report_label(name), 'rank', rank,
			'total_sold', sold, 'total_revenue', revenue, 'share', revenue / nullif(gmv, 0),
			'revenue_change', (revenue - base) / nullif(pg_catalog.abs(base), 0),
			'first', rank = 1, 'top3', rank <= 3, 'top5', rank <= 5, 'top10', rank <= 10)
	$$;
COMMENT ON FUNCTION ecstats.report_item(text, text, bigint, numeric, numeric, numeric, numeric) IS
	'one element of top_products, by_region or by_channel';

-- report_sales gives a day's rows of daily_sales: the stored ones or, for a day that is not closed, those that
-- the pipeline has computed (live, see report_data).
CREATE OR REPLACE FUNCTION ecstats.report_sales(at_day date, live jsonb) RETURNS SETOF ecstats.daily_sales
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT * FROM ecstats.daily_sales s WHERE s.day = at_day
	UNION ALL
	SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::ecstats.daily_sales, live -> 'sales')
	$$;
COMMENT ON FUNCTION ecstats.report_sales(date, jsonb) IS 'daily_sales of a day, or the live rows of one that is not closed';

-- report_products lists a day's first 10 products by revenue, then pieces, then id (bytewise), so that
-- a repeat gives the same ranks. Products are many and an aggregate state of numeric is large: sorting
-- beats hashing here (measured: 16 ms against 40 ms with 10,000 products).
CREATE OR REPLACE FUNCTION ecstats.report_products(at_day date, base_day date, gmv numeric, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET enable_hashagg = off
	AS $$
	SELECT coalesce(jsonb_agg(ecstats.report_item('product_id', t.product_id, t.rank, t.sold, t.revenue, gmv,
							(SELECT sum(b.total_revenue) FROM ecstats.daily_sales b
							  WHERE b.day = base_day AND b.product_id = t.product_id)) ORDER BY t.rank), '[]')
	  FROM (SELECT s.product_id, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
				   row_number() OVER (ORDER BY sum(s.total_revenue) DESC, sum(s.total_sold) DESC,
											   s.product_id COLLATE "C") AS rank
			  FROM ecstats.report_sales(at_day, live) s
			 GROUP BY s.product_id
			HAVING sum(s.total_sold) > 0
			 ORDER BY rank LIMIT 10) t
	$$;
COMMENT ON FUNCTION ecstats.report_products(date, date, numeric, jsonb) IS
	'the first 10 products of a day by revenue; gmv is the day''s, base_day the one to compare with';

-- report_split divides a day's gmv by region and by channel: 50 each, and one element `others` (named
-- null, standing for `members` names) for the rest, so that a list adds up to gmv. Order as products.
CREATE OR REPLACE FUNCTION ecstats.report_split(at_day date, base_day date, gmv numeric, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH cells AS MATERIALIZED (
		SELECT s.day, s.region, s.channel, sum(s.total_sold) AS sold, sum(s.total_revenue) AS revenue,
			   sum(s.refund_amount) AS refunds
		  FROM (SELECT * FROM ecstats.report_sales(at_day, live)
				UNION ALL SELECT * FROM ecstats.report_sales(base_day, NULL)) s
		 GROUP BY s.day, s.region, s.channel
	), sums AS (
		SELECT c.day, CASE WHEN grouping(c.region) = 0 THEN 'region' ELSE 'channel' END AS kind,
			   coalesce(c.region, c.channel) AS name,
			   sum(c.sold) AS sold, sum(c.revenue) AS revenue, sum(c.refunds) AS refunds
		  FROM cells c
		 GROUP BY GROUPING SETS ((c.day, c.region), (c.day, c.channel))
	), ranked AS (
		SELECT d.*, b.revenue AS base,
			   row_number() OVER (PARTITION BY d.kind
				ORDER BY d.revenue DESC, d.sold DESC, d.name COLLATE "C") AS rank
		  FROM sums d
		  LEFT JOIN sums b ON b.day = base_day AND b.kind = d.kind AND b.name = d.name
		 WHERE d.day = at_day
	), items AS (
		SELECT r.kind, least(r.rank, 51) AS rank,
			   ecstats.report_item(r.kind, min(r.name) FILTER (WHERE r.rank <= 50), least(r.rank, 51),
								   sum(r.sold), sum(r.revenue), gmv, sum(r.base) FILTER (WHERE r.rank <= 50))
			   || jsonb_build_object('refund_amount', sum(r.refunds), 'others', least(r.rank, 51) = 51,
									 'members', count(*)) AS item
		  FROM ranked r
		 GROUP BY r.kind, least(r.rank, 51)
	)
	SELECT jsonb_build_object(
			'by_region', coalesce(jsonb_agg(i.item ORDER BY i.rank) FILTER (WHERE i.kind = 'region'), '[]'),
			'by_channel', coalesce(jsonb_agg(i.item ORDER BY i.rank) FILTER (WHERE i.kind = 'channel'), '[]'),
			'reconciles', (SELECT coalesce(sum(c.revenue), 0) FROM cells c WHERE c.day = at_day)
				IS NOT DISTINCT FROM gmv)
	  FROM items i
	$$;
COMMENT ON FUNCTION ecstats.report_split(date, date, numeric, jsonb) IS
	'by_region and by_channel of a day with share of gmv and change against base_day; reconciles: they add up to gmv';

-- report_funnel lists a day's funnel; rate is against the step before, null at the first.
CREATE OR REPLACE FUNCTION ecstats.report_funnel(at_day date, live jsonb) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('step', f.step, 'event', f.event,
				'user_count', f.user_count, 'rate', f.rate) ORDER BY f.step), '[]')
	  FROM (SELECT d.step, d.event, d.user_count,
				   d.user_count::numeric / nullif(lag(d.user_count) OVER (ORDER BY d.step), 0) AS rate
			  FROM (SELECT * FROM ecstats.daily_funnel s WHERE s.day = at_day
					UNION ALL
					SELECT * FROM jsonb_populate_recordset(NULL::ecstats.daily_funnel, live -> 'funnel')) d) f
	$$;
COMMENT ON FUNCTION ecstats.report_funnel(date, jsonb) IS
	'daily_funnel of a day in order of its steps, with the rate from the step before';

-- report_targets compares what is reached so far with the targets of the day's month (targets), of
-- the day itself (targets_day) and of its year (targets_year): from the period's first day to at_day.
CREATE OR REPLACE FUNCTION ecstats.report_targets(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH span AS (
		SELECT u.member, to_char(at_day, u.form) AS period, date_trunc(u.unit, at_day::timestamp)::date AS first_day,
			   (date_trunc(u.unit, at_day::timestamp) + u.step)::date AS next_first
		  FROM (VALUES ('targets', 'month', 'YYYY-MM', interval '1 month'),
					   ('targets_day', 'day', 'YYYY-MM-DD', interval '1 day'),
					   ('targets_year', 'year', 'YYYY', interval '1 year')) u(member, unit, form, step)
	), reached AS (
		SELECT s.member, t.metric, t.value, a.achieved, s.next_first - at_day - 1 AS days_left,
			   (at_day - s.first_day + 1)::numeric / (s.next_first - s.first_day) AS time_progress
		  FROM span s
		  JOIN ecstats.targets t ON t.period = s.period,
			   LATERAL (SELECT sum((to_jsonb(k) ->> t.metric)::numeric) AS achieved
						  FROM ecstats.daily_kpi k
						 WHERE k.day BETWEEN s.first_day AND at_day) a
	), members AS (
		SELECT r.member, jsonb_object_agg(r.metric, jsonb_build_object(
				'value', r.value, 'achieved', r.achieved, 'rate', r.achieved / r.value,
				'time_progress', r.time_progress, 'lead_points', p.points,
				'lead_points_text', ecstats.report_points_text(p.points, 1), 'ahead', p.points >= 0,
				'days_left', r.days_left,
				'daily_needed', greatest(r.value - r.achieved, 0) / nullif(r.days_left, 0))) AS metrics
		  FROM reached r, LATERAL (SELECT 100 * (r.achieved / r.value - r.time_progress)) p(points)
		 GROUP BY r.member
	)
	SELECT '{"targets": {}, "targets_day": {}, "targets_year": {}}'
		|| coalesce(jsonb_object_agg(m.member, m.metrics), '{}')
	  FROM members m
	$$;
COMMENT ON FUNCTION ecstats.report_targets(date) IS
	'targets, targets_day, targets_year: {metric: {value, achieved, rate, time_progress, lead_points, lead_points_text, ahead, days_left, daily_needed}} up to and including a day';

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
