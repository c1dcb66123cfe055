-- sql/43_rollup_buyers.sql
-- Buyers: ecstats.buyer_daily added up. A user's row is made anew from all of their days, never added to: it is right
-- whatever was restated, and it stays when retention has dropped the order lines.

-- ecstats.rollup_buyers_of: some users' rows of ecstats.buyers, made from their days up to one. Each user is found by the
-- key, whatever statistics say of days that are new (day + 0: the index on day would be no help); those without a day have
-- no row.
CREATE OR REPLACE FUNCTION ecstats.rollup_buyers_of(users text[], last_day date) RETURNS SETOF ecstats.buyers
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
	SELECT u.user_id, t.order_count, t.gmv, t.paid_amount, t.first_order_day, t.last_order_day,
		   CASE WHEN t.channel = t.other_channel THEN t.channel
				ELSE (SELECT d.channel FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day
					   GROUP BY d.channel ORDER BY sum(d.order_count) DESC, sum(d.gmv) DESC, d.channel LIMIT 1) END,
		   CASE WHEN t.region = t.other_region THEN t.region
				ELSE (SELECT d.region FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day
					   GROUP BY d.region ORDER BY sum(d.order_count) DESC, sum(d.gmv) DESC, d.region LIMIT 1) END
	  FROM (SELECT DISTINCT x COLLATE "C" AS user_id FROM unnest(users) x ORDER BY 1) u
	 CROSS JOIN LATERAL (
		SELECT sum(d.order_count)::bigint AS order_count, sum(d.gmv) AS gmv, sum(d.paid_amount) AS paid_amount,
			   min(d.day) FILTER (WHERE d.order_count > 0) AS first_order_day, max(d.day) FILTER (WHERE d.order_count > 0) AS last_order_day,
			   min(d.channel) AS channel, max(d.channel) AS other_channel, min(d.region) AS region, max(d.region) AS other_region
		  FROM ecstats.buyer_daily d WHERE d.user_id = u.user_id AND d.day + 0 <= last_day HAVING count(*) > 0) t $$;
COMMENT ON FUNCTION ecstats.rollup_buyers_of(text[], date) IS
	'Rows of ecstats.buyers of some users over the days of ecstats.buyer_daily up to last_day; none for a user without such a day.';

-- ecstats.rollup_buyers: brings ecstats.buyers to the days of some users; returns how many rows that changed. A row that
-- comes out as it was is not touched. Under ecstats.rollup_lock.
CREATE OR REPLACE FUNCTION ecstats.rollup_buyers(users text[]) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
	WITH changed AS MATERIALIZED (
		SELECT b.user_id AS stored_user, n.*
		  FROM (SELECT s.* FROM ecstats.buyers s WHERE s.user_id = ANY (users COLLATE "C")) b
		  FULL JOIN ecstats.rollup_buyers_of(users, 'infinity') n ON n.user_id = b.user_id
		 WHERE (b.user_id, b.order_count, b.gmv, b.paid_amount, b.first_order_day, b.last_order_day, b.favourite_channel, b.favourite_region)
			   IS DISTINCT FROM
			   (n.user_id, n.order_count, n.gmv, n.paid_amount, n.first_order_day, n.last_order_day, n.favourite_channel, n.favourite_region)
	), gone AS (
		DELETE FROM ecstats.buyers b WHERE b.user_id = ANY (array(SELECT c.stored_user FROM changed c WHERE c.user_id IS NULL))
	), written AS (
		INSERT INTO ecstats.buyers (user_id, order_count, gmv, paid_amount, first_order_day, last_order_day, favourite_channel, favourite_region)
		SELECT c.user_id, c.order_count, c.gmv, c.paid_amount, c.first_order_day, c.last_order_day, c.favourite_channel, c.favourite_region
		  FROM changed c WHERE c.user_id IS NOT NULL ORDER BY c.user_id
		ON CONFLICT (user_id) DO UPDATE
		   SET order_count = excluded.order_count, gmv = excluded.gmv, paid_amount = excluded.paid_amount,
			   first_order_day = excluded.first_order_day, last_order_day = excluded.last_order_day,
			   favourite_channel = excluded.favourite_channel, favourite_region = excluded.favourite_region
	)
	SELECT count(*) FROM changed $$;
COMMENT ON FUNCTION ecstats.rollup_buyers(text[]) IS
	'Brings the rows of ecstats.buyers of some users to their days in ecstats.buyer_daily, touching only those that differ, and returns how many did.';

-- ecstats.rollup_buyers_anew: makes buyers anew from all stored days, which outlive raw rows as they do. For an operator,
-- where verify shows them wrong: a rebuild of days looks at the users that these have.
CREATE OR REPLACE FUNCTION ecstats.rollup_buyers_anew() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	PERFORM ecstats.must_be_read_committed('ecstats.rollup_buyers_anew makes buyers anew');
	PERFORM ecstats.rollup_lock();
	RETURN ecstats.rollup_buyers(array(SELECT b.user_id FROM ecstats.buyers b UNION SELECT d.user_id FROM ecstats.buyer_daily d));
END
$$;
COMMENT ON FUNCTION ecstats.rollup_buyers_anew() IS
	'Makes ecstats.buyers anew from all stored days and returns how many rows changed. 25000 unless READ COMMITTED.';

-- ecstats.rollup_buyers_at: ecstats.buyers as of a day: of those who bought since, what they had bought until then. Not
-- pinned by a SET clause, so that a query reads the table itself; and where nobody bought since, nothing is made anew.
CREATE OR REPLACE FUNCTION ecstats.rollup_buyers_at(as_of date) RETURNS SETOF ecstats.buyers
	LANGUAGE sql STABLE AS $$
	SELECT b.* FROM ecstats.buyers b
	 WHERE NOT EXISTS (SELECT FROM ecstats.buyer_daily d WHERE d.user_id OPERATOR(pg_catalog.=) b.user_id AND d.day OPERATOR(pg_catalog.>) as_of)
	UNION ALL
	SELECT o.* FROM ecstats.rollup_buyers_of(array(SELECT d.user_id FROM ecstats.buyer_daily d WHERE d.day OPERATOR(pg_catalog.>) as_of), as_of) o $$;
COMMENT ON FUNCTION ecstats.rollup_buyers_at(date) IS
	'ecstats.buyers as of a day: rows of users with a later day in ecstats.buyer_daily are made from their days up to as_of, and left out where there is none.';

