-- Reports over activity: levels and movements, tags, an audience, segments, retention; the recall reports; their job.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai', currency = 'CNY';
\set SHOW_CONTEXT never
\set VERBOSITY default

-- ---------------------------------------------------------------- what ships
SELECT name, dataset, audience, template, channels, enabled FROM ecstats.reports WHERE dataset = 'activity' ORDER BY 1;
SELECT count(ecstats.template_check(body)) FROM ecstats.templates WHERE name LIKE 'recall%';
SELECT name, schedule, timezone, shipped, enabled FROM ecstats.jobs WHERE name = 'recall';
-- Monday, nine o'clock by the shop's clock
SELECT ecstats_cron_next(j.schedule, '2026-11-23 00:59:59+00', NULL) AS next, ecstats_cron_next(j.schedule, '2026-11-23 01:00+00', NULL) AS after
  FROM ecstats.jobs j WHERE name = 'recall';

-- ---------------------------------------------------------------- what is refused
\set VERBOSITY terse
INSERT INTO ecstats.reports (name, template, audience) VALUES ('x', 'recall_en', 'vip');
INSERT INTO ecstats.reports (name, template, dataset, audience) VALUES ('x', 'recall_en', 'activity', '');
INSERT INTO ecstats.reports (name, template, dataset) VALUES ('x', 'recall_en', 'monthly');
INSERT INTO ecstats.reports (name, template, dataset, schedule) VALUES ('x', 'recall_en', 'activity', '0 9 * * 1');
\set VERBOSITY default
-- nobody was scored yet: said, and the job does nothing
SELECT ecstats_report_data('recall', '2026-11-22');
UPDATE ecstats.reports SET channels = '{hook}' WHERE name = 'recall';
SELECT command AS recall_job FROM ecstats.jobs WHERE name = 'recall' \gset
:recall_job;

-- ---------------------------------------------------------------- users, as of Sunday 2026-11-22
DELETE FROM ecstats.tag_rules;
INSERT INTO ecstats.tag_rules VALUES ('high_active_silent', '$.days_silent >= 3', true, 'Was highly active, is silent'),
	('nobody', '$.score > 1e9', true, NULL), ('off', '$.score > 0', false, 'switched off');
INSERT INTO ecstats.user_activity (user_id, as_of, score, level, previous_level, last_active_day, order_count, paid_amount, last_order_day, favourite_channel)
SELECT 'u' || n, '2026-11-22', 20 - n, CASE WHEN n <= 4 THEN 'high' WHEN n <= 10 THEN 'mid' ELSE 'low' END,
	   CASE WHEN n <= 3 OR n = 12 THEN 'high' WHEN n <= 11 THEN 'mid' ELSE 'low' END, '2026-11-22'::date - n, n % 4, 100.5 * (n % 4),
	   CASE WHEN n % 4 > 0 THEN '2026-11-22'::date - n END, CASE n % 2 WHEN 0 THEN 'app' END
  FROM generate_series(1, 20) n;
UPDATE ecstats.activity_state SET as_of = '2026-11-22', scored_at = '2026-11-22 18:10+00', users = 20,
	recency = '{2026-11-06,2026-11-10,2026-11-14,2026-11-18}', frequency = '{2,2,3,3}', monetary = '{100,200,200,300}';
INSERT INTO ecstats.user_tags (user_id, tag, since, until)
SELECT 'u' || n, 'high_active_silent', '2026-11-10'::date + n, NULL FROM generate_series(1, 12) n
UNION ALL VALUES ('u13', 'high_active_silent', '2026-11-01'::date, '2026-11-20'::date), ('u1', 'high_active_silent', '2026-10-01', '2026-11-02');
INSERT INTO ecstats.tag_daily VALUES ('2026-11-15', 'high_active_silent', 9, 9, 0), ('2026-11-16', 'high_active_silent', 8, 1, 2),
	('2026-11-21', 'high_active_silent', 11, 4, 1), ('2026-11-22', 'high_active_silent', 12, 2, 1), ('2026-11-22', 'gone', 0, 0, 3);
INSERT INTO ecstats.cohorts VALUES ('2026-11-20', 1, 40, 10), ('2026-11-21', 1, 50, 20), ('2026-11-22', 1, 60, 0), ('2026-11-15', 7, 30, 3), ('2026-11-14', 7, 20, 1);

CREATE TEMP TABLE f AS SELECT ecstats_report_data('recall', '2026-11-22') AS d;
SELECT m.key, m.value FROM f, jsonb_each(f.d) m WHERE jsonb_typeof(m.value) NOT IN ('object', 'array') ORDER BY 1;
SELECT e ->> 'level' AS level, e ->> 'level_cn' AS cn, e -> 'user_count' AS users, round((e -> 'share')::numeric, 3) AS share, e -> 'previous_count' AS before,
	   e -> 'change' AS change, e ->> 'change_text' AS text, e = d -> 'levels_by' -> (e ->> 'level') AS by_name
  FROM f, jsonb_array_elements(d -> 'levels') e;
SELECT e ->> 'from' AS "from", e ->> 'to' AS "to", e ->> 'from_cn' AS from_cn, e -> 'up' AS up, e -> 'user_count' AS users FROM f, jsonb_array_elements(d -> 'movements') e;
-- they add up
SELECT (SELECT sum((e -> 'user_count')::int) FROM jsonb_array_elements(d -> 'levels') e) = (d -> 'users')::int AS levels_add_up,
	   (SELECT sum((e -> 'change')::int) FROM jsonb_array_elements(d -> 'levels') e) AS changes,
	   (SELECT sum((e -> 'user_count')::int) FROM jsonb_array_elements(d -> 'movements') e) = (d -> 'up')::int + (d -> 'down')::int AS moves_add_up FROM f;
SELECT e ->> 'tag' AS tag, e ->> 'description' AS description, e -> 'user_count' AS users, e -> 'entered' AS entered, e -> 'left_count' AS "left", e -> 'week' AS week
  FROM f, jsonb_array_elements(d -> 'tags') e;
SELECT d -> 'tags_by' -> 'high_active_silent' = d -> 'tags' -> 1 AS by_name FROM f;
SELECT m.key, m.value FROM f, jsonb_each(f.d -> 'audience') m WHERE m.key <> 'sample' ORDER BY 1;
SELECT e -> 'rank' AS rank, e ->> 'user_id' AS user_id, e -> 'days_silent' AS silent, e ->> 'last_active_day' AS last, e -> 'paid_amount' AS paid, e -> 'order_count' AS orders,
	   e ->> 'favourite_channel' AS channel, e ->> 'level' AS level, e ->> 'segment' AS segment
  FROM f, jsonb_array_elements(d #> '{audience,sample}') e;
SELECT d -> 'segments' AS segments FROM f;
SELECT c.key, c.value -> 'cohort_day' AS of, c.value -> 'retained' AS retained, round((c.value -> 'rate')::numeric, 3) AS rate FROM f, jsonb_each(d -> 'cohorts') c;
-- the figures of the day are there where it is stored
INSERT INTO ecstats.daily_kpi (day, gmv, uv, complete, closed_at, revision) VALUES ('2026-11-22', 1234.50, 77, true, '2026-11-22 18:00+00', 3);
SELECT d -> 'gmv' AS gmv, d -> 'uv' AS uv, d -> 'complete' AS complete, d -> 'revision' AS revision FROM ecstats_report_data('recall', '2026-11-22') d;
-- the daily report knows the levels of the scored day, of no other
SELECT jsonb_path_query_array(ecstats_report_data('daily', '2026-11-22'), '$.levels[*].user_count') AS levels;
INSERT INTO ecstats.daily_kpi (day, gmv, complete, closed_at, revision) VALUES ('2026-11-21', 1, true, '2026-11-21 18:00+00', 1);
SELECT ecstats_report_data('daily', '2026-11-21') -> 'levels' AS levels;
-- another day
SET datestyle = 'SQL, DMY';
SELECT ecstats_report_data('recall', '21/11/2026');
RESET datestyle;
SELECT ecstats_report('recall', '2026-11-23');
-- no audience, and one that is no tag
INSERT INTO ecstats.reports (name, template, dataset) VALUES ('levels', 'recall_en', 'activity');
SELECT d -> 'audience' AS audience, d -> 'users' AS users FROM ecstats_report_data('levels', '2026-11-22') d;
UPDATE ecstats.reports SET audience = 'vip' WHERE name = 'levels';
SELECT ecstats_report_data('levels', '2026-11-22');
UPDATE ecstats.reports SET audience = 'off' WHERE name = 'recall_en';
SELECT d #> '{audience,user_count}' AS users, d #> '{audience,week}' AS week FROM ecstats_report_data('recall_en', '2026-11-22') d;
-- told of reports that go somewhere
UPDATE ecstats.reports SET channels = '{}' WHERE name = 'recall';
SELECT status, detail FROM ecstats.report_status();
INSERT INTO ecstats.channels (name, kind, url) VALUES ('hook', 'webhook', 'https://shop.example/hook'), ('ops', 'wecom', 'https://shop.example/ops');
UPDATE ecstats.reports SET channels = '{hook}' WHERE dataset = 'activity';
SELECT * FROM ecstats.report_status();
UPDATE ecstats.reports SET channels = '{}', audience = 'high_active_silent' WHERE name = 'recall_en';
DELETE FROM ecstats.reports WHERE name = 'levels';

-- ---------------------------------------------------------------- the messages
SELECT would_send, reason, template_version, revision, message ->> 'title' AS title, message ->> 'text' AS text FROM ecstats.report_message('recall', '2026-11-22');
SELECT rtrim(line) AS line FROM ecstats.report_message('recall', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') line;
SELECT message ->> 'title' AS title, message ->> 'text' AS text FROM ecstats.report_message('recall_en', '2026-11-22');
SELECT rtrim(line) AS line FROM ecstats.report_message('recall_en', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') line;
SELECT count(*) FROM ecstats.report_message('recall', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') line
 WHERE line NOT LIKE '%  ' AND line <> '';
-- conditions see the same
UPDATE ecstats.reports SET condition = '$.audience.user_count > 12' WHERE name = 'recall_en';
SELECT would_send, reason FROM ecstats.report_message('recall_en', '2026-11-22');
UPDATE ecstats.reports SET condition = '$.audience.user_count > 0 && $.audience.new_count >= 6 && exists($.levels[*] ? (@.level == "low" && @.change > 0))' WHERE name = 'recall_en';
SELECT would_send, reason FROM ecstats.report_message('recall_en', '2026-11-22');

-- ---------------------------------------------------------------- hostile names break nothing
BEGIN;
UPDATE ecstats.user_activity SET paid_amount = 1000000 WHERE user_id IN ('u1', 'u2', 'u3', 'u4', 'u5', 'u6');
CREATE TEMP TABLE odd(n int, id text);
INSERT INTO odd VALUES (1, 'a"b\c'), (2, E'two\nlines\t*bold*'), (3, '{{gmv}}{{#levels}}'), (4, U&'\202Eright to left\202C \0627\0628'),
	(5, U&'\+01F600<script>@all'), (6, repeat('客', 42));
UPDATE ecstats.user_activity a SET user_id = o.id FROM odd o WHERE a.user_id = 'u' || o.n;
UPDATE ecstats.user_tags t SET user_id = o.id FROM odd o WHERE t.user_id = 'u' || o.n;
SELECT jsonb_path_query_array(d, '$.audience.sample[0 to 5].user_id') = (SELECT jsonb_agg(id ORDER BY id COLLATE "C") FROM odd) AS ids_as_they_are
  FROM ecstats_report_data('recall', '2026-11-22') d;
SELECT rtrim(line) AS line FROM ecstats.report_message('recall', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') WITH ORDINALITY l(line, n)
 WHERE line ~ '^\d+\. ' ORDER BY l.n LIMIT 6;
SELECT rtrim(line) ~ '^\d+\. ' AND line !~ '[*<>@{}\u202e]' OR line ~ '\{\{gmv\}\}' AS harmless, count(*)
  FROM ecstats.report_message('recall_en', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') line WHERE line ~ 'silent for' GROUP BY 1;
ROLLBACK;

-- ---------------------------------------------------------------- nobody at all
BEGIN;
DELETE FROM ecstats.user_tags;
DELETE FROM ecstats.user_activity;
DELETE FROM ecstats.tag_daily;
DELETE FROM ecstats.cohorts;
SELECT rtrim(line) AS line FROM ecstats.report_message('recall', '2026-11-22'), regexp_split_to_table(message ->> 'markdown', '\n') line;
SELECT message ->> 'title' AS title FROM ecstats.report_message('recall_en', '2026-11-22');
ROLLBACK;

-- ---------------------------------------------------------------- the job
UPDATE ecstats.reports SET channels = '{}';
:recall_job;
UPDATE ecstats.reports SET channels = '{hook,ops}' WHERE name = 'recall';
UPDATE ecstats.reports SET channels = '{hook}', condition = NULL WHERE name = 'recall_en';
SELECT count(*) AS queued FROM (:recall_job) q;
-- however often it runs, also where the day's figures were corrected since
SELECT count(*) AS queued FROM (:recall_job) q;
UPDATE ecstats.daily_kpi SET revision = 4 WHERE day = '2026-11-22';
SELECT count(*) AS queued FROM (:recall_job) q;
SELECT report, day, revision, occasion, channel, body ->> 'type' AS type, body ->> 'msgtype' AS msgtype FROM ecstats.deliveries ORDER BY report, channel;
SELECT channel, would_send, reason ~ '^it is queued already: delivery \d+$' AS queued FROM ecstats_preview('recall', '2026-11-22');
SELECT count(*) FROM ecstats.report_failures;
-- a close does not send them: they wait for their job
SELECT ecstats.pipeline_queue_reports('2026-11-22');
SELECT count(*) FROM ecstats.deliveries;
-- a reader may look
CREATE ROLE regress_ecstats_activity;
SELECT ecstats_grant('regress_ecstats_activity', 'reader');
SET ROLE regress_ecstats_activity;
SELECT d #> '{audience,user_count}' AS users FROM ecstats_report_data('recall', '2026-11-22') d;
SELECT ecstats_report_data('daily', '2026-11-22') -> 'levels' -> 0 -> 'user_count' AS high;
SELECT count(*) FROM ecstats_preview('recall_en', '2026-11-22');
RESET ROLE;
DROP OWNED BY regress_ecstats_activity;
DROP ROLE regress_ecstats_activity;
DROP EXTENSION ecstats CASCADE;
