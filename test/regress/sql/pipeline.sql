-- Where areas meet: reports at a close, before it, after it; failures on the way; what an outage leaves.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
INSERT INTO ecstats.channels (name, kind, url) VALUES ('wecom', 'wecom', 'https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=abc'),
	('hook', 'webhook', 'https://shop.example/hook'), ('off', 'feishu', 'https://open.feishu.cn/open-apis/bot/v2/hook/abc'),
	('ops', 'slack', 'https://hooks.slack.com/services/T0/B0/x');
UPDATE ecstats.channels SET enabled = false WHERE name = 'off';
UPDATE ecstats.config SET operators_channel = 'ops';
UPDATE ecstats.reports SET channels = '{wecom,off,hook}' WHERE name = 'daily';
UPDATE ecstats.reports SET channels = '{hook}', condition = '$.gmv > 1000' WHERE name = 'daily_en';
INSERT INTO ecstats.events (event_time, user_id, event) SELECT d, 'u' || i, 'view_item' FROM generate_series(1, 20) i, unnest('{2026-03-01 12:00+08,2026-03-02 12:00+08}'::timestamptz[]) d;
SELECT ecstats_order('{"order_id":"1","order_time":"2026-03-02T10:00:00+08:00","paid_time":"2026-03-02T10:05:00+08:00","user_id":"u1","region":"上海","channel":"app","items":[{"product_id":"p1","quantity":2,"amount":10.10}]}');

-- a day that is not closed: its figures so far, at revision 0
SELECT d -> 'gmv' AS gmv, d -> 'uv' AS uv, d -> 'revision' AS revision, d -> 'complete' AS complete, d #> '{by_region,0,region}' AS region,
	   d #> '{top_products,0,total_sold}' AS sold, d #> '{funnel,0,user_count}' AS funnel, d -> 'new_user_count' AS new, d -> 'reconciles' AS reconciles
  FROM ecstats_report_data('daily', '2026-03-02') d;
SELECT channel, kind, bytes > 100 AS has_body, would_send, reason FROM ecstats_preview('daily', '2026-03-02');
SELECT count(*) AS written FROM ecstats.daily_kpi;
SELECT count(*) FROM ecstats_report('daily', '2026-03-02');
SELECT report, day, revision, channel, status FROM ecstats.deliveries WHERE report IS NOT NULL ORDER BY id;
\set VERBOSITY terse
SELECT ecstats_report_data('daily', ecstats_day() + 1);
\set VERBOSITY default

-- the close queues what hangs on it, once; a channel that cannot take it does not stop the others nor the close
SELECT day, gmv, revision FROM ecstats_daily('2026-03-02');
SELECT day, gmv, revision FROM ecstats_daily('2026-03-02');
SELECT report, day, revision, channel FROM ecstats.deliveries WHERE report IS NOT NULL AND revision > 0 ORDER BY id;
SELECT report, day, channel, sqlstate, reason FROM ecstats.report_failures ORDER BY id;
SELECT source, occasion, channel FROM ecstats.deliveries WHERE source IS NOT NULL ORDER BY id;
SELECT channel, would_send, reason LIKE 'it is queued already%' AS queued, reason LIKE '%disabled%' AS disabled FROM ecstats_preview('daily', '2026-03-02');
SELECT would_send, reason FROM ecstats_preview('daily_en', '2026-03-02');
SELECT * FROM ecstats_report('daily_en', '2026-03-02');

-- a change after the close is a new revision; an ordinary report is not sent again by itself
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 13:00+08', 'late', 'view_item');
SELECT day, uv, revision FROM ecstats_daily('2026-03-02');
SELECT count(*) FROM ecstats.deliveries WHERE revision = 2;
UPDATE ecstats.reports SET channels = '{wecom,hook}' WHERE name = 'daily';
SELECT count(*) FROM ecstats_report('daily', '2026-03-02');
SELECT count(*) FROM ecstats_report('daily', '2026-03-02');

-- a template that fails at night is recorded and told; the close goes on
UPDATE ecstats.reports SET template = 'nowhere' WHERE name = 'daily';
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-03 13:00+08', 'u1', 'view_item');
SELECT day, uv, revision FROM ecstats_daily('2026-03-03');
SELECT report, day, channel, sqlstate FROM ecstats.report_failures ORDER BY id;
SELECT component, status FROM ecstats_status() WHERE component IN ('reports', 'deliveries') ORDER BY 1;
SELECT ecstats_report('daily', '2026-03-03');
SELECT ecstats_preview('nobody', '2026-03-03');

-- a deleted row of figures is closed anew
DELETE FROM ecstats.daily_kpi WHERE day = '2026-03-02';
SELECT day FROM ecstats_daily('2026-03-03');
SELECT day, uv, revision FROM ecstats.daily_kpi WHERE day = '2026-03-02';
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 14:00+08', 'later', 'view_item');
SELECT day FROM ecstats_daily('2026-03-03');
SELECT day, uv, revision FROM ecstats.daily_kpi WHERE day = '2026-03-02';

-- a day whose partition is gone keeps its figures
SELECT ecstats_prepare('2026-03-05', '2026-03-05');
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-03-05 13:00+08', 'u' || i, 'view_item' FROM generate_series(1, 5) i;
SELECT uv FROM ecstats_daily('2026-03-05');
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20260305;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-05 14:00+08', 'late', 'view_item');
SELECT uv, revision FROM ecstats_daily('2026-03-05');
SELECT component, status FROM ecstats_status() WHERE component = 'frozen days';
SELECT ecstats_prepare('2026-03-05', '2026-03-05');
SELECT detail LIKE '%detached%' AS says_detached FROM ecstats_status() WHERE component = 'events';
DROP TABLE ecstats.events_20260305;

-- the same for one that was closed out of the default partition and got its own later
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-03-04 13:00+08', 'u' || i, 'view_item' FROM generate_series(1, 5) i;
SELECT uv FROM ecstats_daily('2026-03-04');
SELECT ecstats_prepare('2026-03-04', '2026-03-04');
SELECT uv FROM ecstats_daily('2026-03-04');
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20260304;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-04 14:00+08', 'late', 'view_item');
SELECT uv, revision FROM ecstats_daily('2026-03-04');
DROP TABLE ecstats.events_20260304;

-- what asks who is under way wants a snapshot of its own
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT uv FROM ecstats_daily('2026-03-06');
ROLLBACK;
SELECT uv FROM ecstats_daily('2026-03-06');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats_order('{"order_id":"1","order_time":"2026-03-02T10:00:00+08:00","items":[]}');
ROLLBACK;

-- an order that was stored since is newer than its reject
INSERT INTO ecstats.rejects (source, payload, sqlstate, reason) VALUES
	('order', '{"order_id":"1","order_time":"2026-03-02T10:00:00+08:00","items":[{"product_id":"old","quantity":1,"amount":1}]}', '23514', 'then'),
	('order', '{"order_id":"2","order_time":"2026-03-02T10:00:00+08:00","items":[{"product_id":"p","quantity":1,"amount":1}]}', '23514', 'then');
SELECT ecstats_retry_rejects();
SELECT order_id, product_id FROM ecstats.order_lines ORDER BY 1;

-- the money filter's decimals are the shop's where the data do not say
UPDATE ecstats.config SET currency = 'JPY';
SELECT ecstats_render('["{{n | money}}"]', '{"n": 1234.5}'), ecstats_render('["{{n | money}}"]', '{"n": 1234.5, "currency": "KWD"}');

-- one bad amount cannot stop the days
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('x', 1, '2026-03-02', 'p', 1, 9e131071);
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('x', 1, '2026-03-02', 'p', 1, 1e-31);

-- whether users are scored as of the latest closed day: as a close leaves it; behind it; changed since; never, before
-- there is a day and after
SELECT status, detail, hint FROM ecstats_status() WHERE component = 'activity';
BEGIN;
UPDATE ecstats.activity_state SET as_of = '2026-03-04', users = 7;
SELECT status, detail, hint FROM ecstats_status() WHERE component = 'activity';
UPDATE ecstats.activity_state SET as_of = '2026-03-06', stale_from = '2026-03-02';
SELECT status, detail, hint FROM ecstats_status() WHERE component = 'activity';
UPDATE ecstats.activity_state SET as_of = NULL, stale_from = NULL, users = NULL;
SELECT status, detail, hint FROM ecstats_status() WHERE component = 'activity';
DELETE FROM ecstats.daily_kpi;
SELECT status, detail, hint FROM ecstats_status() WHERE component = 'activity';
ROLLBACK;

-- who is told of failures: nobody, somebody who is not there, one who is disabled, one who listens
UPDATE ecstats.config SET operators_channel = NULL;
SELECT status, detail FROM ecstats_status() WHERE component = 'operators';
UPDATE ecstats.config SET operators_channel = 'nobody';
SELECT status, detail FROM ecstats_status() WHERE component = 'operators';
UPDATE ecstats.config SET operators_channel = 'off';
SELECT status, detail FROM ecstats_status() WHERE component = 'operators';
UPDATE ecstats.config SET operators_channel = 'ops';
SELECT status, detail FROM ecstats_status() WHERE component = 'operators';
