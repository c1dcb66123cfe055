-- sql/43_rollup_users.sql
-- Users of stored days: who was seen first when, and one user's days.

-- ecstats.rollup_users: the blocks of a stored day, in order.
CREATE OR REPLACE FUNCTION ecstats.rollup_users(the_day date) RETURNS bytea[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(u.packed ORDER BY u.first_user), '{}') FROM ecstats.user_day u WHERE u.day = the_day $$;
COMMENT ON FUNCTION ecstats.rollup_users(date) IS 'Blocks of ecstats.user_day of a day, in order.';

-- ecstats.rollup_users_at: those blocks of a stored day that can have one of some users, in order.
CREATE OR REPLACE FUNCTION ecstats.rollup_users_at(the_day date, user_ids text[]) RETURNS bytea[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(u.packed ORDER BY u.first_user), '{}')
	  FROM ecstats.user_day u
	 WHERE u.day = the_day AND u.first_user IN (
		SELECT (SELECT f.first_user FROM ecstats.user_day f
				 WHERE f.day = the_day AND f.first_user <= w.user_id COLLATE "C" ORDER BY f.first_user DESC LIMIT 1)
		  FROM unnest(user_ids) w(user_id)) $$;
COMMENT ON FUNCTION ecstats.rollup_users_at(date, text[]) IS 'Blocks of ecstats.user_day of a day that can have one of some users, in order.';

-- ecstats.rollup_next_days: for users (ascending) the next stored day after a day on which each has an event, NULL
-- where there is none. A day is read once for all users who have not been found yet.
CREATE OR REPLACE FUNCTION ecstats.rollup_next_days(the_day date, user_ids text[]) RETURNS date[]
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
	few CONSTANT integer := 500;		-- look-ups that cost less than a whole day's blocks
	wanted text[] := user_ids;
	found_there text[];
	found text[] := '{}';
	found_on date[] := '{}';
	later date;
BEGIN
	FOR later IN SELECT k.day FROM ecstats.daily_kpi k WHERE k.day > the_day ORDER BY k.day LOOP
		EXIT WHEN wanted = '{}';
		found_there := ecstats.rollup_among(wanted,
			CASE WHEN cardinality(wanted) <= few THEN ecstats.rollup_users_at(later, wanted) ELSE ecstats.rollup_users(later) END);
		CONTINUE WHEN found_there = '{}';
		wanted := ecstats.rollup_without(wanted, found_there);
		found := found || found_there;
		found_on := found_on || array_fill(later, ARRAY[cardinality(found_there)]);
	END LOOP;
	RETURN array(SELECT f.day FROM unnest(user_ids) WITH ORDINALITY x(u, n) LEFT JOIN unnest(found, found_on) f(u, day) ON f.u = x.u ORDER BY x.n);
END
$$;
COMMENT ON FUNCTION ecstats.rollup_next_days(date, text[]) IS 'For each of some users, ascending, the next stored day after a day with an event of theirs, or NULL.';

-- ecstats.rollup_first_seen: brings first_seen to the stored users of a day; had: the blocks of users that the day
-- had before; NULL: whoever is first seen on the day is looked for among its users, as a rebuild does. Result: how many users were first seen on the day, and on each other day that this changed.
CREATE OR REPLACE FUNCTION ecstats.rollup_first_seen(the_day date, had bytea[]) RETURNS TABLE (of_day date, users bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
	seen text[];
	gone text[] := '{}';
BEGIN
	IF had IS NULL THEN
		seen := array(SELECT f.user_id FROM ecstats.first_seen f WHERE f.day = the_day ORDER BY f.user_id COLLATE "C");
		gone := ecstats.rollup_without(seen, ecstats.rollup_among(seen, ecstats.rollup_users(the_day)));
	ELSIF had <> '{}' THEN
		gone := ecstats.rollup_gone(had, ecstats.rollup_users(the_day));
	END IF;
	RETURN QUERY
	WITH m AS MATERIALIZED (
		SELECT * FROM ecstats.rollup_first_merge_stored(the_day, gone, ecstats.rollup_next_days(the_day, gone))
	), dropped AS (
		DELETE FROM ecstats.first_seen_block f USING m
		 WHERE m.kind = 'x' AND f.first_user = m.first_user
		   AND NOT EXISTS (SELECT FROM m b WHERE b.kind = 'b' AND b.first_user = m.first_user)
	), written AS (
		INSERT INTO ecstats.first_seen_block (first_user, users, packed)
		SELECT m.first_user, m.users, m.packed FROM m WHERE m.kind = 'b'
		ON CONFLICT (first_user) DO UPDATE SET users = excluded.users, packed = excluded.packed
	)
	SELECT m.of_day, m.users FROM m WHERE m.kind = 'd';
END
$$;
COMMENT ON FUNCTION ecstats.rollup_first_seen(date, bytea[]) IS
	'Brings first_seen to the stored users of a day, which had other blocks before; returns the number of new users of it and of the days that this changed.';

-- ecstats.rollup_put_new_users: writes new numbers of new users into stored days, the last one given for a day. Not into
-- those whose events are gone: what was counted from these stays. Nor into computed: a day's own close knew its number.
CREATE OR REPLACE FUNCTION ecstats.rollup_put_new_users(days date[], new_users bigint[], computed date[], at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kpi ecstats.daily_kpi;
	d record;
BEGIN
	FOR d IN SELECT DISTINCT ON (x.day) x.day, x.users FROM unnest(days, new_users) WITH ORDINALITY x(day, users, n)
			  WHERE x.day <> ALL (computed) ORDER BY x.day, x.n DESC LOOP
		CONTINUE WHEN EXISTS (SELECT FROM ecstats.day_state s WHERE s.day = d.day AND (s.frozen OR s.events_dropped));
		SELECT * INTO kpi FROM ecstats.daily_kpi k WHERE k.day = d.day;
		CONTINUE WHEN NOT FOUND;	-- somebody has deleted it
		kpi.new_user_count := d.users;
		PERFORM ecstats.rollup_put(kpi, at, kpi.complete);
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.rollup_put_new_users(date[], bigint[], date[], timestamptz) IS
	'Restates new_user_count of stored days whose events are there, but for those that were computed.';

-- ecstats.user_events: what one user did on stored days.
-- Arguments: user_id; from_day, to_day (both inclusive; by default all days). Result: as the view user_daily has it,
-- found by the key of the blocks. Touches nothing.
CREATE OR REPLACE FUNCTION ecstats.user_events(user_id text, from_day date DEFAULT '-infinity', to_day date DEFAULT 'infinity')
	RETURNS TABLE (day date, event text, event_count bigint)
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT k.day, n.event, c.event_count
	  FROM ecstats.daily_kpi k
	 CROSS JOIN LATERAL (SELECT u.packed FROM ecstats.user_day u
						  WHERE u.day = k.day AND u.first_user <= user_events.user_id COLLATE "C" ORDER BY u.first_user DESC LIMIT 1) b
	 CROSS JOIN LATERAL ecstats.rollup_users_unpack(b.packed) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no
	 WHERE k.day BETWEEN from_day AND to_day AND c.user_id = user_events.user_id COLLATE "C"
	 ORDER BY k.day, n.event $$;
COMMENT ON FUNCTION ecstats.user_events(text, date, date) IS
	'Events of one user on stored days from from_day to to_day (both inclusive, by default all), by name, as in ecstats.user_daily.';
