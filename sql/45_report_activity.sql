-- sql/45_report_activity.sql
-- The facts of a report about activity as JSON: levels and who moved between them, tags, an audience, segments,
-- retention. All of the latest day that was scored: where a user was before, and who has a tag, is known of no other.
-- Passes over all users do without JIT, which takes several times as long as they do.

-- report_scored_day refuses a day that the scores are not of.
CREATE OR REPLACE FUNCTION ecstats.report_scored_day(day date) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	scored date := (SELECT s.as_of FROM ecstats.activity_state s);
BEGIN
	IF day IS DISTINCT FROM scored THEN
		RAISE EXCEPTION 'there are no facts of activity of this day'
			USING ERRCODE = 'no_data_found',
				  DETAIL = format('Day %s; %s.', to_char(day, 'YYYY-MM-DD'),
								  coalesce('users were scored as of ' || to_char(scored, 'YYYY-MM-DD'), 'no day was scored yet')),
				  HINT = CASE WHEN scored IS NULL THEN 'SELECT ecstats_daily() closes a day and scores it.'
							  ELSE 'Movements and audiences are known of the latest scored day alone: give that one.' END;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.report_scored_day(date) IS
	'P0002, with the day that there is, unless the activity tables are of this day';

-- report_person_label makes a user's id harmless inside Markdown, and takes the characters out that turn the
-- direction of what follows them.
CREATE OR REPLACE FUNCTION ecstats.report_person_label(user_id text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT ecstats.report_label(pg_catalog.translate(user_id,
		COALESCE(ecstats.native_text('\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'), ''), ''))
	$$;
COMMENT ON FUNCTION ecstats.report_person_label(text) IS
	'a user''s id for people to read: Markdown''s active characters and marks of writing direction made harmless';

-- report_level_cn names a level in Chinese; in an encoding that has none it stays as it is.
CREATE OR REPLACE FUNCTION ecstats.report_level_cn(level text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT COALESCE(CASE level WHEN 'high' THEN ecstats.native_text('高活跃') WHEN 'mid' THEN ecstats.native_text('中活跃')
		WHEN 'low' THEN ecstats.native_text('低活跃') END, level)
	$$;
COMMENT ON FUNCTION ecstats.report_level_cn(text) IS 'a level in Chinese where the encoding can hold it';

-- report_levels counts users by level, now and one day before, in one pass.
CREATE OR REPLACE FUNCTION ecstats.report_levels() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	WITH cells AS MATERIALIZED (
		SELECT a.level, a.previous_level, a.score > 0 AS active, count(*) AS n
		  FROM ecstats.user_activity a
		 GROUP BY a.level, a.previous_level, a.score > 0
	), names(level, rank) AS (
		VALUES ('high', 1), ('mid', 2), ('low', 3)
	), counts AS (
		SELECT l.level, l.rank, coalesce(sum(c.n) FILTER (WHERE c.level = l.level), 0) AS now,
			   coalesce(sum(c.n) FILTER (WHERE c.previous_level = l.level), 0) AS before, coalesce(sum(c.n), 0) AS users
		  FROM names l LEFT JOIN cells c ON true
		 GROUP BY l.level, l.rank
	), levels AS (
		SELECT c.rank, c.level, jsonb_build_object(
				'level', c.level, 'level_cn', ecstats.report_level_cn(c.level), 'first', c.rank = 1,
				'user_count', c.now, 'share', c.now / nullif(c.users, 0), 'previous_count', c.before,
				'change', c.now - c.before, 'change_text', ecstats.report_points_text(c.now - c.before, 0)) AS item
		  FROM counts c
	), moved AS (
		SELECT p.level AS from_level, n.level AS to_level, n.rank < p.rank AS up, sum(c.n) AS users,
			   row_number() OVER (ORDER BY p.rank, n.rank) AS rank
		  FROM cells c JOIN names p ON p.level = c.previous_level JOIN names n ON n.level = c.level
		 WHERE c.level <> c.previous_level
		 GROUP BY p.level, p.rank, n.level, n.rank
	)
	SELECT jsonb_build_object(
			'users', (SELECT coalesce(sum(c.n), 0) FROM cells c),
			'active_users', (SELECT coalesce(sum(c.n), 0) FROM cells c WHERE c.active),
			'levels', (SELECT jsonb_agg(l.item ORDER BY l.rank) FROM levels l),
			'levels_by', (SELECT jsonb_object_agg(l.level, l.item) FROM levels l),
			'movements', coalesce(jsonb_agg(jsonb_build_object(
				'from', m.from_level, 'to', m.to_level, 'from_cn', ecstats.report_level_cn(m.from_level),
				'to_cn', ecstats.report_level_cn(m.to_level), 'up', m.up, 'user_count', m.users, 'first', m.rank = 1) ORDER BY m.rank), '[]'),
			'has_movements', count(*) > 0,
			'up', coalesce(sum(m.users) FILTER (WHERE m.up), 0),
			'down', coalesce(sum(m.users) FILTER (WHERE NOT m.up), 0))
	  FROM moved m
	$$;
COMMENT ON FUNCTION ecstats.report_levels() IS
	'users, active_users, levels, levels_by, movements (of users whose level changed since the day before), has_movements, up, down';

-- report_tags lists the tags that are in force, and those that somebody had or lost on the day: how many have it, who
-- came and who went on the day and in the week up to it.
CREATE OR REPLACE FUNCTION ecstats.report_tags(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH week AS (
		SELECT d.tag, sum(d.entered) AS entered, sum(d.left_count) AS left_count
		  FROM ecstats.tag_daily d
		 WHERE d.day BETWEEN at_day - 6 AND at_day
		 GROUP BY d.tag
	), tags AS (
		SELECT coalesce(r.tag, d.tag) AS tag, r.description, coalesce(d.user_count, 0) AS users,
			   coalesce(d.entered, 0) AS entered, coalesce(d.left_count, 0) AS left_count
		  FROM (SELECT * FROM ecstats.tag_daily t WHERE t.day = at_day) d
		  FULL JOIN ecstats.tag_rules r ON r.tag = d.tag
		 WHERE r.enabled OR d.user_count + d.entered + d.left_count > 0
	), items AS (
		SELECT t.tag, jsonb_build_object(
				'tag', t.tag, 'description', t.description, 'user_count', t.users, 'entered', t.entered, 'left_count', t.left_count,
				'first', row_number() OVER (ORDER BY t.tag COLLATE "C") = 1,
				'week', jsonb_build_object(
					'entered', coalesce(w.entered, 0), 'left_count', coalesce(w.left_count, 0), 'previous_count', b.user_count,
					'change', t.users - b.user_count, 'change_text', ecstats.report_points_text(t.users - b.user_count, 0))) AS item
		  FROM tags t
		  LEFT JOIN week w ON w.tag = t.tag
		  LEFT JOIN ecstats.tag_daily b ON b.day = at_day - 7 AND b.tag = t.tag
	)
	SELECT jsonb_build_object('tags', coalesce(jsonb_agg(i.item ORDER BY i.tag COLLATE "C"), '[]'),
							  'tags_by', coalesce(jsonb_object_agg(i.tag, i.item), '{}'))
	  FROM items i
	$$;
COMMENT ON FUNCTION ecstats.report_tags(date) IS
	'tags and tags_by of a scored day: user_count, entered, left_count, and week {entered, left_count, previous_count, change, change_text} (7 days up to and including the day)';

-- report_audience describes who has a tag, and shows ten of them: those who paid most first. NULL for no tag.
CREATE OR REPLACE FUNCTION ecstats.report_audience(report text, audience text, at_day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	about text;
	users bigint;
	fresh bigint;
	profiles bigint;
	shown jsonb;
BEGIN
	IF audience IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT coalesce(r.description, '') INTO about FROM ecstats.tag_rules r WHERE r.tag = audience;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tag "%" of report "%" does not exist', left(audience, 64), report
			USING ERRCODE = 'undefined_object', HINT = 'INSERT it into ecstats.tag_rules, or set another audience in ecstats.reports.';
	END IF;
	SELECT count(*), count(*) FILTER (WHERE t.since > at_day - 7) INTO users, fresh
	  FROM ecstats.user_tags t
	 WHERE t.tag = audience AND t.until IS NULL;
	profiles := (SELECT count(*) FROM ecstats.user_activity);

	SELECT coalesce(jsonb_agg(jsonb_build_object(
			'rank', s.rank, 'first', s.rank = 1, 'user_id', s.user_id, 'label', ecstats.report_person_label(s.user_id),
			'days_silent', s.days_silent, 'last_active_day', s.last_active_day, 'level', s.level,
			'paid_amount', s.paid_amount, 'order_count', s.order_count, 'days_since_order', s.days_since_order,
			'favourite_channel', s.favourite_channel, 'favourite_region', s.favourite_region, 'segment', s.segment)
			ORDER BY s.rank), '[]') INTO shown
	  FROM (SELECT p.*, row_number() OVER (ORDER BY p.paid_amount DESC, p.user_id COLLATE "C") AS rank
			  FROM (SELECT a.user_id FROM ecstats.user_tags t JOIN ecstats.user_activity a ON a.user_id = t.user_id
					 WHERE t.tag = audience AND t.until IS NULL
					 ORDER BY a.paid_amount DESC, a.user_id COLLATE "C" LIMIT 10) f
			  JOIN ecstats.user_profile p ON p.user_id = f.user_id) s;
	RETURN jsonb_build_object(
		'tag', audience, 'description', nullif(about, ''), 'user_count', users, 'new_count', fresh,
		'share', users::numeric / nullif(profiles, 0), 'sample', shown, 'has_sample', shown <> '[]',
		'sample_left', users - jsonb_array_length(shown), 'has_more', users > jsonb_array_length(shown));
END
$$;
COMMENT ON FUNCTION ecstats.report_audience(text, text, date) IS
	'who has a tag: tag, description, user_count, new_count (of the last 7 days), share, sample of 10 at most, has_sample, sample_left, has_more; NULL for no tag, 42704 for an unknown one';

-- report_segments counts buyers by segment, and what they paid in all.
CREATE OR REPLACE FUNCTION ecstats.report_segments() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('segment', s.segment, 'user_count', s.users, 'paid_amount', s.paid)
							  ORDER BY s.paid DESC, s.segment COLLATE "C"), '[]')
	  FROM (SELECT p.segment, count(*) AS users, sum(p.paid_amount) AS paid
			  FROM ecstats.user_profile p
			 WHERE p.last_order_day IS NOT NULL
			 GROUP BY p.segment) s
	$$;
COMMENT ON FUNCTION ecstats.report_segments() IS 'segments of buyers [{segment, user_count, paid_amount}], the one that paid most first';

-- report_cohorts gives the newest retention that is known after 1, 7 and 30 days; null where there is none yet.
CREATE OR REPLACE FUNCTION ecstats.report_cohorts(at_day date) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_object_agg('d' || a.age, (
			SELECT jsonb_build_object('cohort_day', c.cohort_day, 'cohort_size', c.cohort_size, 'retained', c.retained,
									  'rate', c.retained::numeric / nullif(c.cohort_size, 0))
			  FROM ecstats.cohorts c
			 WHERE c.age_days = a.age AND c.cohort_day <= at_day - a.age
			 ORDER BY c.cohort_day DESC LIMIT 1))
	  FROM (VALUES (1), (7), (30)) a(age)
	$$;
COMMENT ON FUNCTION ecstats.report_cohorts(date) IS
	'd1, d7, d30: {cohort_day, cohort_size, retained, rate} of the newest users whose 1st, 7th, 30th day is over; null: none';

-- report_activity: what a template and a condition see of the latest scored day.
-- Result: a JSON object (members in doc/report.md). Errors: P0002 another day, 42704 the audience's tag is unknown.
-- Reads: the activity tables, daily_kpi, config.
CREATE OR REPLACE FUNCTION ecstats.report_activity(definition ecstats.reports, day date) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
DECLARE
	zone text := (SELECT c.timezone FROM ecstats.config c);
	tags jsonb;
BEGIN
	PERFORM ecstats.report_scored_day(day);
	tags := ecstats.report_tags(day);
	RETURN jsonb_build_object('day', day)
		|| coalesce(ecstats.report_kpi(day, zone), '{}')
		|| ecstats.report_day(definition, day)
		|| ecstats.report_levels()
		|| tags
		|| jsonb_build_object(
			'as_of', day,
			'data_as_of', (SELECT ecstats.report_timestamp(s.scored_at, zone) FROM ecstats.activity_state s),
			'audience', ecstats.report_audience(definition.name, definition.audience, day)
				|| jsonb_build_object('week', tags -> 'tags_by' -> definition.audience -> 'week'),
			'segments', ecstats.report_segments(),
			'cohorts', ecstats.report_cohorts(day));
END
$$;
COMMENT ON FUNCTION ecstats.report_activity(ecstats.reports, date) IS
	'facts of dataset activity of the latest scored day as JSON; P0002 for another day, 42704 where the report''s audience is no tag';
