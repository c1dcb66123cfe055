-- Templates, reports, targets; the facts of a day, their message, and what the doctor says.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai', currency = 'CNY';
\set SHOW_CONTEXT never
\set VERBOSITY default

-- ---------------------------------------------------------------- what ships
SELECT name, version, active, array(SELECT jsonb_object_keys(body)) AS members FROM ecstats.templates ORDER BY 1;
SELECT name, dataset, template, condition, channels, schedule, priority, enabled, owner = current_user AS mine
  FROM ecstats.reports ORDER BY 1;
-- shipped rows are there before the triggers are: check them here
SELECT count(ecstats.template_check(body)) FROM ecstats.templates;
-- nothing to complain of, but nothing is sent yet
SELECT * FROM ecstats.report_status();

-- ---------------------------------------------------------------- templates: versions
INSERT INTO ecstats.templates (name, body) VALUES ('t', '{"text": "one {{gmv}}"}') RETURNING version, active;
INSERT INTO ecstats.templates (name, version, body) VALUES ('t', NULL, '{"text": "two {{gmv}}"}') RETURNING version, active;
INSERT INTO ecstats.templates (name, body, active) VALUES ('t', '{"text": "draft"}', false) RETURNING version, active;
SELECT version, active FROM ecstats.templates WHERE name = 't' ORDER BY 1;
-- three in one statement
INSERT INTO ecstats.templates (name, body) SELECT 'm', jsonb_build_object('text', n::text) FROM generate_series(1, 3) n;
SELECT version, active, body FROM ecstats.templates WHERE name = 'm' ORDER BY 1;
-- roll back to an older one, and forward
UPDATE ecstats.templates SET active = true WHERE name = 't' AND version = 1;
SELECT version, active FROM ecstats.templates WHERE name = 't' ORDER BY 1;
UPDATE ecstats.templates SET active = true, note = 'better' WHERE name = 't' AND version = 2;
SELECT version, active, note FROM ecstats.templates WHERE name = 't' ORDER BY 1;
-- a version is what was sent with it
UPDATE ecstats.templates SET body = '{"text": "other"}' WHERE name = 't' AND version = 2;
UPDATE ecstats.templates SET version = 9 WHERE name = 't' AND version = 2;
-- an existing key is refused, or skipped, and the active version stays
INSERT INTO ecstats.templates (name, version, body) VALUES ('t', 1, '{}');
INSERT INTO ecstats.templates (name, version, body) VALUES ('t', 1, '{}') ON CONFLICT DO NOTHING;
SELECT version, active FROM ecstats.templates WHERE name = 't' ORDER BY 1;
-- wrong ones
\set VERBOSITY sqlstate
INSERT INTO ecstats.templates (name, body) VALUES ('w', '{"text": "{{#gmv}} open"}');
INSERT INTO ecstats.templates (name, body) VALUES ('w', '{"text": "{{gmv | nonsense}}"}');
INSERT INTO ecstats.templates (name, body) VALUES ('w', '["text"]');
INSERT INTO ecstats.templates (name, body) VALUES ('', '{}');
INSERT INTO ecstats.templates (name, body) VALUES ('w', NULL);
\set VERBOSITY default
SELECT count(*) FROM ecstats.templates WHERE name = 'w';

-- ---------------------------------------------------------------- a restore, in any order of rows
BEGIN;
SET LOCAL check_function_bodies = off;
COPY ecstats.templates (name, version, body, active, created_at, note) FROM stdin;
daily_cn	2	{"text": "second"}	t	2026-11-01 00:00:00+00	mine
daily_cn	1	{"text": "first"}	f	2026-10-01 00:00:00+00	mine
daily_en	1	{"text": "off"}	f	2026-10-01 00:00:00+00	mine
\.
COPY ecstats.reports (name, owner, dataset, template, channels, priority, enabled) FROM stdin;
daily	somebody	daily	daily_cn	{ops}	2	f
\.
SELECT name, version, active, body, created_at FROM ecstats.templates WHERE name LIKE 'daily%' ORDER BY 1, 2;
SELECT name, owner, channels, priority, enabled FROM ecstats.reports WHERE name = 'daily';
ROLLBACK;

-- ---------------------------------------------------------------- reports
INSERT INTO ecstats.reports (name, template, channels) VALUES ('r', 't', '{b,a,b}') RETURNING channels, priority, enabled;
UPDATE ecstats.reports SET channels = array_append(channels, 'a') WHERE name = 'r' RETURNING channels;
\set VERBOSITY terse
INSERT INTO ecstats.reports (name, template, dataset) VALUES ('x', 't', 'weekly');
INSERT INTO ecstats.reports (name, template, dataset) VALUES ('x', 't', 'hourly');
INSERT INTO ecstats.reports (name, template, schedule) VALUES ('x', 't', '0 9 * * *');
INSERT INTO ecstats.reports (name, template, timezone) VALUES ('x', 't', 'Asia/Tokyo');
INSERT INTO ecstats.reports (name, template, priority) VALUES ('x', 't', 10);
INSERT INTO ecstats.reports (name, template, ttl) VALUES ('x', 't', '0');
INSERT INTO ecstats.reports (name, template, channels) VALUES ('x', 't', '{a,NULL}');
\set VERBOSITY sqlstate
INSERT INTO ecstats.reports (name, template, condition) VALUES ('x', 't', '$.gmv >');
\set VERBOSITY terse
UPDATE ecstats.reports SET dataset = 'custom' WHERE name = 'r';
\set VERBOSITY default
-- the owner is who writes; only a superuser names another
CREATE ROLE regress_ecstats_report;
GRANT USAGE ON SCHEMA ecstats TO regress_ecstats_report;
GRANT SELECT, INSERT, UPDATE ON ecstats.reports TO regress_ecstats_report;
GRANT INSERT, SELECT ON ecstats.templates TO regress_ecstats_report;
SET ROLE regress_ecstats_report;
INSERT INTO ecstats.reports (name, owner, template) VALUES ('theirs', 'postgres', 't') RETURNING owner;
UPDATE ecstats.reports SET owner = 'postgres' WHERE name = 'theirs';
UPDATE ecstats.reports SET priority = 1 WHERE name = 'theirs' RETURNING owner, priority;
-- INSERT alone publishes a version, and retires the one before
INSERT INTO ecstats.templates (name, body) VALUES ('m', '{"text": "4"}') RETURNING version, active;
SELECT version FROM ecstats.templates WHERE name = 'm' AND active;
RESET ROLE;
UPDATE ecstats.reports SET owner = 'somebody' WHERE name = 'theirs' RETURNING owner;
DELETE FROM ecstats.reports WHERE name = 'theirs';

-- ---------------------------------------------------------------- targets
INSERT INTO ecstats.targets VALUES ('2026-11', 'gmv', 5000), ('2026-11-23', 'gmv', 1000), ('2026', 'pv', 1000);
\set VERBOSITY terse
INSERT INTO ecstats.targets VALUES ('2026-13', 'gmv', 1);
INSERT INTO ecstats.targets VALUES ('2026-02-30', 'gmv', 1);
INSERT INTO ecstats.targets VALUES ('November', 'gmv', 1);
INSERT INTO ecstats.targets VALUES ('2026-11', 'uv', 1);
INSERT INTO ecstats.targets VALUES ('2026-11', 'pv', 0);
INSERT INTO ecstats.targets VALUES ('2026-11', 'pv', 'NaN');
\set VERBOSITY default

-- ---------------------------------------------------------------- the facts of a day
INSERT INTO ecstats.daily_kpi (day, gmv, order_count, quantity, buyer_count, paid_amount, paid_order_count, payer_count,
	refund_amount, refund_order_count, net_amount, aov, amount_per_buyer, abnormal_order_count,
	event_count, pv, uv, conversion_rate, new_user_count, complete, closed_at, revision)
VALUES
('2025-11-23', 800, 8, 10, 8, 800, 8, 8, 0, 0, 800, 100, 100, 0, 90, 50, 40, 0.2, 1, true, '2025-11-23 18:00+00', 1),
('2026-11-16', 1000, 9, 20, 9, 900, 8, 8, 90, 1, 810, 1000.0/9, 1000.0/9, 0, 100, 60, 0, NULL, 2, true, '2026-11-16 18:00+00', 1),
('2026-11-22', 1250.00, 10, 30, 10, 1000.00, 9, 9, 0, 0, 1000.00, 125, 125, 0, 200, 100, 100, 0.1, 3, true, '2026-11-22 18:00+00', 1),
('2026-11-23', 1200.50, 12, 33, 11, 1100.50, 10, 10, 55.25, 2, 1045.25, 1200.50/12, 1200.50/11, 1, 250, 120, 125, 0.088, 5, true, '2026-11-23 18:00+00', 1);
INSERT INTO ecstats.daily_sales (day, product_id, region, channel, total_sold, total_revenue, order_count, buyer_count, refund_amount)
VALUES
('2026-11-22', 'A', 'Shanghai', 'app', 20, 1000.00, 5, 5, 0),
('2026-11-22', 'B', 'Beijing', 'web', 10, 250.00, 5, 5, 0),
('2026-11-23', 'A', 'Shanghai', 'app', 10, 600.00, 4, 4, 0),
('2026-11-23', 'A', 'Beijing', 'app', 5, 100.50, 2, 2, 0),
('2026-11-23', 'scarf"C"|thick<new>' || E'\n*x*', 'Shanghai', 'web', 8, 250.00, 4, 4, 0),
('2026-11-23', 'B', 'Chengdu', 'live', 10, 250.00, 4, 4, 0),
('2026-11-23', 'returned', 'Beijing', 'web', 0, 0, 0, 0, 55.25);
INSERT INTO ecstats.daily_funnel (day, step, event, user_count)
VALUES ('2026-11-23', 1, 'view_item', 100), ('2026-11-23', 2, 'add_to_cart', 40), ('2026-11-23', 3, 'purchase', 0),
	   ('2026-11-23', 4, 'share', 0);

CREATE TEMP TABLE f AS SELECT ecstats_report_data('daily', '2026-11-23') AS d;
-- every column of daily_kpi is there, at the top and in the days compared with
SELECT a.attname FROM pg_attribute a, f
 WHERE attrelid = 'ecstats.daily_kpi'::regclass AND attnum > 0 AND NOT attisdropped
   AND NOT (f.d ? a.attname AND f.d -> 'previous' ? a.attname AND f.d -> 'last_week' ? a.attname AND f.d -> 'last_year' ? a.attname);
SELECT m.key, m.value FROM f, jsonb_each(f.d) m WHERE jsonb_typeof(m.value) NOT IN ('object', 'array') ORDER BY 1;
SELECT m.key, round((f.d -> 'dod' -> m.key)::text::numeric, 6) AS dod, round((d -> 'yoy' -> m.key)::text::numeric, 6) AS yoy
  FROM f, jsonb_each(f.d -> 'dod') m WHERE jsonb_typeof(m.value) = 'number' AND jsonb_typeof(d -> 'yoy' -> m.key) = 'number' ORDER BY 1;
-- no base, or a base of 0: null
SELECT d -> 'dod' -> 'refund_amount' AS dod_refund, d -> 'wow' -> 'uv' AS wow_uv, d -> 'wow' -> 'conversion_rate' AS wow_conversion,
	   d -> 'dod_points' AS dod_points, d -> 'wow_points' -> 'refund_rate_text' AS wow_refund
  FROM f;
SELECT d #>> '{previous,day}' AS previous, d #>> '{last_week,day}' AS last_week, d #>> '{last_year,day}' AS last_year,
	   d #> '{previous,gmv}' AS gmv FROM f;
SELECT e ->> 'rank' AS rank, e ->> 'product_id' AS product_id, e ->> 'label' AS label, e ->> 'total_sold' AS sold, e ->> 'total_revenue' AS revenue,
	   round((e -> 'share')::numeric, 4) AS share, round((e ->> 'revenue_change')::numeric, 4) AS change
  FROM f, jsonb_array_elements(d -> 'top_products') e;
SELECT e ->> 'region' AS region, e ->> 'total_revenue' AS revenue, e ->> 'refund_amount' AS refunds, e ->> 'first' AS first, e ->> 'others' AS others
  FROM f, jsonb_array_elements(d -> 'by_region') e;
SELECT e ->> 'channel' AS channel, e ->> 'total_revenue' AS revenue, round((e -> 'share')::numeric, 4) AS share, e -> 'revenue_change' AS change
  FROM f, jsonb_array_elements(d -> 'by_channel') e;
SELECT e FROM f, jsonb_array_elements(d -> 'funnel') e;
SELECT m, d -> m FROM f, unnest('{targets,targets_day,targets_year,levels,alerts,restated}'::text[]) m;
-- numbers are exact: as stored, to the last digit
SELECT (d -> 'gmv')::text, (d -> 'refund_rate')::numeric = 55.25 / 1100.50 AS refund_rate FROM f;
-- the session's zone and date style change nothing
SET timezone = 'America/New_York'; SET datestyle = 'SQL, DMY';
SELECT ecstats_report_data('daily', '23/11/2026') = d AS same FROM f;
SELECT ecstats_report_data('daily', '20/11/2026') -> 'revision' AS not_closed;
RESET datestyle; SET timezone = 'UTC';
-- a first day: nothing to compare with
SELECT d -> 'previous' AS previous, d -> 'dod' -> 'gmv' AS dod, d -> 'top_products' AS top, d -> 'has_sales' AS has_sales, d -> 'reconciles' AS reconciles
  FROM (SELECT ecstats_report_data('daily', '2025-11-23') AS d) x;
-- 29 February compares with 28 February
INSERT INTO ecstats.daily_kpi (day, gmv, closed_at, complete, revision) SELECT d, 1, '2024-03-01', true, 1
  FROM unnest('{2023-02-28,2024-02-29}'::date[]) d ON CONFLICT DO NOTHING;
SELECT ecstats_report_data('daily', '2024-02-29') #> '{last_year,day}' AS last_year;

\set VERBOSITY terse
SELECT ecstats_report_data('daily', ecstats_day() + 1);
\set VERBOSITY default
SELECT ecstats_report_data('dayly', '2026-11-23');
SELECT ecstats_report_data('daily', NULL);

-- ---------------------------------------------------------------- the message
SELECT would_send, reason, template_version, message ->> 'title' AS title FROM ecstats.report_message('daily', '2026-11-23');
SELECT rtrim(line) AS line FROM ecstats.report_message('daily', '2026-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') line;
SELECT message ->> 'text' AS text FROM ecstats.report_message('daily', '2026-11-23');
SELECT rtrim(line) AS line FROM ecstats.report_message('daily_en', '2026-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') line;
SELECT message ->> 'title' AS title, message ->> 'text' AS text FROM ecstats.report_message('daily_en', '2026-11-23');
-- every line ends in a break that all chats know
SELECT count(*) FROM ecstats.report_message('daily', '2026-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') line
 WHERE line NOT LIKE '%  ' AND line <> '';
-- no figures at all: dashes, never null or a tag
SELECT rtrim(line) AS line FROM ecstats.report_message('daily', '2025-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') line;
-- not complete, restated, and a split that does not add up are said at the top
UPDATE ecstats.daily_kpi SET complete = false, revision = 2 WHERE day = '2026-11-23';
INSERT INTO ecstats.restatements (day, revision, column_name, old, new, at)
VALUES ('2026-11-23', 2, 'gmv', 1286.00, 1200.50, '2026-11-24 01:00+00'), ('2026-11-23', 2, 'uv', 120, 125, '2026-11-24 01:00+00');
UPDATE ecstats.daily_sales SET total_revenue = total_revenue - 0.01 WHERE day = '2026-11-23' AND product_id = 'B';
SELECT rtrim(line) AS line FROM ecstats.report_message('daily', '2026-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') WITH ORDINALITY l(line, n)
 WHERE n <= 7 ORDER BY n;
SELECT rtrim(line) AS line FROM ecstats.report_message('daily_en', '2026-11-23'), regexp_split_to_table(message ->> 'markdown', '\n') WITH ORDINALITY l(line, n)
 WHERE n <= 4 ORDER BY n;
SELECT d -> 'restated' AS restated FROM ecstats_report_data('daily', '2026-11-23') d;
-- conditions
CREATE FUNCTION pg_temp.judged(path jsonpath) RETURNS TABLE (would_send boolean, reason text) LANGUAGE plpgsql AS $$
BEGIN
	UPDATE ecstats.reports SET condition = path WHERE name = 'daily';
	RETURN QUERY SELECT m.would_send, m.reason FROM ecstats.report_message('daily', '2026-11-23') m;
END $$;
SELECT p.path, j.* FROM (VALUES (1, NULL::jsonpath), (2, '$.gmv > 1000'), (3, '$.dod.gmv > 0'), (4, '$.wow.uv > 0.1'), (5, '$.complete == true'),
		(6, '$.weekday > 5'), (7, '$.gmv'), (8, '$.gmv / 0 > 1'), (9, 'strict $.nosuch > 1'), (10, '$.nosuch > 1'),
		(11, 'exists ($.top_products[*] ? (@.share > 0.5))')) p(n, path), pg_temp.judged(p.path) j ORDER BY p.n;
-- disabled: shown, not sent
UPDATE ecstats.reports SET condition = NULL, enabled = false WHERE name = 'daily';
SELECT would_send, reason, message IS NOT NULL AS rendered FROM ecstats.report_message('daily', '2026-11-23');
UPDATE ecstats.reports SET enabled = true WHERE name = 'daily';
-- a new version takes effect with the next render
INSERT INTO ecstats.templates (name, body) VALUES ('daily_cn', '{"text": "{{day}} {{gmv}}"}');
SELECT template_version, message FROM ecstats.report_message('daily', '2026-11-23');
-- missing and inactive templates name themselves
UPDATE ecstats.templates SET active = false WHERE name = 'daily_cn';
SELECT * FROM ecstats.report_message('daily', '2026-11-23');
UPDATE ecstats.reports SET template = 'nosuch' WHERE name = 'daily_en';
SELECT * FROM ecstats.report_message('daily_en', '2026-11-23');
SELECT * FROM ecstats.report_status();

-- ---------------------------------------------------------------- a big shop: lists fold, messages stay small
UPDATE ecstats.templates SET active = true WHERE name = 'daily_cn' AND version = 1;
UPDATE ecstats.reports SET template = 'daily_en' WHERE name = 'daily_en';
DELETE FROM ecstats.daily_sales WHERE day = '2026-11-23';
INSERT INTO ecstats.daily_sales (day, product_id, region, channel, total_sold, total_revenue, order_count, buyer_count, refund_amount)
SELECT '2026-11-23', repeat('羽绒服', 12) || p, repeat('区域', 20) || p % 60, repeat('渠道', 20) || p % 55, 1000000 + p, 123456789.01 + p, 1, 1, 0
  FROM generate_series(1, 200) p;
UPDATE ecstats.daily_kpi SET gmv = (SELECT sum(total_revenue) FROM ecstats.daily_sales s WHERE s.day = '2026-11-23') WHERE day = '2026-11-23';
SELECT r.name, octet_length(message ->> 'markdown') < 3000 AS markdown_fits, octet_length(message ->> 'text') < 2048 AS text_fits
  FROM (VALUES ('daily'), ('daily_en')) r(name), ecstats.report_message(r.name, '2026-11-23') ORDER BY 1;
SELECT l.name, jsonb_array_length(d -> l.name) AS elements, d -> l.name -> -1 -> 'members' AS members, d -> l.name -> -1 -> 'others' AS others,
	   (SELECT sum((e -> 'total_revenue')::numeric) FROM jsonb_array_elements(d -> l.name) e) = (d -> 'gmv')::numeric AS adds_up
  FROM ecstats_report_data('daily', '2026-11-23') d, unnest('{by_region,by_channel,top_products}'::text[]) l(name);

DROP OWNED BY regress_ecstats_report;
DROP ROLE regress_ecstats_report;
DROP EXTENSION ecstats CASCADE;
