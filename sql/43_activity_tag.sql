-- sql/43_activity_tag.sql
-- Tags: whom the rules hold for, since when, and how many a day. doc/activity.md is the user's page.

-- ecstats.tag_values: the columns of ecstats.user_profile p, as a list of arguments.
CREATE OR REPLACE FUNCTION ecstats.tag_values(columns text[]) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format('p.%I', c.name), ', ' ORDER BY c.n) FROM unnest(columns) WITH ORDINALITY c(name, n) $$;
COMMENT ON FUNCTION ecstats.tag_values(text[]) IS 'Columns of ecstats.user_profile p, as a list of arguments.';

-- ecstats.tag_each: the elements of an array, of which the planner expects one: a user has few tags, if any.
CREATE OR REPLACE FUNCTION ecstats.tag_each(tags text[]) RETURNS SETOF text
	LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS 'array_unnest';
COMMENT ON FUNCTION ecstats.tag_each(text[]) IS 'The elements of an array of tags.';

-- ecstats.tag_asked: what some rules ask for together; a column at least, since each user is called with one.
CREATE OR REPLACE FUNCTION ecstats.tag_asked(rules jsonpath[]) RETURNS text[]
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(c.name ORDER BY c.n), '{as_of}')
	  FROM unnest(ecstats.tag_columns()) WITH ORDINALITY c(name, n)
	 WHERE EXISTS (SELECT FROM unnest(rules) r(rule) WHERE c.name = ANY (ecstats.tag_columns(r.rule))) $$;
COMMENT ON FUNCTION ecstats.tag_asked(jsonpath[]) IS 'Columns that some rules ask for together; as_of where they ask for none.';

-- ecstats.tag_in_zone: from here on times with a zone are compared with days of the shop. The caller has
-- SET timezone, which puts back at its end what was before.
CREATE OR REPLACE FUNCTION ecstats.tag_in_zone() RETURNS void
	LANGUAGE sql VOLATILE AS $$
	SELECT pg_catalog.set_config('timezone', (SELECT c.timezone FROM ecstats.config c), true) $$;
COMMENT ON FUNCTION ecstats.tag_in_zone() IS 'Sets the shop''s time zone until the end of the calling function, which must have SET timezone.';

-- ecstats.tag_put: brings user_tags to what the rules say as of a day; rows written. A tag that a run for this very day
-- gave and another takes back was never there; one that it took and another gives back has gone on. Rows are found by
-- where they stand: nobody else writes here (ecstats.tag_write has the lock).
CREATE OR REPLACE FUNCTION ecstats.tag_put(as_of date, tags text[], rules jsonpath[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	columns text[] := ecstats.tag_asked(rules);
	written bigint;
BEGIN
	EXECUTE format($query$
		WITH change AS MATERIALIZED (
			SELECT f.user_id, f.tag, h.at, h.since
			  FROM (SELECT p.who AS user_id, ecstats.tag_each(ecstats.tag_matches(%1$L, %2$L, %3$L, %4$s)) AS tag
					  FROM (SELECT p.user_id AS who, %4$s FROM ecstats.user_profile p LIMIT %5$s) p) f
			  FULL JOIN (SELECT t.user_id, t.tag, t.since, t.until, t.ctid AS at FROM ecstats.user_tags t
						  WHERE t.until IS NULL OR t.until = $1) h ON h.user_id = f.user_id AND h.tag = f.tag
			 WHERE CASE WHEN f.user_id IS NULL THEN h.until IS NULL ELSE h.at IS NULL OR h.until IS NOT NULL END
		), begun AS (
			INSERT INTO ecstats.user_tags (user_id, tag, since)
			SELECT c.user_id, c.tag, $1 FROM change c WHERE c.at IS NULL ORDER BY c.user_id, c.tag RETURNING 1
		), dropped AS (
			DELETE FROM ecstats.user_tags t
			 WHERE t.ctid = ANY (ARRAY(SELECT c.at FROM change c WHERE c.user_id IS NULL AND c.since = $1)) RETURNING 1
		), moved AS (
			UPDATE ecstats.user_tags t SET until = CASE WHEN t.until IS NULL THEN $1 END
			 WHERE t.ctid = ANY (ARRAY(SELECT c.at FROM change c WHERE c.at IS NOT NULL AND (c.user_id IS NOT NULL OR c.since < $1))) RETURNING 1
		)
		SELECT (SELECT count(*) FROM begun) + (SELECT count(*) FROM dropped) + (SELECT count(*) FROM moved)
		$query$, columns, tags, rules, ecstats.tag_values(columns), (SELECT 2 * count(*) + 1000 FROM ecstats.user_activity)) INTO written USING as_of;
	RETURN written;
END
$$;
COMMENT ON FUNCTION ecstats.tag_put(date, text[], jsonpath[]) IS
	'Brings ecstats.user_tags to what rules say of every user as of a day, where it is not; returns how many rows it wrote.';

-- ecstats.tag_count: brings tag_daily of a day to user_tags, where it is not.
CREATE OR REPLACE FUNCTION ecstats.tag_count(as_of date, tags text[]) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH counted AS MATERIALIZED (
		SELECT u.tag, sum(u.users) AS user_count, sum(u.entered) AS entered, sum(u.gone) AS left_count
		  FROM (SELECT t.tag, count(*) AS users, count(*) FILTER (WHERE t.since = as_of) AS entered, 0 AS gone
				  FROM ecstats.user_tags t WHERE t.until IS NULL GROUP BY t.tag
				UNION ALL SELECT t.tag, 0, 0, count(*) FROM ecstats.user_tags t WHERE t.until = as_of GROUP BY t.tag
				UNION ALL SELECT e.tag, 0, 0, 0 FROM unnest(tags) e(tag)) u
		 GROUP BY u.tag
	), dropped AS (
		DELETE FROM ecstats.tag_daily d WHERE d.day = as_of AND NOT EXISTS (SELECT FROM counted c WHERE c.tag = d.tag)
	)
	INSERT INTO ecstats.tag_daily AS d (day, tag, user_count, entered, left_count)
	SELECT as_of, c.tag, c.user_count, c.entered, c.left_count FROM counted c
	 WHERE NOT EXISTS (SELECT FROM ecstats.tag_daily o WHERE o.day = as_of AND o.tag = c.tag
						  AND (o.user_count, o.entered, o.left_count) = (c.user_count, c.entered, c.left_count))
	ON CONFLICT (day, tag) DO UPDATE
	   SET user_count = excluded.user_count, entered = excluded.entered, left_count = excluded.left_count $$;
COMMENT ON FUNCTION ecstats.tag_count(date, text[]) IS
	'Brings ecstats.tag_daily of a day to ecstats.user_tags, where it is not; tags: those that have a row even if nobody has them.';

-- ecstats.tag_write: tags every user by the enabled rules.
-- Arguments: as_of, the scored day, not before any that was written. Result: rows of user_tags written. The rules are
-- those committed when it begins; one that is written meanwhile holds from the next run. Errors: 22004 without a day;
-- 25000 unless READ COMMITTED. Writes user_tags and tag_daily; waits for another run.
CREATE OR REPLACE FUNCTION ecstats.tag_write(as_of date) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
	tags text[];
	rules jsonpath[];
	written bigint;
BEGIN
	IF as_of IS NULL THEN
		RAISE EXCEPTION 'tags are written as of a day' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the day that was scored.';
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats.tag_write writes tags');
	LOCK TABLE ecstats.user_tags IN SHARE ROW EXCLUSIVE MODE;
	PERFORM ecstats.tag_in_zone();
	SELECT coalesce(array_agg(r.tag ORDER BY r.tag), '{}'), coalesce(array_agg(r.rule ORDER BY r.tag), '{}') INTO tags, rules
	  FROM ecstats.tag_rules r WHERE r.enabled;
	written := ecstats.tag_put(as_of, tags, rules);
	PERFORM ecstats.tag_count(as_of, tags);
	RETURN written;
END
$$;
COMMENT ON FUNCTION ecstats.tag_write(date) IS
	'Gives and takes the tags of every user as of a scored day by the enabled rules, counts them in ecstats.tag_daily, and returns how many rows of ecstats.user_tags it wrote. Where nothing changes it writes nothing.';

-- ecstats_tag_audience(tag)
-- Purpose:   who has a tag now, for whoever wants to talk to them
-- Arguments: tag  one of ecstats.tag_rules, or one that is gone from there and was given once
-- Result:    user_ids, ascending
-- Errors:    42704 unknown tag; 22004 no tag
-- Tables:    reads ecstats.user_tags, tag_rules, tag_daily
CREATE OR REPLACE FUNCTION @extschema@.ecstats_tag_audience(tag text) RETURNS SETOF text
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF tag IS NULL THEN
		RAISE EXCEPTION 'the audience is that of a tag' USING ERRCODE = 'null_value_not_allowed', HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
	RETURN QUERY SELECT t.user_id::text FROM ecstats.user_tags t WHERE t.tag = ecstats_tag_audience.tag AND t.until IS NULL ORDER BY t.user_id COLLATE "C";
	IF NOT FOUND AND NOT EXISTS (SELECT FROM ecstats.tag_rules r WHERE r.tag = ecstats_tag_audience.tag)
		AND NOT EXISTS (SELECT FROM ecstats.tag_daily d WHERE d.tag = ecstats_tag_audience.tag) THEN
		RAISE EXCEPTION 'there is no such tag' USING ERRCODE = 'undefined_object', DETAIL = format('Value: %L.', left(tag, 60)),
			HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_tag_audience(text) IS
	'Users who have a tag now, ascending. Errors: 42704 for a tag that has no rule and never was given; 22004.';

-- ecstats_explain_tag(user_id, tag)
-- Purpose:   why a user has a tag, or has not
-- Arguments: user_id  who; tag  one of ecstats.tag_rules, enabled or not
-- Result:    one row: tag, rule, holds (asked now), since (NULL: the user has not got the tag), seen (each column that
--            the rule asks for with its value)
-- Errors:    42704 a tag without a rule; P0002 a user without a profile; 22004 a null argument
-- Tables:    reads ecstats.tag_rules, user_profile, user_tags
CREATE OR REPLACE FUNCTION @extschema@.ecstats_explain_tag(user_id text, INOUT tag text, OUT rule jsonpath, OUT holds boolean, OUT since date, OUT seen jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET jit = off AS $$
DECLARE
	columns text[];
BEGIN
	IF user_id IS NULL OR tag IS NULL THEN
		RAISE EXCEPTION 'a tag is explained for a user' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name both the user and the tag.';
	END IF;
	SELECT r.rule INTO rule FROM ecstats.tag_rules r WHERE r.tag = ecstats_explain_tag.tag;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such tag' USING ERRCODE = 'undefined_object', DETAIL = format('Value: %L.', left(tag, 60)),
			HINT = 'Tags are listed in ecstats.tag_rules.';
	END IF;
	PERFORM ecstats.tag_in_zone();
	columns := ecstats.tag_asked(ARRAY[rule]);
	EXECUTE format('SELECT ecstats.tag_matches(%1$L, %2$L, %3$L, %4$s) IS NOT NULL, ecstats.tag_seen(%1$L, %4$s) FROM ecstats.user_profile p WHERE p.user_id = $1',
				   columns, ARRAY[tag], ARRAY[rule], ecstats.tag_values(columns)) INTO holds, seen USING user_id;
	IF holds IS NULL THEN
		RAISE EXCEPTION 'there is no such user' USING ERRCODE = 'no_data_found', DETAIL = format('Value: %L.', left(user_id, 60)),
			HINT = 'Users who were scored are listed in ecstats.user_activity.';
	END IF;
	IF ecstats.tag_columns(rule) = '{}' THEN
		seen := '{}';
	END IF;
	SELECT t.since INTO since FROM ecstats.user_tags t
	 WHERE t.user_id = ecstats_explain_tag.user_id AND t.tag = ecstats_explain_tag.tag AND t.until IS NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_explain_tag(text, text) IS
	'Why a user has a tag, or has not: its rule, whether it holds now, since when the user has the tag (NULL: not), and the values that the rule saw. Errors: 42704 no such rule; P0002 no such user; 22004.';
