-- A database worth dumping: something in every table that a dump is to bring back.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

UPDATE ecstats.config SET timezone = 'Asia/Shanghai', day_starts_at = '04:00', currency = 'JPY', close_grace = '1 hour',
	abnormal_statuses = '{cancelled,chargeback}', event_retention = '400 days', operators_channel = 'ops';

-- The vocabulary: a shipped row changed, one taken out of the funnel, one added.
UPDATE ecstats.event_types SET weight = 0.75, description = 'Ours' WHERE event = 'click';
UPDATE ecstats.event_types SET funnel_step = NULL WHERE event = 'begin_checkout';
-- shipped rows that are deleted stay so, and their place in the funnel may be somebody else's
DELETE FROM ecstats.event_types WHERE event IN ('view_item', 'page_view');
INSERT INTO ecstats.event_types (event, weight, is_page_view, funnel_step, description) VALUES ('my_view', 0.3, true, 1, 'Ours');
INSERT INTO ecstats.event_types (event, weight, is_page_view, funnel_step, description) VALUES ('landing', 0.1, true, 9, 'First page');

-- Five days with a partition, two without: those wait in the default partition.
SELECT ecstats_prepare('2026-03-01', '2026-03-05');
INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
SELECT ecstats.day_start(date '2026-03-01' + d) + n * interval '10 minutes', 'u' || (n * 7 + d) % 40,
	(array['page_view','view_item','add_to_cart','purchase','landing','click'])[1 + n % 6],
	CASE WHEN n % 2 = 0 THEN md5(d || '/' || n)::uuid END, '/p/' || n, jsonb_build_object('n', n, 'text', E'tab\there "quoted" 中文')
  FROM generate_series(0, 6) AS d, generate_series(1, 120) AS n;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, channel, quantity, amount, status, paid_time)
SELECT 'o' || d || '-' || n, 1, ecstats.day_start(date '2026-03-01' + d) + n * interval '25 minutes', 'u' || n, 'p' || n % 5, '上海', 'app',
	1 + n % 3, n * 10.05, CASE n WHEN 7 THEN 'chargeback' ELSE 'paid' END, ecstats.day_start(date '2026-03-01' + d) + n * interval '26 minutes'
  FROM generate_series(0, 6) AS d, generate_series(1, 30) AS n;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount, status)
SELECT 'o0-' || n, 1, ecstats.day_start(date '2026-03-03') + n * interval '1 hour', 'u' || n, 'p' || n % 5, -1, -5.5, 'returned'
  FROM generate_series(1, 4) AS n;
SELECT ecstats_track('[{"event": "click", "user_id": "u1", "timestamp": 1772400000}, {"event": "Bad Name", "user_id": "u1", "timestamp": 1772400000}]', 'quarantine');

-- A source of each kind, one that has run and one that is being fetched.
INSERT INTO ecstats.sources (name, target, query) VALUES ('dump', 'orders',
	'SELECT ''src'' AS order_id, $1 AS order_time, ''p'' AS product_id, n AS quantity, n AS amount, n AS line_no FROM generate_series(1, 2) n');
SELECT ecstats_collect('dump', '2026-03-05');
INSERT INTO ecstats.sources (name, kind, target, url, secret, headers) VALUES ('dump api', 'http', 'events', 'https://api.example/e?d={{date}}', 's3cret', '{X-Shop: 1}');
SELECT ecstats_collect('dump api', '2026-03-05');

-- Channels, templates, reports, targets, jobs, a role that owns some.
INSERT INTO ecstats.channels (name, kind, url, secret, options) VALUES
	('ops', 'wecom', 'https://example.invalid/cgi-bin/webhook/send?key=k', NULL, '{"keyword": "日报"}'),
	('hook', 'webhook', 'https://example.invalid/hook', 'whsec_c2VjcmV0c2VjcmV0c2VjcmV0', '{"lane": 2}');
INSERT INTO ecstats.templates (name, body, note) VALUES ('daily_cn', '{"title": "{{day}}", "markdown": "成交 {{gmv | money}}"}', 'ours');
UPDATE ecstats.reports SET channels = '{ops,hook}', priority = 2 WHERE name = 'daily';
INSERT INTO ecstats.reports (name, template, condition, channels) VALUES ('drop', 'daily_en', '$.dod.gmv < -0.99', '{ops}');
INSERT INTO ecstats.targets VALUES ('2026-03', 'gmv', 100000);
SELECT ecstats_schedule('hourly', '7 * * * *', 'SELECT 1', timezone => 'Europe/Berlin');
UPDATE ecstats.jobs SET schedule = '30 7 * * *' WHERE name = 'daily';

-- Closed days and their reports, a late row and what it restated, messages in several states.
SELECT ecstats_daily('2026-03-05');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount)
	VALUES ('late', 1, ecstats.day_start('2026-03-04') + interval '3 hours', 'u99', 'p1', 1, 99.99);
SELECT ecstats_daily('2026-03-06');
SELECT ecstats_push('ops', '{"text": "one"}'), ecstats_push('hook', '{"text": "two"}', 9, '10 years');
SELECT ecstats_cancel(ecstats_push('ops', '{"text": "three"}'));
SELECT count(*) FROM ecstats.delivery_claim('before the dump', 2);
SELECT ecstats_run_job('hourly');
CALL ecstats_tick(wait => true);
-- A mark that is not taken yet, and one more day that is open.
INSERT INTO ecstats.events (event_time, user_id, event) VALUES (ecstats.day_start('2026-03-02') + interval '5 hours', 'u3', 'click');
