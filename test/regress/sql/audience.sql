-- Audiences in pages: which channels take them, what a page is, and that every user is on exactly one.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai', currency = 'CNY';
\set SHOW_CONTEXT never
\set VERBOSITY default

-- ---------------------------------------------------------------- the option
\set VERBOSITY terse
INSERT INTO ecstats.channels (name, kind, url, options) SELECT 'x', 'webhook', 'https://shop.example/x', jsonb_build_object('audience_page', 0);
INSERT INTO ecstats.channels (name, kind, url, options) SELECT 'x', 'webhook', 'https://shop.example/x', jsonb_build_object('audience_page', 10001);
INSERT INTO ecstats.channels (name, kind, url, options) SELECT 'x', 'webhook', 'https://shop.example/x', jsonb_build_object('audience_page', 1.5);
INSERT INTO ecstats.channels (name, kind, url, options) SELECT 'x', 'webhook', 'https://shop.example/x', jsonb_build_object('audience_page', '10');
\set VERBOSITY default
INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('x', 'wecom', 'https://shop.example/x', '{"audience_page": 10}');
INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('crm', 'webhook', 'https://shop.example/crm', '{"audience_page": 3}'),
	('plain', 'webhook', 'https://shop.example/plain', '{"audience_page": null}'), ('ops', 'wecom', 'https://shop.example/ops', '{}');
UPDATE ecstats.channels SET kind = 'slack' WHERE name = 'crm';
-- a kind of one's own says that it takes them
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success, limits, options)
VALUES ('ours', 'exists($.data)', '{"event": {"list": "{{message}}"}}', 'event', '$.http_status == 200', '[{"max_bytes": 240}]', '{"audience_page": null}');
INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('ours', 'ours', 'https://shop.example/ours', '{"audience_page": 100}');

-- ---------------------------------------------------------------- what is refused
\set VERBOSITY terse
DELETE FROM ecstats.tag_rules;
INSERT INTO ecstats.tag_rules VALUES ('high_active_silent', '$.days_silent >= 3'), ('nobody', '$.score > 1e9');
SELECT ecstats_push_audience('high_active_silent', 'crm');
UPDATE ecstats.activity_state SET as_of = '2026-11-22', scored_at = '2026-11-22 18:10+00', users = 7;
SELECT ecstats_push_audience('vip', 'crm');
SELECT ecstats_push_audience(NULL, 'crm');
SELECT ecstats_push_audience('high_active_silent', 'nowhere');
SELECT ecstats_push_audience('high_active_silent', 'plain');
SELECT ecstats_push_audience('high_active_silent', 'ops');
UPDATE ecstats.channels SET enabled = false WHERE name = 'crm';
SELECT ecstats_push_audience('high_active_silent', 'crm');
UPDATE ecstats.channels SET enabled = true WHERE name = 'crm';
\set VERBOSITY default
SELECT count(*) FROM ecstats.deliveries;

-- ---------------------------------------------------------------- pages
CREATE TEMP TABLE who(id text COLLATE "C");
INSERT INTO who VALUES ('a"b\c'), (E'two\nlines'), ('{{gmv}}{{#levels}}'), (U&'\202Eright to left\202C'), (U&'\+01F600'), ('B'), ('b'), ('客');
INSERT INTO ecstats.user_activity (user_id, as_of, level, last_active_day) SELECT id, '2026-11-22', 'high', '2026-11-18' FROM who;
INSERT INTO ecstats.user_tags SELECT id, 'high_active_silent', '2026-11-21' FROM who
UNION ALL VALUES ('old', 'high_active_silent', '2026-11-01'::date);
UPDATE ecstats.user_tags SET until = '2026-11-05' WHERE user_id = 'old';
UPDATE ecstats.reports SET channels = '{ops,crm,plain}' WHERE name = 'recall';
SELECT channel, kind, body ->> 'type' AS type, body -> 'data' -> 'page' AS page, body -> 'data' -> 'pages' AS pages, would_send, reason, bytes > 0 AS bytes
  FROM ecstats_preview('recall', '2026-11-22') WITH ORDINALITY p ORDER BY p.ordinality;
SELECT count(*) FROM ecstats_report('recall', '2026-11-22');
SELECT day, revision, occasion, channel, priority, body - 'timestamp' - 'data' AS rest, (body -> 'data') - 'user_ids' AS data,
	   jsonb_array_length(body #> '{data,user_ids}') AS ids
  FROM ecstats.deliveries WHERE report = 'recall' AND occasion <> '' ORDER BY id;
SELECT channel, occasion, body ->> 'type' AS type FROM ecstats.deliveries WHERE occasion = '' ORDER BY id;
-- every user is on exactly one page, in ascending order over all of them; the time stamp is the same
CREATE VIEW pg_temp.sent AS
	SELECT d.report, d.channel, d.occasion, d.id AS delivery, u.id, row_number() OVER (PARTITION BY d.channel, d.report ORDER BY d.id, u.n) AS n
	  FROM ecstats.deliveries d, jsonb_array_elements_text(coalesce(d.body #> '{data,user_ids}', d.body #> '{list,user_ids}')) WITH ORDINALITY u(id, n)
	 WHERE d.occasion LIKE 'audience %';
SELECT array_agg(id ORDER BY n) = (SELECT array_agg(id ORDER BY id) FROM who) AS everybody_once FROM pg_temp.sent;
SELECT count(DISTINCT body -> 'timestamp') AS stamps FROM ecstats.deliveries WHERE occasion <> '';
-- twice gives nothing new, also where the audience has grown
SELECT count(*) FROM ecstats_report('recall', '2026-11-22');
INSERT INTO ecstats.user_tags SELECT 'new' || n, 'high_active_silent', '2026-11-22' FROM generate_series(1, 5) n;
SELECT count(*) FROM ecstats_report('recall', '2026-11-22');
SELECT channel, body -> 'data' -> 'pages' AS pages, would_send, regexp_replace(reason, '\d+', 'N') AS reason
  FROM ecstats_preview('recall', '2026-11-22') WITH ORDINALITY p WHERE channel = 'crm' ORDER BY p.ordinality;
DELETE FROM ecstats.user_tags WHERE user_id LIKE 'new%';
-- a condition that does not hold: neither message nor pages
UPDATE ecstats.reports SET channels = '{crm}', condition = '$.audience.user_count > 100' WHERE name = 'recall_en';
SELECT count(*) FROM ecstats_report('recall_en', '2026-11-22');
SELECT channel, would_send, reason FROM ecstats_preview('recall_en', '2026-11-22');

-- ---------------------------------------------------------------- by hand: as often as it is asked for
SELECT count(*) FROM ecstats_push_audience('high_active_silent', 'crm');
SELECT count(*) FROM ecstats_push_audience('high_active_silent', 'crm');
SELECT count(*) FROM ecstats_push_audience('nobody', 'crm');
SELECT report, day, occasion, (body -> 'data') - '{type,user_ids}'::text[] AS data, body #> '{data,user_ids}' = '[]' AS nobody
  FROM ecstats.deliveries WHERE report IS NULL ORDER BY id OFFSET 3;

-- ---------------------------------------------------------------- a page is never longer than its kind allows
SELECT count(*) AS pages FROM ecstats_push_audience('high_active_silent', 'ours');
SELECT array_agg(s.id ORDER BY s.n) = (SELECT array_agg(id ORDER BY id) FROM who) AS everybody_once FROM pg_temp.sent s WHERE channel = 'ours';
SELECT bool_and(octet_length(convert_to(body::text, 'UTF8')) <= 240) AS all_fit,
	   max(jsonb_array_length(body #> '{list,user_ids}')) > 1 AS more_than_one FROM ecstats.deliveries WHERE channel = 'ours';
-- one id that does not fit alone: an error that does not name it, and nothing is queued
INSERT INTO ecstats.user_tags VALUES (repeat('"', 128), 'high_active_silent', '2026-11-22');
SELECT ecstats_push_audience('high_active_silent', 'ours');
UPDATE ecstats.reports SET channels = '{ours,crm}', condition = NULL WHERE name = 'recall_en';
UPDATE ecstats.channel_kinds SET limits = '[{"max_bytes": 100000}]' WHERE kind = 'ours';
SELECT count(*) AS pages FROM ecstats_push_audience('high_active_silent', 'ours');
UPDATE ecstats.channel_kinds SET limits = '[{"max_bytes": 240}]' WHERE kind = 'ours';
\set VERBOSITY terse
SELECT count(*) FROM ecstats_report('recall_en', '2026-11-22');
\set VERBOSITY default
SELECT report, day, channel, sqlstate, reason FROM ecstats.report_failures ORDER BY id;
SELECT channel, count(*) FROM ecstats.deliveries WHERE report = 'recall_en' GROUP BY 1;
DELETE FROM ecstats.user_tags WHERE user_id = repeat('"', 128);

-- ---------------------------------------------------------------- many users: the limit of a webhook's body
UPDATE ecstats.channels SET options = '{"audience_page": 10000}' WHERE name = 'crm';
TRUNCATE ecstats.deliveries;
INSERT INTO ecstats.user_tags SELECT md5(n::text) || md5((-n)::text), 'nobody', '2026-11-22' FROM generate_series(1, 12345) n;
SELECT count(*) AS pages FROM ecstats_push_audience('nobody', 'crm');
SELECT count(*) AS ids, count(DISTINCT id) AS users, bool_and(id > before) IS NOT FALSE AS ascending
  FROM (SELECT id, lag(id) OVER (ORDER BY n) COLLATE "C" AS before FROM pg_temp.sent) s;
SELECT max(octet_length(convert_to(body::text, 'UTF8'))) BETWEEN 250000 AND 262144 AS full_pages,
	   array_agg(DISTINCT body -> 'data' -> 'total') AS total, array_agg(DISTINCT occasion ORDER BY occasion) AS occasions FROM ecstats.deliveries;
-- signed as every message of the kind is
UPDATE ecstats.channels SET secret = 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3' WHERE name = 'crm';
SELECT count(*) AS claimed, bool_and(EXISTS (SELECT FROM unnest(headers) h WHERE h LIKE 'webhook-signature: v1,%')) AS signed,
	   bool_and(c.body::jsonb = d.body) AS as_queued
  FROM ecstats.delivery_claim('w', 3) c JOIN ecstats.deliveries d ON d.id = c.delivery_id;

-- ---------------------------------------------------------------- who may
CREATE ROLE regress_ecstats_audience;
SELECT ecstats_grant('regress_ecstats_audience', 'reader');
SET ROLE regress_ecstats_audience;
\set VERBOSITY terse
SELECT ecstats_push_audience('nobody', 'crm');
RESET ROLE;
SELECT ecstats_grant('regress_ecstats_audience', 'operator');
SET ROLE regress_ecstats_audience;
SELECT count(*) FROM ecstats_push_audience('nobody', 'crm');
RESET ROLE;
DROP OWNED BY regress_ecstats_audience;
DROP ROLE regress_ecstats_audience;
DROP VIEW pg_temp.sent;
DROP EXTENSION ecstats CASCADE;
