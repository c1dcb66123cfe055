-- Deliveries: queue, claim, what each answer leads to, leases, lanes, rates, replay. No clock: every
-- instant is given.
\set SHOW_CONTEXT never
SET datestyle = ISO; SET intervalstyle = postgres; SET bytea_output = hex;
SET client_min_messages = warning; DROP EXTENSION IF EXISTS ecstats CASCADE; CREATE EXTENSION ecstats; RESET client_min_messages;
SET timezone = 'UTC';
\set t0 '\'2026-11-24 01:30:00+00\'::timestamptz'

-- ------------------------------------------------------------------ answer -> state
-- One delivery on a channel of its own, claimed and answered at t0, jitter in the middle.
CREATE FUNCTION pg_temp.answer(kind text, http int, response text, headers jsonb DEFAULT '{}', error_kind text DEFAULT NULL, sent boolean DEFAULT true,
	OUT outcome text, OUT status text, OUT attempts int, OUT next_in interval, OUT channel_waits interval, OUT result text, OUT code text, OUT error text)
	LANGUAGE plpgsql AS $$
DECLARE
	t0 CONSTANT timestamptz := '2026-11-24 01:30:00+00';
	name text := 'c' || (SELECT count(*) FROM ecstats.channels);
	this bigint;
BEGIN
	INSERT INTO ecstats.channels (name, kind, url) VALUES (name, kind, 'https://provider.example/hook?key=KEYKEYKEY');
	this := ecstats.delivery_enqueue(NULL, NULL, 0, '', name, 5, NULL, '{"msgtype": "text"}', t0);
	PERFORM ecstats.delivery_claim_at('w', 10, t0);
	SELECT s.outcome INTO outcome FROM ecstats.delivery_settle_at('w', jsonb_build_array(jsonb_build_object('delivery_id', this, 'attempt', 1, 'http_status', http,
		'error_kind', error_kind, 'request_sent', sent, 'error', CASE WHEN error_kind IS NOT NULL THEN 'transport says' END, 'response', response, 'headers', headers, 'elapsed_ms', 7)), t0, 0.5) s;
	SELECT d.status, d.attempts, CASE WHEN d.status = 'pending' THEN d.next_attempt_at - t0 END, s.throttled_until - t0, a.result, a.provider_code, coalesce(a.error, '')
		INTO status, attempts, next_in, channel_waits, result, code, error
		FROM ecstats.deliveries d JOIN ecstats.channel_state s ON s.channel = d.channel JOIN ecstats.delivery_attempts a ON a.delivery_id = d.id WHERE d.id = this;
END $$;

CREATE TEMP TABLE answers (n serial, kind text, http int DEFAULT 200, response text, headers jsonb DEFAULT '{}', error_kind text, sent boolean DEFAULT true);
INSERT INTO answers (kind, response) SELECT 'wecom', r FROM unnest(ARRAY['{"errcode":0,"errmsg":"ok"}', '{"errcode":0,"errmsg":"ok. Warning: wrong json format."}', '{"errcode":-1,"errmsg":"system busy"}',
	'{"errcode":45009,"errmsg":"api freq out of limit"}', '{"errcode":45033,"errmsg":"too many parallel"}', '{"errcode":6000}', '{"errcode":40008,"errmsg":"invalid message type"}', '{"errcode":40009}', '{"errcode":40033}',
	'{"errcode":40035}', '{"errcode":40063}', '{"errcode":40058,"errmsg":"markdown.content exceed max length 4096"}', '{"errcode":40007}', '{"errcode":40004}', '{"errcode":40006}', '{"errcode":45001}', '{"errcode":44004,"errmsg":"empty content"}',
	'{"errcode":45002}', '{"errcode":45008}', '{"errcode":93000,"errmsg":"invalid webhook url, key KEYKEYKEY"}', '{"errcode":93004}', '{"errcode":93008}', '{"errcode":40001}', '{"errcode":40003}', '{"errcode":44001}', '{"errcode":301019}',
	'', '<html>gateway</html>', '{}', '{"errmsg":"ok"}', '[{"errcode":0}]', '"ok"', '{"errcode":"0"}', '{"errcode":0', 'null', '0']) r;
INSERT INTO answers (kind, response) SELECT 'dingtalk', r FROM unnest(ARRAY['{"errcode":0,"errmsg":"ok"}', '{"errcode":-1,"errmsg":"系统繁忙"}', '{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}', '{"errcode":410100}',
	'{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"u"}', '{"errcode":0,"status":1111,"wait":9999,"punish":"deny"}', '{"errcode":310000,"errmsg":"keywords not in content"}', '{"errcode":310000,"errmsg":"invalid timestamp"}',
	'{"errcode":310000,"errmsg":"sign not match"}', '{"errcode":310000,"errmsg":"ip 1.2.3.4 not in whitelist"}', '{"errcode":300001}', '{"errcode":300005,"errmsg":"token is not exist"}', '{"errcode":400101}', '{"errcode":400013}', '{"errcode":400102}',
	'{"errcode":400106}', '{"errcode":400105}', '{"errcode":40035}', '{"errcode":43002}', '{"errcode":43004}', '{"errcode":430101}', '{"errcode":430104}', '{"errcode":460101}', '{"errcode":88,"sub_code":"x"}', '{"errcode":404}', '{"errcode":999}', '', '{}']) r;
INSERT INTO answers (kind, response) SELECT 'feishu', r FROM unnest(ARRAY['{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}', '{"StatusCode":0,"StatusMessage":"success"}', '{"code":9499,"msg":"Bad Request"}',
	'{"code":9499,"msg":"too many request"}', '{"code":9499,"msg":"rate limit"}', '{"code":9499,"msg":"operation failed"}', '{"code":19001,"msg":"param invalid"}', '{"code":19002}', '{"code":19021,"msg":"sign match fail"}', '{"code":19022,"msg":"Ip Not Allowed"}',
	'{"code":19024,"msg":"Key Words Not Found"}', '{"code":11232,"msg":"frequency limited"}', '{"code":11246}', '{"code":11220}', '{"code":11247}', '{"code":19001,"StatusCode":0}', '', '{"data":{}}']) r;
INSERT INTO answers (kind, http, response, headers) VALUES
	('feishu', 429, '', '{"x-ogw-ratelimit-reset": "7"}'), ('feishu', 400, '{"code":99991400,"msg":"request trigger frequency limit"}', '{"X-Ogw-Ratelimit-Reset": "12"}'),
	('wecom', 500, '', '{}'), ('wecom', 302, '', '{}'), ('wecom', 404, '<html>', '{}'), ('dingtalk', 429, '', '{}'),
	('webhook', 200, 'ok', '{}'), ('webhook', 204, '', '{}'), ('webhook', 202, '{"errcode":1}', '{}'), ('webhook', 302, '', '{"location": "https://elsewhere"}'), ('webhook', 400, 'bad', '{}'), ('webhook', 410, '', '{}'),
	('webhook', 429, '', '{}'), ('webhook', 429, '', '{"Retry-After": "30"}'), ('webhook', 502, '', '{}'), ('webhook', 502, '', '{"retry-after": "30"}'), ('webhook', 503, '', '{"retry-after": "0"}'), ('webhook', 504, '', '{"retry-after": "99999"}'),
	('webhook', 503, '', '{}'), ('webhook', 500, '', '{"retry-after": "300"}'), ('webhook', 429, '', '{"retry-after": "Tue, 24 Nov 2026 01:32:00 GMT"}'), ('webhook', 429, '', '{"retry-after": "Tue, 31 Feb 2026 01:32:00 GMT"}'), ('webhook', 429, '', '{"retry-after": "-5"}'),
	('slack', 200, 'ok', '{}'), ('slack', 200, 'nope', '{}'), ('slack', 200, '', '{}'), ('slack', 400, 'invalid_payload', '{}'), ('slack', 403, 'action_prohibited', '{}'), ('slack', 404, 'no_service', '{}'), ('slack', 410, 'channel_is_archived', '{}'),
	('slack', 500, 'rollup_error', '{}'), ('slack', 429, '', '{"retry-after": "3"}');
INSERT INTO answers (kind, http, error_kind, sent, response) VALUES ('wecom', NULL, 'dns', false, NULL), ('wecom', NULL, 'connect', false, NULL), ('wecom', NULL, 'tls', false, NULL), ('wecom', NULL, 'timeout', true, NULL), ('wecom', NULL, 'reset', true, NULL),
	('wecom', NULL, 'refused_address', false, NULL), ('wecom', 200, 'too_large', true, '{"errcode":0'), ('webhook', 200, 'reset', true, '');
SELECT v.n, v.kind, v.http, left(coalesce(nullif(v.headers::text, '{}') || ' ', '') || coalesce(v.error_kind, v.response), 60) AS answer, a.outcome, a.status, a.attempts AS used, a.next_in, a.channel_waits AS channel, a.result, a.code
	FROM answers v, pg_temp.answer(v.kind, v.http, v.response, v.headers, v.error_kind, v.sent) a ORDER BY v.n;
-- what people read, without the key
SELECT DISTINCT a.error, a.response FROM ecstats.delivery_attempts a WHERE a.error ~ 'warning|93000|310000|may have|transport|HTTP 302' ORDER BY 1, 2;

-- ------------------------------------------------------------------ a clean start
SET client_min_messages = warning; DROP EXTENSION ecstats CASCADE; CREATE EXTENSION ecstats; RESET client_min_messages;
INSERT INTO ecstats.channels (name, kind, url, secret, options) VALUES
	('w', 'wecom', 'https://qyapi.example/send?key=KEYKEYKEY', NULL, '{}'),
	('d', 'dingtalk', 'https://oapi.example/robot/send?access_token=TOKENTOKEN', 'SECtest', '{"allow_private": true, "timeout_seconds": 300}'),
	('f', 'feishu', 'https://open.example/hook/aaaaaaaa', 'demo', '{}'),
	('h', 'webhook', 'https://shop.example/hooks', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', '{}'),
	('off', 'wecom', 'https://qyapi.example/send?key=OFFOFFOFF', NULL, '{}'),
	('ops', 'wecom', 'https://qyapi.example/send?key=OPSOPSOPS', NULL, '{"envelope": "text", "rate": null}');
UPDATE ecstats.channels SET enabled = false WHERE name = 'off';
CREATE FUNCTION pg_temp.put(channel text, due timestamptz, priority int DEFAULT 5, ttl interval DEFAULT NULL) RETURNS bigint LANGUAGE sql AS
	$$ SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', channel, priority, ttl, '{"msgtype": "text", "text": {"content": "hi"}}', due) $$;
CREATE FUNCTION pg_temp.ok(id bigint, attempt int DEFAULT 1) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT jsonb_build_array(jsonb_build_object('delivery_id', id, 'attempt', attempt, 'http_status', 200, 'response', '{"errcode": 0, "code": 0}')) $$;
CREATE FUNCTION pg_temp.fail(id bigint, attempt int DEFAULT 1) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT jsonb_build_array(jsonb_build_object('delivery_id', id, 'attempt', attempt, 'http_status', 500, 'response', '')) $$;
CREATE VIEW pg_temp.seen AS SELECT id, channel, status, attempts, requests, next_attempt_at, sent_at, last_error FROM ecstats.deliveries;

-- refused at the door
SELECT ecstats_push('nope', '{"text": "x"}');
SELECT ecstats_push('off', '{"text": "x"}');
SELECT ecstats_push('w', '{"text": "x"}', 0);
SELECT ecstats_push('w', '{"text": "x"}', NULL);
SELECT ecstats_push('w', '{"text": "x"}', 5, '0');
SELECT ecstats_push('w', jsonb_build_object('markdown', repeat('大', 2000)));
SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', 'w', 5, NULL, '[]', NULL);
-- one key, one row; pushes have none
SELECT ecstats.delivery_enqueue('r', '2026-11-23', 1, '', 'w', 5, NULL, '{}', :t0) AS first, ecstats.delivery_enqueue('r', '2026-11-23', 1, '', 'w', 5, NULL, '{}', :t0) AS again,
	ecstats.delivery_enqueue('r', '2026-11-23', 2, '', 'w', 5, NULL, '{}', :t0) AS revised, ecstats.delivery_enqueue('r', '2026-11-23', 2, 'due', 'w', 5, NULL, '{}', :t0) AS occasion;
SELECT ecstats_push('w', '{"text": "x"}') IS NOT NULL AS one, ecstats_push('w', '{"text": "x"}', ttl => '1 hour') IS NOT NULL AS two, ecstats_channel_test('w') IS NOT NULL AS three;
SELECT id, report, day, revision, occasion, priority, status, attempts, replace(body::text, current_database(), '(database)') AS body, expires_at - created_at AS ttl FROM ecstats.deliveries ORDER BY id;
SELECT ecstats_cancel(id) FROM ecstats.deliveries ORDER BY id;
SELECT ecstats_cancel(1) AS too_late, ecstats_cancel(999) AS absent;

-- what a claim returns: signatures of the instant, the lease bounds the time-out
SELECT pg_temp.put('d', :t0) AS d, pg_temp.put('f', :t0) AS f, pg_temp.put('h', :t0) AS h, pg_temp.put('w', :t0) AS w \gset
UPDATE ecstats.deliveries SET created_at = :t0 WHERE id = :h;
SELECT * FROM ecstats.delivery_claim_at('w1', 10, :t0) ORDER BY delivery_id;
SELECT delivery_id = :h AS is_h, headers[4] = 'webhook-signature: ' || ecstats.sign_standard_webhook('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', substr(headers[2], 13), 1795483800, body) AS signed
	FROM (SELECT (ecstats.delivery_request(:h, :t0)).*, :h AS delivery_id) r;
SELECT delivery_id, attempt, channel, started_at, finished_at, worker, result FROM ecstats.delivery_attempts ORDER BY delivery_id;
SELECT status, attempts, requests, worker, lease_until FROM ecstats.deliveries WHERE id = :d;
SELECT count(*) AS nothing_left FROM ecstats.delivery_claim_at('w2', 10, :t0);
SELECT s.outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:d) || pg_temp.ok(:f) || pg_temp.ok(:h) || pg_temp.ok(:w), :t0) s;
SELECT s.* FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:w) || pg_temp.ok(12345) || pg_temp.ok(:w, 7), :t0) s;
SELECT ecstats.delivery_settle_at('w1', '{}', :t0);
SELECT ecstats.delivery_settle_at('w1', '[{"delivery_id": "x"}]', :t0);
SELECT ecstats.delivery_claim_at('', 1, :t0);
-- no credential is stored anywhere
SELECT count(*) AS leaks FROM (SELECT d::text AS t FROM ecstats.deliveries d UNION ALL SELECT a::text FROM ecstats.delivery_attempts a) x WHERE t ~ 'KEYKEYKEY|TOKENTOKEN|SECtest|sign=|MfKQ9r8';

-- ------------------------------------------------------------------ back-off, dead, the operators
UPDATE ecstats.config SET operators_channel = 'ops';
SELECT n, ecstats.delivery_backoff(n, 0) AS least, ecstats.delivery_backoff(n, 0.5) AS mid, ecstats.delivery_backoff(n, 1) AS most FROM generate_series(1, 4) n;
SELECT pg_temp.put('w', :t0) AS id \gset
CREATE FUNCTION pg_temp.try(id bigint, at timestamptz, answer text, OUT attempt int, OUT outcome text, OUT status text, OUT attempts int, OUT next_at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	claimed bigint;
BEGIN
	SELECT c.delivery_id, c.attempt INTO claimed, attempt FROM ecstats.delivery_claim_at('w1', 1, at, 0.5) c;
	IF claimed IS DISTINCT FROM id THEN
		RAISE EXCEPTION 'claimed %, not %', claimed, id;
	END IF;
	SELECT s.outcome INTO outcome FROM ecstats.delivery_settle_at('w1', jsonb_build_array(jsonb_build_object('delivery_id', id, 'attempt', attempt, 'http_status', 200, 'response', answer)), at, 0.5) s;
	SELECT d.status, d.attempts, d.next_attempt_at INTO status, attempts, next_at FROM ecstats.deliveries d WHERE d.id = try.id;
END $$;
SELECT * FROM pg_temp.try(:id, :t0, '{"errcode": -1}');
SELECT count(*) AS too_early FROM ecstats.delivery_claim_at('w1', 1, :t0 + interval '59 seconds');
SELECT * FROM pg_temp.try(:id, :t0 + interval '1 minute', '{"errcode": -1}');
SELECT * FROM pg_temp.try(:id, :t0 + interval '3 minutes', '{"errcode": 45009}');
SELECT * FROM pg_temp.try(:id, :t0 + interval '4 minutes', '{"errcode": -1}');
SELECT * FROM pg_temp.try(:id, :t0 + interval '8 minutes', '{"errcode": -1, "errmsg": "busy"}');
SELECT channel, source, occasion, priority, status, body FROM ecstats.deliveries WHERE source IS NOT NULL;
-- told once; and the operators' own failure is not told
SELECT ecstats.delivery_tell_operators('job', 'run 7', 'job daily failed', 'division by zero') IS NOT NULL AS told, ecstats.delivery_tell_operators('job', 'run 7', 'job daily failed', 'division by zero') AS again;
SELECT (SELECT outcome FROM ecstats.delivery_settle_at('w1', jsonb_build_array(jsonb_build_object('delivery_id', c.delivery_id, 'attempt', c.attempt, 'http_status', 200, 'response', '{"errcode": 93000}')), now()))
	FROM ecstats.delivery_claim_at('w1', 1, now()) c;
SELECT count(*) AS messages FROM ecstats.deliveries WHERE source IS NOT NULL;
UPDATE ecstats.channels SET enabled = false WHERE name = 'ops';
SELECT ecstats.delivery_tell_operators('job', 'run 8', 'x', 'y');
UPDATE ecstats.config SET operators_channel = NULL;
SELECT ecstats.delivery_tell_operators('job', 'run 9', 'x', 'y');

-- ------------------------------------------------------------------ replay and the guard
SELECT ecstats.delivery_replay(:id, :t0 + interval '1 hour');
SELECT ecstats_replay(:id);
SELECT ecstats_replay(999999);
SELECT * FROM pg_temp.try(:id, :t0 + interval '1 hour', '{"errcode": 0}');
SELECT status, attempts, requests, sent_at, last_error FROM pg_temp.seen WHERE id = :id;
SELECT ecstats_replay(:id) = :id AS sent_again;
SELECT ecstats_cancel(:id);
SELECT ecstats_replay('w', '-infinity', 'infinity') AS none_dead;
SELECT ecstats_replay('nope', '-infinity', 'infinity');
UPDATE ecstats.deliveries SET status = 'dead' WHERE id = :id;
UPDATE ecstats.deliveries SET status = 'pending' WHERE id = :id;
UPDATE ecstats.deliveries SET status = 'nonsense' WHERE id = :id;
SELECT ecstats.delivery_move(:id, '{pending}', 'sending', :t0);
SELECT ecstats.delivery_move(999999, '{pending}', 'sending', :t0);

-- ------------------------------------------------------------------ leases
-- An answer that never comes is unconfirmed: retried, or held.
CREATE VIEW pg_temp.tried AS SELECT delivery_id, attempt, started_at, finished_at, answered_at, result, http_status, provider_code, error FROM ecstats.delivery_attempts;
SELECT pg_temp.put('w', :t0 + interval '1 day') AS id \gset
SELECT delivery_id = :id AS claimed, attempt FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '1 day');
SELECT count(*) AS still_leased FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '1 day 59 seconds');
SELECT count(*) AS backing_off FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '1 day 1 minute', 0.5);
SELECT status, attempts, next_attempt_at, last_error FROM pg_temp.seen WHERE id = :id;
SELECT * FROM pg_temp.tried WHERE delivery_id = :id;
-- a late failure changes nothing but the record, a late success of a waiting row makes it sent
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.fail(:id), :t0 + interval '1 day 70 seconds');
SELECT status, attempts, next_attempt_at FROM pg_temp.seen WHERE id = :id;
SELECT pg_temp.put('w', :t0 + interval '2 days') AS id \gset
SELECT count(ecstats_cancel(d.id)) AS taken_away FROM ecstats.deliveries d WHERE d.status = 'pending' AND d.id <> :id;
SELECT attempt FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '2 days');
SELECT count(*) FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '2 days 1 minute', 0.5);
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:id), :t0 + interval '2 days 61 seconds');
SELECT outcome AS twice FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:id), :t0 + interval '2 days 62 seconds');
SELECT status, attempts, sent_at, last_error FROM pg_temp.seen WHERE id = :id;
-- ... and of a row that is being tried again: the second answer is then only recorded
SELECT pg_temp.put('w', :t0 + interval '3 days') AS id \gset
SELECT attempt FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '3 days');
SELECT count(*) FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '3 days 1 minute', 0.5);
SELECT attempt FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '3 days 2 minutes', 0.5);
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:id, 1), :t0 + interval '3 days 121 seconds');
SELECT outcome FROM ecstats.delivery_settle_at('w2', pg_temp.fail(:id, 2), :t0 + interval '3 days 122 seconds');
SELECT status, attempts, requests, sent_at FROM pg_temp.seen WHERE id = :id;
SELECT attempt, result, http_status FROM pg_temp.tried WHERE delivery_id = :id ORDER BY attempt;
-- hold: dead at once, replayable; a late success still counts
UPDATE ecstats.channels SET options = '{"on_unconfirmed": "hold"}' WHERE name = 'w';
SELECT pg_temp.put('w', :t0 + interval '4 days') AS id \gset
SELECT attempt FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '4 days');
SELECT count(*) FROM ecstats.delivery_claim_at('w2', 9, :t0 + interval '4 days 1 minute', 0.5);
SELECT status, attempts FROM pg_temp.seen WHERE id = :id;
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:id), :t0 + interval '4 days 61 seconds');
SELECT pg_temp.put('w', :t0 + interval '4 days 2 minutes') AS id \gset
SELECT * FROM pg_temp.try(:id, :t0 + interval '4 days 2 minutes', '');
SELECT ecstats_replay('w', '-infinity', 'infinity') AS replayed;
SELECT ecstats_cancel(:id);
UPDATE ecstats.channels SET options = '{}' WHERE name = 'w';
-- an answer for a channel that is gone by then
INSERT INTO ecstats.channels (name, kind, url, options) VALUES ('gone', 'webhook', 'https://x.example/', '{"on_unconfirmed": "hold"}');
SELECT pg_temp.put('gone', :t0 + interval '4 days 1 hour') AS id \gset
SELECT delivery_id = :id AS claimed FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '4 days 1 hour');
SELECT count(*) FROM ecstats.delivery_claim_at('w1', 9, :t0 + interval '4 days 2 hours');
DELETE FROM ecstats.channels WHERE name = 'gone';
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:id), :t0 + interval '4 days 2 hours');
SELECT status FROM pg_temp.seen WHERE id = :id;
-- an id that is taken is no repeat: nothing is lost in silence
SELECT setval('ecstats.deliveries_id_seq', 2) AS behind;
SELECT pg_temp.put('w', :t0 + interval '5 days');
SELECT ecstats.delivery_enqueue('r', '2026-11-23', 1, '', 'w', 5, NULL, '{}', :t0) AS still_there;
SELECT setval('ecstats.deliveries_id_seq', (SELECT max(id) FROM ecstats.deliveries)) > 1 AS ahead;

-- signed anew once, then it is the settings
SELECT pg_temp.put('f', :t0 + interval '5 days') AS id \gset
SELECT * FROM pg_temp.try(:id, :t0 + interval '5 days', '{"code": 19021}');
SELECT * FROM pg_temp.try(:id, :t0 + interval '5 days 1 minute', '{"code": 19021}');

-- ------------------------------------------------------------------ order, lanes, rates, expiry
SELECT pg_temp.put('w', :t0 + interval '6 days 3 seconds', 5) AS a, pg_temp.put('w', :t0 + interval '6 days 2 seconds', 5) AS b, pg_temp.put('w', :t0 + interval '6 days 4 seconds', 1) AS c,
	pg_temp.put('w', :t0 + interval '6 days 9 seconds', 1) AS not_due, pg_temp.put('h', :t0 + interval '6 days 1 second', 9) AS h1, pg_temp.put('h', :t0 + interval '6 days', 3) AS h2 \gset
-- one lane for w, four for h; priority, then age
SELECT array_agg(n ORDER BY o) AS claimed FROM (SELECT o, CASE delivery_id WHEN :a THEN 'a' WHEN :b THEN 'b' WHEN :c THEN 'c' WHEN :h1 THEN 'h1' WHEN :h2 THEN 'h2' ELSE '?' END AS n
	FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '6 days 5 seconds') WITH ORDINALITY AS t(delivery_id, a1, a2, a3, a4, a5, a6, a7, a8, o)) x;
SELECT ecstats.delivery_settle_at('w1', pg_temp.ok(:c) || pg_temp.ok(:h1) || pg_temp.ok(:h2), :t0 + interval '6 days 5 seconds');
SELECT delivery_id = :b AS b_is_next FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '6 days 5 seconds');
-- a row that waits to retry does not block its lane
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.fail(:b), :t0 + interval '6 days 5 seconds', 0.5);
SELECT delivery_id = :a AS a_goes FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '6 days 6 seconds');
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:a), :t0 + interval '6 days 6 seconds');
SELECT count(ecstats_cancel(d.id)) AS taken_away FROM ecstats.deliveries d WHERE d.status = 'pending';
-- rate: 3 in 10 seconds over all claims, whatever the lane
UPDATE ecstats.channels SET options = '{"rate": {"count": 3, "per_seconds": 10}, "lane": 5}' WHERE name = 'w';
SELECT count(pg_temp.put('w', :t0 + interval '7 days')) FROM generate_series(1, 8);
CREATE FUNCTION pg_temp.drain(at timestamptz) RETURNS bigint LANGUAGE sql AS $$
	WITH c AS (SELECT * FROM ecstats.delivery_claim_at('w1', 10, at)),
	s AS (SELECT (ecstats.delivery_settle_at('w1', (SELECT jsonb_agg(pg_temp.ok(delivery_id, attempt) -> 0) FROM c), at)).outcome WHERE EXISTS (SELECT FROM c))
	SELECT count(*) FROM s WHERE outcome = 'sent' $$;
SELECT s AS second, pg_temp.drain(:t0 + interval '7 days' + make_interval(secs => s)) AS sent FROM generate_series(0, 26) s WHERE s IN (0, 5, 9, 10, 19, 20, 26);
SELECT rate_until FROM ecstats.channel_state WHERE channel = 'w';
-- two rules at once
UPDATE ecstats.channels SET options = '{"rate": [{"count": 4, "per_seconds": 60}, {"count": 3, "per_seconds": 1}], "lane": 10}' WHERE name = 'w';
SELECT count(pg_temp.put('w', :t0 + interval '8 days')) FROM generate_series(1, 6);
SELECT s AS second, pg_temp.drain(:t0 + interval '8 days' + make_interval(secs => s)) AS sent FROM unnest('{0,0.9,1,2,60,61}'::float8[]) s;
UPDATE ecstats.channels SET options = '{}' WHERE name = 'w';
-- time is over: never sent
SELECT pg_temp.put('w', :t0 + interval '9 days', 5, '1 minute') AS id \gset
SELECT count(*) FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '9 days 1 minute');
SELECT status, attempts, last_error FROM pg_temp.seen WHERE id = :id;
SELECT pg_temp.put('w', :t0 + interval '9 days', 5, '30 seconds') AS id \gset
SELECT count(*) FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '9 days');
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.fail(:id), :t0 + interval '9 days 31 seconds');
-- a disabled channel keeps its rows
SELECT pg_temp.put('w', :t0 + interval '10 days') AS id \gset
UPDATE ecstats.channels SET enabled = false WHERE name = 'w';
SELECT count(*) FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '10 days');
UPDATE ecstats.channels SET enabled = true WHERE name = 'w';
SELECT count(*) FROM ecstats.delivery_claim_at('w1', 0, :t0 + interval '10 days');
SELECT * FROM pg_temp.try(:id, :t0 + interval '10 days', '{"errcode": 45009}');
-- the channel waits, not only the row; others go on
SELECT pg_temp.put('w', :t0 + interval '10 days') AS w2, pg_temp.put('f', :t0 + interval '10 days') AS f \gset
SELECT delivery_id = :f AS only_f FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '10 days 59 seconds');
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:f), :t0 + interval '10 days 59 seconds');
SELECT ecstats.pusher_beat_at('w1', :t0 + interval '10 days') AS look_next;
SELECT delivery_id = :w2 AS older_first FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '10 days 60 seconds');
SELECT ecstats.pusher_beat_at('w1', :t0 + interval '10 days') AS lane_full_until;
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:w2), :t0 + interval '10 days 60 seconds');
SELECT outcome FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '10 days 60 seconds') c, ecstats.delivery_settle_at('w1', pg_temp.ok(c.delivery_id, c.attempt), :t0 + interval '10 days 60 seconds');
SELECT ecstats.pusher_beat_at('w1', :t0 + interval '11 days') AS nothing_known;
SELECT worker, version, started_at, last_beat FROM ecstats.pushers;

-- ------------------------------------------------------------------ breaker
UPDATE ecstats.channels SET options = '{"breaker": {"failures": 2, "pause_seconds": 300}, "lane": 4, "max_retries": 9}' WHERE name = 'w';
SELECT count(pg_temp.put('w', :t0 + interval '12 days')) FROM generate_series(1, 3);
CREATE FUNCTION pg_temp.all_at(at timestamptz, http int) RETURNS TABLE (claimed bigint, failures int, paused_until timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	claimed := 0;
	PERFORM ecstats.delivery_settle_at('w1', (SELECT jsonb_agg(jsonb_build_object('delivery_id', c.delivery_id, 'attempt', c.attempt, 'http_status', http, 'response', '{"errcode": 0}'))
		FROM ecstats.delivery_claim_at('w1', 10, at) c), at, 0.5);
	SELECT count(*) INTO claimed FROM ecstats.delivery_attempts a WHERE a.channel = 'w' AND a.started_at = at;
	RETURN QUERY SELECT claimed, s.failures, s.paused_until FROM ecstats.channel_state s WHERE s.channel = 'w';
EXCEPTION WHEN invalid_parameter_value THEN		-- nothing was claimed
	RETURN QUERY SELECT 0::bigint, s.failures, s.paused_until FROM ecstats.channel_state s WHERE s.channel = 'w';
END $$;
SELECT m AS minute, a.* FROM unnest('{0,1,4,5,9,10,11}'::int[], '{500,500,500,500,200,200,200}'::int[]) v(m, http), pg_temp.all_at(:t0 + interval '12 days' + make_interval(mins => m), http) a;
SELECT status, count(*) FROM ecstats.deliveries WHERE channel = 'w' AND created_at >= (SELECT max(created_at) FROM ecstats.deliveries) GROUP BY status;
UPDATE ecstats.channels SET options = '{}' WHERE name = 'w';

-- ------------------------------------------------------------------ a request that cannot be made stops nobody else
SELECT ecstats_cancel(d.id) FROM ecstats.deliveries d WHERE d.status = 'pending' AND d.channel = 'ops';
UPDATE ecstats.channels SET secret = 'not base64!' WHERE name = 'h';
SELECT pg_temp.put('h', :t0 + interval '13 days', 1) AS h, pg_temp.put('d', :t0 + interval '13 days', 2) AS d \gset
SELECT delivery_id = :d AS d_goes FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '13 days');
SELECT status, last_error FROM pg_temp.seen WHERE id = :h;
SELECT outcome FROM ecstats.delivery_settle_at('w1', pg_temp.ok(:d), :t0 + interval '13 days');

-- ------------------------------------------------------------------ what is stored is masked and short
SELECT ecstats.delivery_mask(t, 'https://u:passw0rd@oapi.example/robot/send?access_token=TOKENTOKEN', 'SECsecret other') AS masked FROM unnest(ARRAY['send too fast',
	'could not connect to https://u:passw0rd@oapi.example/robot/send?access_token=TOKENTOKEN', 'GET /robot/send?access_token=TOKENTOKEN&timestamp=1&sign=abc%2B failed', 'token TOKENTOKEN', 'SECsecret and other', 'u:passw0rd']) t;
SELECT octet_length(ecstats.delivery_cut(repeat('字', 5000), 4096)) AS bytes, length(ecstats.delivery_cut(repeat('字', 5000), 4096)) AS characters, ecstats.delivery_cut('short', 4096);
SELECT ecstats.delivery_answer(v::jsonb) FROM unnest(ARRAY['{"http_status": 200, "response": "{\"a\": 1}", "headers": {"Retry-After": "3"}}', '{"http_status": 200, "response": "{\"a\": "}', '{"http_status": 200, "response": "ok"}',
	'{"http_status": 200, "response": "\"\\u0000\""}', '{"http_status": null, "error_kind": "dns"}', '{"http_status": 200, "response": "", "headers": null}']) v;

-- ------------------------------------------------------------------ a copy sends nothing before it is adopted
SELECT ecstats.delivery_is_home(), ecstats_adopt() AS was_copy;
UPDATE ecstats.home SET database = 'elsewhere';
SELECT pg_temp.put('w', :t0 + interval '14 days') AS id \gset
SELECT ecstats.delivery_is_home(), (SELECT count(*) FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '14 days')) AS claimed, ecstats.pusher_beat_at('w1', :t0 + interval '14 days') AS beat;
SELECT ecstats_adopt() AS was_copy;
SELECT delivery_id = :id AS goes FROM ecstats.delivery_claim_at('w1', 10, :t0 + interval '14 days');
-- a restored row replaces the fresh one
SET check_function_bodies = off;
INSERT INTO ecstats.home (system_identifier, database) VALUES (1, 'origin');
RESET check_function_bodies;
SELECT system_identifier, database, ecstats.delivery_is_home() FROM ecstats.home;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
