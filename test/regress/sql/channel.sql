-- Channels and kinds: what is refused, envelopes, keyword, mentions, limits.
\set SHOW_CONTEXT never
SET datestyle = ISO; SET intervalstyle = postgres; SET bytea_output = hex;
SET client_min_messages = warning; DROP EXTENSION IF EXISTS ecstats CASCADE; CREATE EXTENSION ecstats; RESET client_min_messages;
SET timezone = 'Asia/Shanghai';

SELECT kind, transport, signature, default_envelope, (SELECT string_agg(e, ' ' ORDER BY e) FROM jsonb_object_keys(envelopes) e) AS envelopes, options
	FROM ecstats.channel_kinds ORDER BY kind COLLATE "C";

INSERT INTO ecstats.channels (name, kind, url, secret, options) VALUES
	('wecom', 'wecom', 'https://qyapi.example/cgi-bin/webhook/send?key=693a91f6-7000-4bc4-97a0-0ec2sifa5aaa', NULL, '{}'),
	('wecom-text', 'wecom', 'https://qyapi.example/cgi-bin/webhook/send?key=k2', NULL, '{"envelope": "text", "mention": {"users": ["u1"], "mobiles": ["13800001111"], "all": true}}'),
	('ding', 'dingtalk', 'https://oapi.example/robot/send?access_token=abcdef', 'SECtest', '{"keyword": "日报", "mention": {"users": ["u1"], "mobiles": ["13800001111"], "all": true}}'),
	('feishu', 'feishu', 'https://open.example/open-apis/bot/v2/hook/aaaa', 'demo', '{}'),
	('hook', 'webhook', 'https://shop.example/hooks', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', '{}'),
	('slack', 'slack', 'https://hooks.example/services/T0/B0/x', NULL, '{}'),
	('运营群', 'wecom', 'https://qyapi.example/cgi-bin/webhook/send?key=k3', NULL, '{"mention": {"users": ["zhang"]}}');

-- refused, and never a credential in the message: the row of a CHECK's DETAIL would have it
INSERT INTO ecstats.channels (name, kind, url) VALUES ('a b', 'wecom', 'https://x.example/?key=SECRETSECRET');
INSERT INTO ecstats.channels (name, kind, url) VALUES (NULL, 'wecom', 'https://x.example/?key=SECRETSECRET');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('x', NULL, 'https://x.example/?key=SECRETSECRET');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('x', 'nope', 'https://x.example/?key=SECRETSECRET');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('x', 'wecom', 'ftp://x.example/?key=SECRETSECRET');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('x', 'wecom', E'https://x.example/?key=SECRETSECRET\r\nX-Evil: 1');
INSERT INTO ecstats.channels (name, kind, url, secret) VALUES ('x', 'wecom', 'https://x.example/?key=SECRETSECRET', E'SECRET\nSECRET');
INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('x', 'wecom', 'https://x.example/?key=SECRETSECRET', '[]');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('ding', 'wecom', 'https://x.example/?key=SECRETSECRET');
-- options: each of these is refused, the last group is taken
SELECT ecstats.channel_options_check(o::jsonb) FROM (VALUES ('{"lane": 0}')) v(o);
CREATE FUNCTION pg_temp.try_options(o jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ecstats.channel_options_check(o);
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT o AS options, pg_temp.try_options(o::jsonb) AS answer FROM unnest(ARRAY['{"lane": 1.5}', '{"lane": "2"}', '{"lane": null}', '{"rate": {"count": 0, "per_seconds": 60}}',
	'{"rate": {"count": 5}}', '{"rate": 5}', '{"rate": [{"count": 5, "per_seconds": 1}, {"count": "x", "per_seconds": 1}]}', '{"throttle_seconds": 3601}', '{"max_retries": -1}', '{"timeout_seconds": 0}',
	'{"allow_private": "yes"}', '{"on_unconfirmed": "drop"}', '{"breaker": {"failures": 3}}', '{"keyword": ""}', '{"mention": "all"}', '{"mention": {"users": [1]}}', '{"mention": {"all": "yes"}}',
	'{"lane": 3, "rate": null, "breaker": null, "keyword": null, "mention": null}', '{"rate": [{"count": 100, "per_seconds": 60}, {"count": 5, "per_seconds": 0.5}], "max_retries": 0, "on_unconfirmed": "hold"}',
	'{"breaker": {"failures": 3, "pause_seconds": 60}, "keyword": "k", "mention": {"users": ["a"], "mobiles": [], "all": false}, "envelope": "text"}']) o;
SELECT ecstats.channel_options_check('{"max_retry": 3}');
SELECT ecstats.channel_settings('ding') - 'mention' AS ding, ecstats.channel_settings('nope') AS unknown;

-- neutral messages, every kind
SELECT c.name, ecstats.channel_envelope_at(c.name, '{"title": "昨日成交", "markdown": "## 昨日成交\n**GMV** 128.60万"}', '2026-11-24 09:30+08') AS body
	FROM ecstats.channels c ORDER BY c.name COLLATE "C";
-- text alone; a title is made from the first line
SELECT c.name, ecstats.channel_envelope_at(c.name, '{"text": "# 大促*开始*\n第二行"}', '2026-11-24 09:30+08') AS body
	FROM ecstats.channels c WHERE c.name IN ('ding', 'feishu', 'slack', 'wecom', 'wecom-text') ORDER BY c.name COLLATE "C";
-- native ones pass, with keyword and mentions
SELECT ecstats.channel_envelope('wecom', '{"msgtype": "image", "image": {"base64": "AA==", "md5": "x"}}');
SELECT ecstats.channel_envelope('ding', '{"msgtype": "text", "text": {"content": "hi @u1"}}');
SELECT ecstats.channel_envelope('ding', '{"msgtype": "link", "link": {"title": "t", "text": "日报", "messageUrl": "https://x", "picUrl": ""}}');
SELECT ecstats.channel_envelope('feishu', '{"msg_type": "share_chat", "content": {"share_chat_id": "oc_1"}}');
SELECT ecstats.channel_envelope('hook', '{"type": "shop.closed", "data": {"day": "2026-11-23"}}');
-- the message, or the channel, picks another envelope; a value with quotes and braces stays text
SELECT ecstats.channel_envelope('wecom', '{"envelope": "text", "text": "a \"quoted\" {{title}} \\ value", "title": "t"}');
SELECT ecstats.channel_envelope('wecom', '{"envelope": "nope", "text": "x"}');
SELECT ecstats.channel_envelope('wecom', '{"envelope": "markdown"}');
SELECT ecstats.channel_envelope('wecom', '"text"');
SELECT ecstats.channel_envelope('wecom', NULL);
SELECT ecstats.channel_envelope('nope', '{}');
-- a webhook takes what it gets
SELECT ecstats.channel_envelope_at('hook', '{"gmv": 12.50, "envelope": "event"}', '2026-11-24 09:30+08');
SELECT ecstats.channel_envelope_at('hook', '{"type": "report.daily", "timestamp": "2026-11-23T16:00:00Z", "rows": [1, 2]}', '2026-11-24 09:30+08');

-- limits: bytes of UTF-8, characters, items, decoded base64, the whole body; the last that fits and the first that does not
SELECT what, ecstats.channel_oversize(channel, body) AS problem FROM (VALUES
	(1, 'wecom', '4096 bytes', jsonb_build_object('msgtype', 'markdown', 'markdown', jsonb_build_object('content', repeat('大', 1365) || 'x'))),
	(2, 'wecom', '4097 bytes', jsonb_build_object('msgtype', 'markdown', 'markdown', jsonb_build_object('content', repeat('大', 1365) || 'xx'))),
	(3, 'wecom', 'text 2049', jsonb_build_object('msgtype', 'text', 'text', jsonb_build_object('content', repeat('x', 2049)))),
	(4, 'wecom', '9 articles', jsonb_build_object('msgtype', 'news', 'news', jsonb_build_object('articles', (SELECT jsonb_agg(n) FROM generate_series(1, 9) n)))),
	(5, 'wecom', 'image 2 MiB', jsonb_build_object('msgtype', 'image', 'image', jsonb_build_object('base64', repeat('AAAA', 699050) || 'AAA='))),
	(6, 'wecom', 'image 2 MiB + 1', jsonb_build_object('msgtype', 'image', 'image', jsonb_build_object('base64', repeat('AAAA', 699051)))),
	(7, 'ding', 'body', jsonb_build_object('msgtype', 'text', 'text', jsonb_build_object('content', repeat('x', 20000)))),
	(8, 'feishu', 'body', jsonb_build_object('msg_type', 'text', 'content', jsonb_build_object('text', repeat('飞', 7000)))),
	(9, 'slack', '40000 characters', jsonb_build_object('text', repeat('字', 40000))),
	(10, 'slack', '40001 characters', jsonb_build_object('text', repeat('字', 40001)))) v(n, channel, what, body) ORDER BY n;

-- a provider is a row; a template or a path that is wrong is refused there
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success, permanent, code_paths)
	VALUES ('pager', 'exists($.incident)', '{"text": {"incident": {"summary": "{{title}}"}, "labels": "{{labels}}", "source": "shop"}}', 'text', '$.http_status == 202', '$.body.code == "bad"', '{$.body.code}');
INSERT INTO ecstats.channels (name, kind, url) VALUES ('pager', 'pager', 'https://pager.example/x');
SELECT ecstats.channel_envelope('pager', '{"title": "t", "labels": ["a", {"b": 1}]}');
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success) VALUES ('k1', '$.x', '{"a": {}}', 'b', '$.http_status == 200');
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success) VALUES ('k1', '$.x', '{"a": {}}', 'a', '$.http_status = 200');
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success, limits) VALUES ('k1', '$.x', '{"a": {}}', 'a', '$.http_status == 200', '[{"path": "$.[", "max_bytes": 1}]');
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success, wait_headers) VALUES ('k1', '$.x', '{"a": {}}', 'a', '$.http_status == 200', '{Retry-After}');
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success, options) VALUES ('k1', '$.x', '{"a": {}}', 'a', '$.http_status == 200', '{"lane": 0}');
-- a kind in use and a channel in use stay; a renamed channel takes its deliveries along
DELETE FROM ecstats.channel_kinds WHERE kind = 'pager';
UPDATE ecstats.channel_kinds SET kind = 'page' WHERE kind = 'pager';
SELECT ecstats_push('pager', '{"title": "t"}') AS id \gset
DELETE FROM ecstats.channels WHERE name = 'pager';
UPDATE ecstats.channels SET name = 'night' WHERE name = 'pager';
SELECT channel, status FROM ecstats.deliveries WHERE id = :id;
SELECT ecstats_cancel(:id);
DELETE FROM ecstats.channels WHERE name = 'night';
SELECT ecstats_replay(:id);
INSERT INTO ecstats.delivery_attempts (delivery_id, attempt, channel, started_at, worker) VALUES (:id, 1, 'night', now(), 'w');
DELETE FROM ecstats.deliveries WHERE id = :id;
SELECT count(*) AS attempts_left FROM ecstats.delivery_attempts;
DELETE FROM ecstats.channel_kinds WHERE kind = 'pager';
-- a shipped row is not replaced by an INSERT, only by a restore
INSERT INTO ecstats.channel_kinds (kind, native, envelopes, default_envelope, success) VALUES ('slack', '$.x', '{"a": {}}', 'a', '$.http_status == 200');
SET check_function_bodies = off;
INSERT INTO ecstats.channel_kinds SELECT * FROM ecstats.channel_kinds WHERE kind = 'slack';
RESET check_function_bodies;
SELECT count(*) FROM ecstats.channel_kinds WHERE kind = 'slack';
-- an operator sets channels, and neither he nor the pusher reads their credentials or writes a state
CREATE ROLE regress_ecstats_operator;
CREATE ROLE regress_ecstats_pusher;
SELECT ecstats_grant('regress_ecstats_operator', 'operator'), ecstats_grant('regress_ecstats_pusher', 'pusher');
SET ROLE regress_ecstats_operator;
INSERT INTO ecstats.channels (name, kind, url) VALUES ('new', 'webhook', 'https://x.example/SECRETSECRET');
UPDATE ecstats.channels SET name = 'newer', enabled = true WHERE name = 'new';
SELECT url FROM ecstats.channels;
SELECT ecstats_push('newer', '{"text": "x"}') AS id \gset
UPDATE ecstats.deliveries SET status = 'sent' WHERE id = :id;
SELECT * FROM ecstats.delivery_claim('w', 1);
RESET ROLE;
SET ROLE regress_ecstats_pusher;
SELECT delivery_id = :id AS claimed, url FROM ecstats.delivery_claim('w', 1);
SELECT outcome FROM ecstats.delivery_settle('w', jsonb_build_array(jsonb_build_object('delivery_id', :id, 'attempt', 1, 'http_status', 204)));
SELECT ecstats.pusher_beat('w');
SELECT secret FROM ecstats.channels;
SELECT url FROM ecstats.delivery_request(:id, now());
RESET ROLE;
DROP OWNED BY regress_ecstats_operator, regress_ecstats_pusher;
DROP ROLE regress_ecstats_operator, regress_ecstats_pusher;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
