-- sql/51_verify_range.sql
-- The proof of what spans days: who was seen first when, buyers, weeks and months. Held against what is stored of the days, which
-- is held against raw rows day by day.

-- ecstats.rollup_verify_first_seen: users of a range of days whose first day is not the first stored day that has them.
-- Nothing but stored days counts, here as in first_seen.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_first_seen(from_day date, to_day date)
	RETURNS TABLE (user_id text, stored date, recomputed date)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE
	users text[];
	stored_days date[];
	days date[];
BEGIN
	SELECT array_agg(x.user_id), array_agg(x.stored), array_agg(x.day) INTO users, stored_days, days
	  FROM (SELECT coalesce(u.user_id, f.user_id) AS user_id, f.day AS stored, u.day
			  FROM (SELECT c.user_id COLLATE "C" AS user_id, min(d.day) AS day
					  FROM ecstats.user_day d CROSS JOIN LATERAL ecstats.rollup_users_unpack(d.packed) c
					 WHERE d.day BETWEEN from_day AND to_day GROUP BY 1) u
			  FULL JOIN ecstats.first_seen f ON f.user_id = u.user_id
			 WHERE u.day < f.day OR f.day IS NULL
				OR f.day BETWEEN from_day AND to_day AND u.day IS DISTINCT FROM f.day) x;
	IF users IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
		SELECT v.user_id, v.stored, least(v.day, o.day)
		  FROM unnest(users, stored_days, days) v(user_id, stored, day)
		  LEFT JOIN (SELECT d.user_id, min(d.day) AS day
					   FROM (SELECT u.day, c.user_id COLLATE "C" AS user_id		-- unpacked before it is joined, not a block at a time
							   FROM ecstats.user_day u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.packed) c
							  WHERE u.day < from_day OR u.day > to_day OFFSET 0) d
					  WHERE d.user_id IN (SELECT unnest(users)) GROUP BY d.user_id) o ON o.user_id = v.user_id
		 ORDER BY v.user_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION ecstats.rollup_verify_first_seen(date, date) IS
	'Users of the stored days of a range, or first seen on one of them, whose first day is not the first stored day with an event of theirs; recomputed is that day, NULL where there is none.';

-- ecstats.rollup_verify_buyers: buyers against buyer_daily. Those with a day in the range, and those without any day at
-- all; NULL: no bound.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_buyers(from_day date, to_day date) RETURNS TABLE (key jsonb, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off AS $$
	WITH here AS MATERIALIZED (
		SELECT DISTINCT d.user_id FROM ecstats.buyer_daily d WHERE (from_day IS NULL OR d.day >= from_day) AND (to_day IS NULL OR d.day <= to_day)
	)
	SELECT jsonb_build_object('user_id', coalesce(s.user_id, r.user_id)), ecstats.rollup_unlike(s.what, r.what), ecstats.rollup_unlike(r.what, s.what)
	  FROM (SELECT b.user_id, to_jsonb(b) - 'user_id' AS what FROM ecstats.buyers b
			 WHERE EXISTS (SELECT FROM here h WHERE h.user_id = b.user_id) OR NOT EXISTS (SELECT FROM ecstats.buyer_daily d WHERE d.user_id = b.user_id)) s
	  FULL JOIN (SELECT n.user_id, to_jsonb(n) - 'user_id' AS what
				   FROM ecstats.rollup_buyers_of(array(SELECT h.user_id FROM here h), 'infinity') n) r ON r.user_id = s.user_id
	 WHERE s.what IS DISTINCT FROM r.what
	 ORDER BY coalesce(s.user_id, r.user_id) $$;
COMMENT ON FUNCTION ecstats.rollup_verify_buyers(date, date) IS
	'Rows of buyers that are not what buyer_daily adds up to, of users with a day in a range (NULL: no bound) or without any: of each what differs.';

-- ecstats.rollup_verify_period: a week or month against the stored days of it: what adds up is added up, what is
-- distinct is counted in plain SQL over the users, orders and buyers of these days.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_period(first_day date, next_day date) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH k AS MATERIALIZED (
		SELECT k.* FROM ecstats.daily_kpi k WHERE k.day >= first_day AND k.day < next_day
	), ids AS MATERIALIZED (
		SELECT o.kind, c.id COLLATE "C" AS id, bit_or(c.number) AS roles
		  FROM ecstats.order_day o CROSS JOIN LATERAL ecstats.rollup_ids_unpack(o.packed) c
		 WHERE o.day IN (SELECT k.day FROM k) GROUP BY 1, 2
	), sums AS (
		SELECT sum(k.gmv) AS gmv, sum(k.quantity) AS quantity, sum(k.paid_amount) AS paid_amount, sum(k.refund_amount) AS refund_amount,
			   sum(k.net_amount) AS net_amount, sum(k.event_count) AS event_count, sum(k.pv) AS pv, sum(k.new_user_count) AS new_user_count FROM k
	), counts AS (
		SELECT count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 1 > 0) AS order_count, count(*) FILTER (WHERE i.kind = 'b' AND i.roles & 1 > 0) AS buyer_count,
			   count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 8 > 0) AS paid_order_count, count(*) FILTER (WHERE i.kind = 'b' AND i.roles & 8 > 0) AS payer_count,
			   count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 2 > 0) AS refund_order_count, count(*) FILTER (WHERE i.kind = 'o' AND i.roles & 4 > 0) AS abnormal_order_count,
			   (SELECT count(*) FROM (SELECT c.user_id COLLATE "C" FROM ecstats.user_day u CROSS JOIN LATERAL ecstats.rollup_users_unpack(u.packed) c
									  WHERE u.day IN (SELECT k.day FROM k) GROUP BY 1) v) AS uv
		  FROM ids i
	)
	SELECT CASE WHEN s.gmv IS NOT NULL THEN to_jsonb(s) || to_jsonb(c) || jsonb_build_object('aov', s.gmv / nullif(c.order_count, 0),
			'amount_per_buyer', s.gmv / nullif(c.buyer_count, 0), 'conversion_rate', c.buyer_count::numeric / nullif(c.uv, 0)) END
	  FROM sums s CROSS JOIN counts c $$;
COMMENT ON FUNCTION ecstats.rollup_verify_period(date, date) IS 'Figures of the stored days from first_day to before next_day as an object of daily_kpi''s columns; NULL where no day is stored.';

-- ecstats.rollup_verify_periods: the weeks and months that a range of days meets.
CREATE OR REPLACE FUNCTION ecstats.rollup_verify_periods(from_day date, to_day date) RETURNS TABLE (day date, relation text, stored jsonb, recomputed jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.day, p.relation, ecstats.rollup_unlike(p.stored, r.kpi), ecstats.rollup_unlike(r.kpi, p.stored)
	  FROM (SELECT w.day, 'weekly_kpi' AS relation, (w.day + interval '7 days')::date AS next_day, to_jsonb(k) - '{day,complete,closed_at,revision}'::text[] AS stored
			  FROM (SELECT date_trunc('week', d.day::timestamp)::date FROM ecstats.daily_kpi d UNION SELECT d.day FROM ecstats.weekly_kpi d) w(day)
			  LEFT JOIN ecstats.weekly_kpi k ON k.day = w.day
			UNION ALL
			SELECT m.day, 'monthly_kpi', (m.day + interval '1 month')::date, to_jsonb(k) - '{day,complete,closed_at,revision}'::text[]
			  FROM (SELECT date_trunc('month', d.day::timestamp)::date FROM ecstats.daily_kpi d UNION SELECT d.day FROM ecstats.monthly_kpi d) m(day)
			  LEFT JOIN ecstats.monthly_kpi k ON k.day = m.day) p
	 CROSS JOIN LATERAL (SELECT ecstats.rollup_verify_period(p.day, p.next_day) AS kpi OFFSET 0) r
	 WHERE p.day <= to_day AND p.next_day > from_day AND p.stored IS DISTINCT FROM r.kpi
	 ORDER BY p.day, p.relation DESC $$;
COMMENT ON FUNCTION ecstats.rollup_verify_periods(date, date) IS 'Rows of weekly_kpi and monthly_kpi of a range of days that are not what the stored days say: of each what differs.';

