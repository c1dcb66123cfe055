-- Tags: which rules are stored, whom the shipped ones hold for, since when and until when, what a day counts, and why.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'SQL, DMY';
\set SHOW_CONTEXT never
\pset format unaligned

-- the columns that C knows are those of the view
SELECT ecstats.tag_columns() = array_agg(a.attname::text ORDER BY a.attnum) AS same, count(*) > 20 AS all_of_them
  FROM pg_attribute a WHERE a.attrelid = 'ecstats.user_profile'::regclass AND a.attnum > 0;
-- ... and a rule over each is stored, and asks for that one
SELECT c, ecstats.tag_columns(format('$.%s == 1', c)::jsonpath) FROM unnest(ecstats.tag_columns()) c WHERE ecstats.tag_columns(format('$.%s == 1', c)::jsonpath) <> ARRAY[c];
INSERT INTO ecstats.tag_rules (tag, rule) SELECT 'c_' || c, format('exists($ ? (@.%s != null))', c)::jsonpath FROM unnest(ecstats.tag_columns()) c;
DELETE FROM ecstats.tag_rules WHERE tag LIKE 'c\_%';
SELECT tag, rule, enabled, description FROM ecstats.tag_rules ORDER BY tag;

-- ---------------------------------------------------------------- which rules are refused, and how
CREATE FUNCTION pg_temp.refused(rule text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text; hint text; tab text; col text;
BEGIN
	INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', rule::jsonpath);
	DELETE FROM ecstats.tag_rules WHERE tag = 'bad';
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, tab = TABLE_NAME, col = COLUMN_NAME;
	-- what PostgreSQL itself says differs between its versions
	RETURN CASE WHEN tab = '' THEN code ELSE format('%s %s.%s: %s. %s', code, tab, col, message, detail) END;
END
$$;
SELECT left(rule, 60) AS rule, pg_temp.refused(rule) FROM (VALUES
	-- names that no profile has
	('$.nosuch == 1'), ('$.Level == "high"'), ('$."level " == "high"'), ('$.scores > 1 && $.level == "high"'), ('$.level == "high" || !($.age > 3)'),
	('exists($ ? (@.lvl == "high"))'), ('$ ? (@.level == "high").lvl == 1'), ('exists($ ? (@.score > 1 && exists(@ ? (@.foo == 1))))'),
	('-$.debt > 0'), ('$.score + $.bonus > 3'), ('$.name starts with "A"'), ('$.name like_regex "^A"'), ('($.x == 1) is unknown'), ('strict $.x == 1'),
	('$.level ? ($.tier == 1) == "high"'), ('$.score[$.n] == 1'), ('$.score[0 to $.n] == 1'), ('$[*].nosuch == 1'), ('$.**.nosuch == 1'), ('$.keyvalue().name == "level"'),
	('$."' || repeat('x', 200) || '" == 1'), (E'$."a\\nb\\"" == 1'), ('$."" == 1'), ('$.nosuch.type() == "null"'),
	-- nothing is below a column
	('$.level.x == 1'), ('$.level.level == "high"'), ('$.score.* == 1'), ('$.level[0].x == 1'), ('exists($.level ? (@.x == 1))'), ('$.score.abs().x == 1'),
	('"x".level == "high"'), ('$.*.level == "high"'), ('$.keyvalue().key.level == 1'), ('$.**{2 to last}.level == 1'),
	-- no variables
	('$.score > $limit'), ('$.level starts with $p'), ('exists($ ? (@.score > $x))'),
	-- no predicates
	('$'), ('$.level'), ('$ ? (@.score > 1)'), ('$.score + 1'), ('-$.score'), ('true'), ('"high"'), ('null'), ('($.score > 1).type()'), ('$.*'), ('$.level.type()'), ('$.first_seen.datetime()'),
	-- no jsonpath
	(''), ('$.'), ('$.level = "high"'), ('$.level like_regex "("'), ('@.level == 1'), ('$.score > last'), ('level == "high"'),
	-- errors of PostgreSQL that a rule would come to
	('$.first_seen.datetime("??") == "x"'), ('$.score > 100 && $.first_seen.datetime("bogus Q") == "x"'),
	-- too long, too deep
	('$.score == 1' || repeat(' || $.score == 1', 200)), (repeat('(', 300) || '$.score == 1' || repeat(')', 300)), ('!(' || repeat('!(', 120) || '$.score == 1' || repeat(')', 121)),
	('$.score' || repeat(' + 1', 100) || ' > 1'), (repeat('-', 10) || '$.score > 1'), ('exists($' || repeat(' ? (exists(@', 30) || repeat('))', 30) || ')')) v(rule);
SELECT count(*) AS left_behind FROM ecstats.tag_rules WHERE tag = 'bad';
-- what parser stacks cannot take is refused, not crashed on
SELECT pg_temp.refused(repeat('(', 100000) || '$.score == 1' || repeat(')', 100000)) IN ('42601', '54001') AS too_deep, pg_temp.refused('$.score == 1' || repeat(' && $.score == 1', 20000)) ~ '^5400[01]' AS too_long;

-- one with everything that is said, by each way a rule comes in
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', '$.nosuch == 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', '$.score.max == 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', '$.score > $x');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', '$ ? (@.score > 1)');
UPDATE ecstats.tag_rules SET rule = '$.nosuch == 1' WHERE tag = 'new_user';
\set VERBOSITY terse
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('new_user', '$.nosuch == 1') ON CONFLICT (tag) DO UPDATE SET rule = excluded.rule;
COPY ecstats.tag_rules (tag, rule) FROM stdin;
good	$.score > 1
bad	$.nosuch == 1
\.
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('Bad', '$.score > 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('9a', '$.score > 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('', '$.score > 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES (E'a\nb', '$.score > 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES (repeat('a', 64), '$.score > 1');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', NULL);
INSERT INTO ecstats.tag_rules (tag, rule) VALUES (NULL, '$.score > 1');
-- one that would take for ever does so when it is written, and can be stopped
SET statement_timeout = 300;
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', ('$.level' || repeat('[0,0]', 60) || '.type() == "x"')::jsonpath);
RESET statement_timeout;
\set VERBOSITY default
SELECT count(*) FROM ecstats.tag_rules;

-- these are stored, odd as they are
SELECT rule, pg_temp.refused(rule), ecstats.tag_columns(rule::jsonpath) AS asks FROM (VALUES
	('1 == 1'), ('strict $.level == "high"'), ('lax $.level[*] == "high"'), ('$.level[0] == "high"'), ('$.* == null'), ('exists($.** ? (@ == 5))'), ('$.**.level == "high"'),
	('exists($.keyvalue() ? (@.key == "level" && @.value == "high"))'), ('$[*].level == "high"'), ('$.level.type() == "string"'), ('$.level.size() == 1'), ('$.score.floor() % 2 == 0'),
	('$.segment == null'), ('exists($.score ? (@ > 1 && $.m == 5))'), ('$.level starts with "h" && $.level like_regex "^h.*$" flag "i"'), ('$.first_seen.datetime() < "2026-03-01".datetime()'),
	('$.first_seen.datetime() < "2026-03-01T00:00:00+08".datetime("YYYY-MM-DD\"T\"HH24:MI:SSTZH")'), ('($.score / 0 > 1) is unknown'), ('!exists($ ? (@.level != "low"))'), ('-$.score < +$.previous_score')) v(rule);

-- ---------------------------------------------------------------- whom the shipped rules hold for: just, and just not
UPDATE ecstats.activity_state SET as_of = '2026-03-10', monetary = '{10,20,30,40}', frequency = '{1,2,3,4}', recency = '{2026-01-01,2026-02-01,2026-03-01,2026-03-05}';
CREATE FUNCTION pg_temp.somebody(user_id text, level text, silent integer, known integer, high integer, orders bigint, paid numeric, ordered integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO ecstats.user_activity (user_id, as_of, score, level, last_active_day, first_seen, last_high_day, order_count, paid_amount, last_order_day)
	SELECT user_id, s.as_of, CASE level WHEN 'high' THEN 12.5 WHEN 'mid' THEN 3.25 ELSE 0 END, level, s.as_of - silent, s.as_of - known, s.as_of - high, orders, paid, s.as_of - ordered FROM ecstats.activity_state s $$;
SELECT count(pg_temp.somebody(u, l, s, k, h, o, p, d) IS NULL) AS users FROM (VALUES
	('high', 'high', 0, 90, 0, 0, 0, NULL), ('mid', 'mid', 0, 90, NULL, 0, 0, NULL),
	('new 6', 'low', 1, 6, NULL, 0, 0, NULL), ('new 7', 'low', 1, 7, NULL, 0, 0, NULL),
	('recall 3 14', 'low', 3, 90, 14, 0, 0, NULL), ('recall 2 14', 'low', 2, 90, 14, 0, 0, NULL), ('recall 3 15', 'low', 3, 90, 15, 0, 0, NULL), ('recall 9 -', 'low', 9, 90, NULL, 0, 0, NULL),
	('churn 7', 'low', 7, 90, NULL, 1, 5, 90), ('churn 6', 'low', 6, 90, NULL, 1, 5, 90), ('churn 30', 'low', 30, 90, NULL, 1, 5, 90), ('churn 31', 'low', 31, 90, NULL, 1, 5, 90),
	('churn order 6', 'low', 20, 90, NULL, 1, 5, 6), ('churn order 7', 'low', 20, 90, NULL, 1, 5, 7), ('churn never', 'low', 20, 90, NULL, 0, 0, NULL), ('churn high 12', 'low', 12, 90, 12, 0, 0, NULL),
	('spent 40', 'low', 40, 90, NULL, 9, 40.00, 40), ('spent 39.99', 'low', 40, 90, NULL, 9, 39.99, 40), ('orders alone', 'low', NULL, NULL, NULL, 2, 15, 20)) v(u, l, s, k, h, o, p, d);
INSERT INTO ecstats.user_activity (user_id, as_of) VALUES ('nothing', '2026-03-10');
CREATE TEMP VIEW tags_now AS SELECT a.user_id, array_agg(t.tag ORDER BY t.tag) FILTER (WHERE t.tag IS NOT NULL) AS tags
	FROM ecstats.user_activity a LEFT JOIN ecstats.user_tags t ON t.user_id = a.user_id AND t.until IS NULL GROUP BY a.user_id;
SELECT ecstats.tag_write('2026-03-10');
SELECT * FROM tags_now ORDER BY user_id;
SELECT to_char(day, 'MM-DD') AS day, tag, user_count, entered, left_count FROM ecstats.tag_daily ORDER BY tag_daily.day, tag;

-- ---------------------------------------------------------------- a second run writes nothing
CREATE TEMP TABLE versions AS SELECT 'tags' AS of, user_id || tag AS key, ctid::text AS place, xmin::text AS by FROM ecstats.user_tags UNION ALL SELECT 'daily', tag, ctid::text AS place, xmin::text AS by FROM ecstats.tag_daily;
SELECT ecstats.tag_write('2026-03-10');
SELECT count(*) AS before, count(n.key) AS untouched
  FROM versions v LEFT JOIN (SELECT 'tags' AS of, user_id || tag AS key, ctid::text AS place, xmin::text AS by FROM ecstats.user_tags UNION ALL SELECT 'daily', tag, ctid::text AS place, xmin::text AS by FROM ecstats.tag_daily) n
	ON (n.of, n.key, n.place, n.by) = (v.of, v.key, v.place, v.by);
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written FROM ecstats.tag_put('2026-03-10', (SELECT array_agg(tag ORDER BY tag) FROM ecstats.tag_rules), (SELECT array_agg(rule ORDER BY tag) FROM ecstats.tag_rules));

-- ---------------------------------------------------------------- since and until
CREATE TEMP VIEW history AS SELECT user_id, tag, to_char(since, 'MM-DD') AS since, to_char(until, 'MM-DD') AS until FROM ecstats.user_tags;
CREATE TEMP VIEW counts AS SELECT to_char(day, 'MM-DD') AS day, tag, user_count, entered, left_count FROM ecstats.tag_daily;
CREATE FUNCTION pg_temp.next_day(day date) RETURNS bigint LANGUAGE sql AS $$ UPDATE ecstats.activity_state SET as_of = day; SELECT ecstats.tag_write(day) $$;
DELETE FROM ecstats.user_tags; DELETE FROM ecstats.tag_daily; DELETE FROM ecstats.user_activity;
DELETE FROM ecstats.tag_rules WHERE tag NOT IN ('high_active', 'new_user');
SELECT pg_temp.somebody('a', 'high', 0, 90, 0, 0, 0, NULL), pg_temp.somebody('b', 'low', 0, 5, NULL, 0, 0, NULL), pg_temp.somebody('c', 'low', 0, 90, NULL, 0, 0, NULL);
SELECT pg_temp.next_day('2026-03-10');
SELECT * FROM history ORDER BY 1, 2, 3;
-- again, with other data: begun and ended on one day leaves nothing
UPDATE ecstats.user_activity SET level = CASE user_id WHEN 'c' THEN 'high' ELSE 'low' END;
SELECT pg_temp.next_day('2026-03-10');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day = '03-10' ORDER BY tag;
-- the next day time alone takes new_user from b on the 12th; c leaves and a enters on the 11th
UPDATE ecstats.user_activity SET level = CASE user_id WHEN 'a' THEN 'high' ELSE 'low' END;
SELECT pg_temp.next_day('2026-03-11');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day = '03-11' ORDER BY tag;
-- again, and c is what he was: his row goes on, and nobody has left
UPDATE ecstats.user_activity SET level = 'high' WHERE user_id = 'c';
SELECT pg_temp.next_day('2026-03-11');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day = '03-11' ORDER BY tag;
-- and once more the other way round
UPDATE ecstats.user_activity SET level = CASE user_id WHEN 'c' THEN 'low' ELSE level END;
SELECT pg_temp.next_day('2026-03-11');
SELECT pg_temp.next_day('2026-03-12');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day >= '03-11' ORDER BY day, tag;
-- c comes back some days later: a second row
UPDATE ecstats.user_activity SET level = 'high' WHERE user_id = 'c';
SELECT pg_temp.next_day('2026-03-15');
SELECT * FROM history ORDER BY 1, 2, 3;
-- a user who is gone, a rule that is disabled, one that is deleted, one that is new
DELETE FROM ecstats.user_activity WHERE user_id = 'a';
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('everybody', '1 == 1'), ('nobody', '1 == 2');
SELECT pg_temp.next_day('2026-03-16');
UPDATE ecstats.tag_rules SET enabled = false WHERE tag = 'high_active';
DELETE FROM ecstats.tag_rules WHERE tag = 'everybody';
SELECT pg_temp.next_day('2026-03-17');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day >= '03-16' ORDER BY day, tag;
-- at once on again: as if nothing had been; and a tag of this day alone, gone with all its traces
UPDATE ecstats.tag_rules SET enabled = true WHERE tag = 'high_active';
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('passing', '$.level == "low"');
SELECT pg_temp.next_day('2026-03-17');
SELECT * FROM counts WHERE day = '03-17' ORDER BY tag;
DELETE FROM ecstats.tag_rules WHERE tag = 'passing';
SELECT pg_temp.next_day('2026-03-17');
SELECT * FROM history ORDER BY 1, 2, 3;
SELECT * FROM counts WHERE day = '03-17' ORDER BY tag;
-- no rules at all
BEGIN;
DELETE FROM ecstats.tag_rules;
SELECT pg_temp.next_day('2026-03-18');
SELECT count(*) AS open FROM ecstats.user_tags WHERE until IS NULL;
SELECT * FROM counts WHERE day = '03-18' ORDER BY tag;
ROLLBACK;
\set VERBOSITY terse
SELECT ecstats.tag_write(NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats.tag_write('2026-03-17');
ROLLBACK;
\set VERBOSITY default

-- ---------------------------------------------------------------- who, and why
SELECT ecstats_tag_audience('high_active');
INSERT INTO ecstats.user_tags VALUES ('Z', 'high_active', '2026-03-17'), ('_', 'high_active', '2026-03-17'), ('a1', 'high_active', '2026-03-17');
SELECT array_agg(u) FROM ecstats_tag_audience('high_active') u;
DELETE FROM ecstats.user_tags WHERE user_id IN ('Z', '_', 'a1');
SELECT count(*) FROM ecstats_tag_audience('nobody');		-- a rule, no rows
SELECT count(*) FROM ecstats_tag_audience('everybody');		-- no rule, but there was one
SELECT ecstats_tag_audience('nosuch');
SELECT ecstats_tag_audience(NULL);
\x on
SELECT * FROM ecstats_explain_tag('c', 'high_active');
SELECT * FROM ecstats_explain_tag(user_id => 'b', tag => 'high_active');
SELECT * FROM ecstats_explain_tag('b', 'nobody');
\x off
SELECT * FROM ecstats_explain_tag('d', 'high_active');
SELECT * FROM ecstats_explain_tag('c', 'nosuch');
SELECT * FROM ecstats_explain_tag('c', 'everybody');
SELECT * FROM ecstats_explain_tag(NULL, 'high_active');
SELECT * FROM ecstats_explain_tag('c', NULL);

-- every column as a rule sees it: numbers to the last digit, days in ISO form, null where there is nothing
INSERT INTO ecstats.user_activity VALUES ('full', '2026-03-17', 0.1::float8 + 0.2, 1e-300, 'high', 'mid', '2026-03-16', 7, '2020-02-29', '2026-03-09', 9007199254740993,
	12345678901234567890.12345678901234567890, '2026-03-01', E'web "A"\\', 'norte') RETURNING score;
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('full', 'exists($.*)');
SET extra_float_digits = 0;
SELECT jsonb_pretty(seen) FROM ecstats_explain_tag('full', 'full');
RESET extra_float_digits;
SELECT (SELECT seen FROM ecstats_explain_tag('full', 'full')) = to_jsonb(p) AS as_postgresql_has_it FROM ecstats.user_profile p WHERE user_id = 'full';
INSERT INTO ecstats.user_activity (user_id, as_of) VALUES ('nothing', '2026-03-17');
SELECT seen FROM ecstats_explain_tag('nothing', 'full');
SELECT (SELECT seen FROM ecstats_explain_tag('nothing', 'full')) = to_jsonb(p) AS as_postgresql_has_it FROM ecstats.user_profile p WHERE user_id = 'nothing';

-- a time with a zone is compared with a day of the shop, whatever the session's zone
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('zone', '$.last_active_day.datetime() == "2026-03-15T16:00:00+00:00".datetime("YYYY-MM-DD\"T\"HH24:MI:SSTZH:TZM")');
SET timezone = 'America/New_York';
SELECT holds, seen, current_setting('timezone') AS here FROM ecstats_explain_tag('full', 'zone');
SELECT ecstats.tag_write('2026-03-17') > 0 AS tagged, current_setting('timezone') AS here;
SELECT ecstats_tag_audience('zone');
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'UTC';

-- ---------------------------------------------------------------- everybody, by every rule, against PostgreSQL's own answer
DELETE FROM ecstats.user_tags; DELETE FROM ecstats.tag_daily; DELETE FROM ecstats.user_activity; DELETE FROM ecstats.tag_rules;
UPDATE ecstats.activity_state SET as_of = '2026-03-20';
SELECT setseed(0.25);
INSERT INTO ecstats.user_activity
SELECT 'u' || n, '2026-03-20', round(random() * 20)::float8 / 3, random() * 10, (ARRAY['high', 'mid', 'low'])[1 + floor(random() * 3)], (ARRAY['high', 'mid', 'low'])[1 + floor(random() * 3)],
	   CASE WHEN random() < 0.8 THEN date '2026-03-20' - floor(random() * 40)::integer END, floor(random() * 8), CASE WHEN random() < 0.8 THEN date '2026-03-20' - floor(random() * 400)::integer END,
	   CASE WHEN random() < 0.4 THEN date '2026-03-20' - floor(random() * 15)::integer END, floor(random() * 6), round((random() * 60)::numeric, floor(random() * 3)::integer),
	   CASE WHEN random() < 0.5 THEN date '2026-03-20' - floor(random() * 100)::integer END,
	   CASE WHEN random() < 0.7 THEN (ARRAY['app', 'web', '', E'\\"x', repeat('long', 30)])[1 + floor(random() * 5)] END, CASE WHEN random() < 0.7 THEN (ARRAY['north', 'south'])[1 + floor(random() * 2)] END
  FROM generate_series(1, 400) n;
-- a rule for each column and operator, and some that take several
INSERT INTO ecstats.tag_rules (tag, rule)
SELECT 'x' || row_number() OVER (), rule::jsonpath FROM (
	SELECT format('$.%s %s %s', c, o, v.value) FROM unnest(ecstats.tag_columns()) c, unnest('{==,!=,<,>=}'::text[]) o, (VALUES ('3'), ('3.3333333333333335'), ('"low"'), ('"2026-03-10"'), ('null')) v(value)
	UNION ALL SELECT format('exists($ ? (@.%s like_regex "^[a-z2]"))', c) FROM unnest(ecstats.tag_columns()) c
	UNION ALL SELECT * FROM unnest(ARRAY['$.score > $.previous_score', '$.score / $.order_count > 1', '10 / $.days_silent > 2 || $.r == 1', '!($.days_since_order < 7)', '($.last_high_day.datetime() < "2026-03-12".datetime()) is unknown',
		'$.* == null', 'exists($.keyvalue() ? (@.key starts with "last" && @.value == null))', 'strict $.m > 2', '$.favourite_channel == "" || $.favourite_channel == "\\\"x"', '$.favourite_channel.datetime() > "2020-01-01".datetime()',
		'$.paid_amount % 1 == 0 && $.segment starts with "c"', '($.level == $.previous_level) && (($.days_known - $.days_silent) > 100)'])) r(rule);
CREATE TEMP VIEW expected AS SELECT p.user_id, r.tag FROM ecstats.user_profile p CROSS JOIN ecstats.tag_rules r WHERE jsonb_path_match_tz(to_jsonb(p), r.rule, '{}', true);
SELECT count(*) > 400 AS rules, (SELECT count(*) FROM ecstats.user_profile) AS users FROM ecstats.tag_rules;
SELECT ecstats.tag_write('2026-03-20') > 20000 AS written;
SELECT count(*) AS differ FROM (SELECT user_id, tag FROM ecstats.user_tags WHERE until IS NULL) t FULL JOIN expected e USING (user_id, tag) WHERE t IS NULL OR e IS NULL;
-- some change, a day passes
UPDATE ecstats.user_activity SET level = 'mid', score = score + 1, favourite_region = NULL WHERE hashtext(user_id) % 7 = 0;
UPDATE ecstats.activity_state SET as_of = '2026-03-21';
SELECT ecstats.tag_write('2026-03-21') BETWEEN 500 AND 20000 AS written;
SELECT count(*) AS differ FROM (SELECT user_id, tag FROM ecstats.user_tags WHERE until IS NULL) t FULL JOIN expected e USING (user_id, tag) WHERE t IS NULL OR e IS NULL;
-- the day before, plus who came, minus who left
SELECT count(*) AS rows, count(*) FILTER (WHERE n.user_count <> o.user_count + n.entered - n.left_count) AS wrong
  FROM ecstats.tag_daily n JOIN ecstats.tag_daily o ON o.tag = n.tag AND o.day = '2026-03-20' WHERE n.day = '2026-03-21';
SELECT ecstats.tag_write('2026-03-21');
-- what is given to it by hand is checked
\set VERBOSITY terse
SELECT ecstats.tag_matches('{level}', '{t}', '{"$.score > 1"}', 'high'::text);
SELECT ecstats.tag_matches('{level,score}', '{t}', '{"$.score > 1"}', 'high'::text);
SELECT ecstats.tag_matches('{score}', '{t}', '{"$.score > 1"}', 2::real);
SELECT ecstats.tag_matches('{nosuch}', '{t}', '{"$.score > 1"}', 2);
SELECT ecstats.tag_matches('{score}', '{t,u}', '{"$.score > 1"}', 2);
SELECT ecstats.tag_matches('{score}', '{NULL}', '{"$.score > 1"}', 2);
SELECT ecstats.tag_matches('{score}', '{t}', '{NULL}', 2);
SELECT ecstats.tag_matches(NULL, '{t}', '{"$.score > 1"}', 2);
SELECT ecstats.tag_matches('{score}', '{t}', '{"$.score > 1"}', VARIADIC '{2}'::integer[]);
\set VERBOSITY default
SELECT n, ecstats.tag_matches('{score}', ARRAY['t' || n], ARRAY[('$.score > ' || n)::jsonpath], 2) FROM generate_series(1, 3) n;
SELECT ecstats.tag_seen('{score,paid_amount,last_order_day}', 'Infinity'::float8, 'NaN'::numeric, 'infinity'::date);

-- ---------------------------------------------------------------- who may
CREATE ROLE ecstats_tag_r; CREATE ROLE ecstats_tag_o;
SELECT ecstats_grant('ecstats_tag_r', 'reader'), ecstats_grant('ecstats_tag_o', 'operator');
DELETE FROM ecstats.tag_rules;
SET ROLE ecstats_tag_o;
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('mine', '$.score > 1'), ('worse', '$.score > 2');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('worse', '$.scor > 2');
UPDATE ecstats.tag_rules SET enabled = false WHERE tag = 'worse';
SELECT ecstats.tag_write('2026-03-21');
RESET ROLE;
SELECT ecstats.tag_write('2026-03-21') > 0 AS written;
SET ROLE ecstats_tag_r;
SELECT count(*) > 0 AS audience FROM ecstats_tag_audience('mine');
SELECT rule, holds, since IS NOT NULL AS since FROM ecstats_explain_tag('u1', 'mine');
SELECT count(*) FROM ecstats.tag_rules;
DELETE FROM ecstats.tag_rules;
INSERT INTO ecstats.user_tags VALUES ('a', 'b', '2026-03-21');
RESET ROLE;
SELECT ecstats_revoke('ecstats_tag_r', 'reader'), ecstats_revoke('ecstats_tag_o', 'operator');
DROP ROLE ecstats_tag_r; DROP ROLE ecstats_tag_o;
