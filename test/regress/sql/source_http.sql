-- Fetches of HTTP sources, the pusher's part done by hand: URLs, pages, mapping, back-off, leases, what is masked.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
CREATE FUNCTION pg_temp.answer(body text, status int DEFAULT 200, headers jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS
	$$ SELECT jsonb_build_object('http_status', status, 'error_kind', NULL, 'headers', headers, 'body', body, 'truncated', false, 'elapsed_ms', 5) $$;
CREATE FUNCTION pg_temp.fetch(at timestamptz) RETURNS TABLE (page int, url text, headers text[]) LANGUAGE sql AS
	$$ SELECT c.page, c.url, c.headers FROM ecstats.source_claim_at('w', 1, at) c $$;
CREATE FUNCTION pg_temp.receive(body text, at timestamptz, status int DEFAULT 200, headers jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS
	$$ SELECT ecstats.pipeline_receive('w', f.fetch_id, f.page, pg_temp.answer(body, status, headers), at) FROM ecstats.source_fetches f WHERE f.state = 'fetching' $$;
CREATE VIEW pg_temp.fetches AS SELECT fetch_id, day, state, page, pages, rows, attempts, next_attempt_at, error FROM ecstats.source_fetches ORDER BY fetch_id;

-- ---------------------------------------------------------------- pages by number, nested items, until an empty page
INSERT INTO ecstats.sources (name, kind, target, url, secret, headers, options) VALUES ('api', 'http', 'orders', 'https://api.example/v1/orders?date={{date}}&page={{page}}&from={{from}}&to={{to}}&key=sesame-1',
	'tok-5ecret', ARRAY['X-Shop: 1234'], '{"items": "$.data.orders[*]", "timezone": "Asia/Shanghai",
	"fields": {"order_id": "$.id", "order_time": "$.created", "user_id": "$.buyer.id", "region": "$.addr.province", "status": "$.state", "paid_time": "$.paid", "items": "$.lines", "note": "$.memo"},
	"item_fields": {"product_id": "$.sku", "quantity": "$.n", "amount": "$.total"}}');
SELECT ecstats_collect('api', '2026-03-01') AS id, ecstats_collect('api', '2026-03-01') AS same;
UPDATE ecstats.source_fetches SET created_at = '2026-03-02 02:00+08', next_attempt_at = '2026-03-02 02:00+08';
SELECT ecstats.source_next_due('2026-03-02 01:00+08');
SELECT * FROM pg_temp.fetch('2026-03-02 01:59+08');
SELECT * FROM ecstats.source_claim_at('w', 5, '2026-03-02 02:00+08');
SELECT * FROM ecstats.source_claim_at('w2', 5, '2026-03-02 02:00+08');
SELECT ecstats.source_next_due('2026-03-02 02:00+08');
-- not this worker's, not this page
SELECT ecstats.pipeline_receive('w2', 1, 1, pg_temp.answer('[]'), '2026-03-02 02:00+08'), ecstats.pipeline_receive('w', 1, 2, pg_temp.answer('[]'), '2026-03-02 02:00+08'),
	ecstats.pipeline_receive('w', 99, 1, pg_temp.answer('[]'), '2026-03-02 02:00+08');
\set page1 '{"code": 0, "data": {"orders": [{"id": 71, "created": "2026-03-01 10:00:00", "buyer": {"id": "u1"}, "addr": {"province": "上海"}, "state": "paid", "paid": "2026-03-01T10:05:00+08:00", "memo": "😀", "lines": [{"sku": "p1", "n": 2, "total": "19.90"}, {"sku": "p2", "n": 1, "total": 5}]}, {"id": 72, "created": "2026-03-01 11:00:00", "buyer": null, "addr": {}, "state": null, "lines": [{"sku": "p1", "n": 0, "total": 1}]}]}}'
SELECT pg_temp.receive(:'page1', '2026-03-02 02:00:01+08');
SELECT pg_temp.receive(:'page1', '2026-03-02 02:00:01+08');
SELECT ecstats.pipeline_receive('w', 1, 1, pg_temp.answer(:'page1'), '2026-03-02 02:00+08') AS again;
SELECT order_id, line_no, order_time, user_id, product_id, region, quantity, amount, status, paid_time, extra FROM ecstats.order_lines ORDER BY 1, 2;
SELECT id, source, day, payload, reason FROM ecstats.rejects;
SELECT * FROM pg_temp.fetches;
SELECT page, url FROM pg_temp.fetch('2026-03-02 02:00:02+08');
SELECT pg_temp.receive('{"code": 0, "data": {"orders": []}}', '2026-03-02 02:00:03+08');
SELECT * FROM pg_temp.fetches;
SELECT watermark, last_day, last_rows, last_error FROM ecstats.sources;
-- the day again: nothing changes; the bad one is good by now
CREATE TEMP TABLE before AS SELECT xmin AS x, ctid AS c FROM ecstats.order_lines;
SELECT ecstats_collect('api', '2026-03-01');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(replace(:'page1', '"n": 0', '"n": 1'), '2026-03-02 03:00+08');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"data": {"orders": null}}', '2026-03-02 03:00+08');
SELECT count(*) FROM ecstats.order_lines l JOIN before b ON b.x = l.xmin AND b.c = l.ctid;
SELECT order_id, line_no FROM ecstats.order_lines ORDER BY 1, 2;
SELECT count(*) FROM ecstats.rejects;
-- lines that an order no longer has go
SELECT ecstats_collect('api', '2026-03-01');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"data": {"orders": [{"id": 71, "created": "2026-03-01 10:00:00", "lines": [{"sku": "p2", "n": 1, "total": 5}]}]}}', '2026-03-02 03:00+08');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-02 03:00+08', 204);
SELECT order_id, line_no, product_id FROM ecstats.order_lines ORDER BY 1, 2;

-- ---------------------------------------------------------------- an answer without content is no page, unless it says so
TRUNCATE ecstats.source_fetches RESTART IDENTITY;
CREATE TEMP TABLE mark AS SELECT watermark FROM ecstats.sources WHERE name = 'api';
SELECT ecstats_collect('api', '2026-03-02');
UPDATE ecstats.source_fetches SET created_at = '2026-03-03 02:00+08', next_attempt_at = '2026-03-03 02:00+08';
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-03 02:00+08');
SELECT state, page, attempts, error FROM pg_temp.fetches;
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(E' \n', '2026-03-03 02:00+08');
SELECT s.watermark IS NOT DISTINCT FROM m.watermark AS stays FROM ecstats.sources s, mark m WHERE s.name = 'api';
-- a later page that is empty or an error, with status 200: not the end of the pages either
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(:'page1', '2026-03-03 02:00+08');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-03 02:00+08');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"code": 429, "msg": "slow down, tok-5ecret"}', '2026-03-03 02:00+08');
SELECT state, page, attempts, error FROM pg_temp.fetches;
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"code": 0, "data": {"orders": []}}', '2026-03-03 02:00+08');
SELECT state, pages, error FROM pg_temp.fetches;
-- 204 is a day without rows
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-03 02:00+08', 204);
UPDATE ecstats.sources SET watermark = m.watermark, last_day = NULL, last_error = NULL FROM mark m WHERE name = 'api';
DELETE FROM ecstats.rejects;

-- ---------------------------------------------------------------- throttled, broken, back-off, Retry-After, failed
TRUNCATE ecstats.source_fetches RESTART IDENTITY;
SELECT ecstats_collect('api', '2026-03-02');
UPDATE ecstats.source_fetches SET created_at = '2026-03-03 02:00+08', next_attempt_at = '2026-03-03 02:00+08';
SELECT count(*) FROM pg_temp.fetch('2026-03-03 02:00+08');
SELECT pg_temp.receive('slow down', '2026-03-03 02:00+08', 429);
SELECT * FROM pg_temp.fetches;
SELECT count(*) FROM pg_temp.fetch('2026-03-03 02:00:59+08');
SELECT count(*) FROM pg_temp.fetch('2026-03-03 02:01+08');
SELECT pg_temp.receive('<html>no', '2026-03-03 02:01+08', 503, '{"Retry-After": "7"}');
SELECT next_attempt_at, attempts, error FROM pg_temp.fetches;
SELECT count(*) FROM pg_temp.fetch('2026-03-03 02:02+08');
SELECT pg_temp.receive('', '2026-03-03 02:02+08', 503, '{"retry-after": "Mon, 02 Mar 2026 18:30:00 GMT"}');
SELECT next_attempt_at, attempts FROM pg_temp.fetches;
SELECT count(*) FROM pg_temp.fetch('2026-03-03 03:02+08');
SELECT pg_temp.receive('{"data": {"orders": [{"id": 80', '2026-03-03 03:02+08');
SELECT * FROM pg_temp.fetches;
SELECT last_day, last_error FROM ecstats.sources;
SELECT status, detail ~ 'is no JSON' AS says_why, hint FROM ecstats.source_status('2026-03-03 12:00+08');
SELECT ecstats.pipeline_wait(h, '2026-03-02 18:00+00') FROM unnest(ARRAY['0', '90', '99999999999', 'soon', 'Mon, 99 Mar 2026 18:30:00 GMT', 'Mon, 02 Mar 2026 17:00:00 GMT']) h;
-- a back-off is never longer than an hour, nor shorter than a second
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-03 02:00+08', 503, '{"Retry-After": "86400"}');
SELECT next_attempt_at FROM pg_temp.fetches WHERE state = 'pending';
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('', '2026-03-03 02:00+08', 503, '{"Retry-After": "0"}');
SELECT next_attempt_at FROM pg_temp.fetches WHERE state = 'pending';
-- transport errors; a page that comes sets the count back
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT ecstats.pipeline_receive('w', 2, 1, '{"http_status": null, "error_kind": "reset", "error": "end of file with 20 bytes missing"}', '2026-03-03 02:00+08');
SELECT state, attempts, next_attempt_at, error FROM pg_temp.fetches WHERE fetch_id = 2;
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(:'page1', '2026-03-03 02:00+08');
SELECT state, page, attempts, error FROM pg_temp.fetches WHERE fetch_id = 2;
-- refused, with the reason and without the credentials
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"error": "token tok-5ecret of shop 1234 may not read https://api.example/v1/orders?key=sesame-1&token=abc"}', '2026-03-03 02:00+08', 403);
SELECT state, page, rows, error FROM pg_temp.fetches WHERE fetch_id = 2;
-- too large; a private address; another document; too many pages
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT ecstats.pipeline_receive('w', 3, 1, '{"http_status": 200, "truncated": true, "body": "{\"data\": {\"ord"}', '2026-03-03 02:00+08');
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT ecstats.pipeline_receive('w', 4, 1, '{"http_status": null, "error_kind": "refused_address", "error": "127.0.0.1 is private"}', '2026-03-03 02:00+08');
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"errcode": 40001, "errmsg": "invalid credential tok-5ecret"}', '2026-03-03 02:00+08');
UPDATE ecstats.sources SET options = options || '{"max_pages": 1}';
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(:'page1', '2026-03-03 02:00+08');
SELECT fetch_id, state, page, rows, error FROM pg_temp.fetches WHERE fetch_id > 2;
-- a lease that ran out is put back, at last given up
TRUNCATE ecstats.source_fetches RESTART IDENTITY;
UPDATE ecstats.sources SET options = options - 'max_pages' || '{"max_retries": 1}';
SELECT ecstats_collect('api', '2026-03-02');
UPDATE ecstats.source_fetches SET created_at = '2026-03-03 02:00+08', next_attempt_at = '2026-03-03 02:00+08';
SELECT count(*) FROM pg_temp.fetch('2026-03-03 02:00+08');
SELECT lease_until FROM ecstats.source_fetches;
SELECT count(*) FROM ecstats.source_claim_at('w2', 1, '2026-03-03 02:11+08');
SELECT count(*) FROM ecstats.source_claim_at('w2', 1, '2026-03-03 02:11:01+08');
SELECT ecstats.pipeline_receive('w', 1, 1, pg_temp.answer(:'page1'), '2026-03-03 02:12+08') AS too_late;
SELECT count(*) FROM ecstats.source_claim_at('w2', 1, '2026-03-03 03:00+08');
SELECT state, attempts, error FROM pg_temp.fetches;
-- on_error raise: the reason is the row's
UPDATE ecstats.sources SET on_error = 'raise';
SELECT ecstats_collect('api', '2026-03-02');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive(:'page1', '2026-03-03 02:00+08');
SELECT state, rows, error FROM pg_temp.fetches WHERE fetch_id = 2;
DELETE FROM ecstats.sources;
DELETE FROM ecstats.order_lines;
TRUNCATE ecstats.source_fetches RESTART IDENTITY;
TRUNCATE ecstats.rejects;

-- ---------------------------------------------------------------- the Link header, options.next, lines, events
CREATE FUNCTION pg_temp.next(link text, the_url text DEFAULT 'https://api.example/v1/e?page={{page}}', options jsonb DEFAULT '{}', body jsonb DEFAULT '{}', elements int DEFAULT 1,
	OUT more boolean, OUT url text, OUT value text, OUT reason text) LANGUAGE plpgsql AS $$
DECLARE
	s ecstats.sources;
	f ecstats.source_fetches;
BEGIN
	s.url := $2;
	s.options := options;
	f.page := 3;
	f.day := '2026-03-01';
	SELECT n.more, n.url, n.value, n.reason INTO more, url, value, reason FROM ecstats.pipeline_next_page(s, f, body, link, elements) n;
END $$;
SELECT l AS link, n.* FROM unnest(ARRAY['<https://api.example/v1/e?cursor=x%2Fy>; rel="next"', '<https://API.example/v1/e?c=1>; rel=next, <https://api.example/v1/e>; rel="first"',
	'<https://api.example/v1/e?c=0>; rel="prev", </v1/e?c=2>; title="a, b"; rel="last next"', '<?c=2>; rel="next"', '<more?c=2>; rel=next', '<https://api.example/v1/e?c=0>; rel="prev"', '',
	'<https://evil.example/v1/e>; rel="next"', '<http://api.example/v1/e>; rel="next"', '<//evil.example/e>; rel="next"', '<https://api.example:444/e>; rel="next"',
	'<https://api.example@evil.example/e>; rel="next"', '<https://api.example/v1/e?page=3>; rel="next"', '<https://api.example/a b>; rel="next"']) l, pg_temp.next(l) n;
SELECT o, b, n.* FROM (VALUES ('$.next', '{"next": "https://api.example/v1/e?c=9"}'::jsonb), ('$.next', '{"next": "/v1/e?c=9"}'), ('$.next', '{"next": null}'), ('$.next', '{"next": ""}'), ('$.next', '{}'),
	('$.more', '{"more": true}'), ('$.more', '{"more": false}'), ('$.next', '{"next": 4}'), ('$.cursor', '{"cursor": "abc=="}'), ('$.next', '{"next": "https://evil.example/"}')) v(o, b),
	pg_temp.next('<https://api.example/v1/e?c=1>; rel="next"', options => jsonb_build_object('next', o), body => b) n;
SELECT * FROM pg_temp.next(NULL);
SELECT * FROM pg_temp.next(NULL, elements => 0);
SELECT * FROM pg_temp.next(NULL, 'https://api.example/v1/e');
SELECT * FROM pg_temp.next(NULL, 'https://api.example/v1/e', '{"next": "$.c"}', '{"c": 5}');
-- a cursor as the page's value, percent-encoded; lines without items; a header of one's own
INSERT INTO ecstats.sources (name, kind, target, url, secret, options) VALUES ('flat', 'http', 'orders', 'https://api.example/lines?d={{date}}&c={{page}}', 'k-1234',
	'{"items": "$.rows", "next": "$.cursor", "first_page": 0, "secret_header": "X-Api-Key"}');
SELECT ecstats_collect('flat', '2026-03-01');
SELECT * FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"rows": [{"order_id": "a", "timestamp": 1772330400, "line_no": 1, "product_id": "p", "quantity": 1, "amount": 1}, {"order_id": "a", "timestamp": 1772330400, "line_no": 2, "product_id": "q", "quantity": 1, "amount": 1, "gift": true}], "cursor": "a/2 é"}', '2026-03-02 02:00+08');
SELECT * FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"rows": [{"order_id": "a", "timestamp": 1772330400, "line_no": 3, "product_id": "p", "quantity": 1, "amount": 1}], "cursor": null}', '2026-03-02 02:00+08');
SELECT order_id, line_no, order_time, product_id, extra FROM ecstats.order_lines ORDER BY 1, 2;
SELECT fetch_id, state, pages, rows FROM pg_temp.fetches;
SELECT ecstats_collect('flat', '2026-03-01');
SELECT count(*) FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('{"rows": [{"order_id": "a", "timestamp": 1772330400, "product_id": "p", "quantity": 1, "amount": 1}, {"order_id": "a", "timestamp": 1772330400, "product_id": "q", "quantity": 1, "amount": 1}]}', '2026-03-02 02:00+08');
SELECT state, error FROM pg_temp.fetches WHERE fetch_id = 2;
-- events by Link header; the whole body is the list
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('ev', 'http', 'events', 'https://api.example/events?since={{from}}');
SELECT ecstats_collect('ev', '2026-03-01');
SELECT * FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('[{"event": "login", "timestamp": 1772330400, "user_id": 5}, {"event": "Login", "timestamp": 1772330400, "user_id": 5}, 7]', '2026-03-02 02:00+08', 200, '{"Link": "</events?after=2>; rel=\"next\""}');
SELECT * FROM pg_temp.fetch('infinity');
SELECT pg_temp.receive('[{"event": "login", "timestamp": 1772330400, "user_id": 5}]', '2026-03-02 02:00+08', 200, '{"link": "</events>; rel=\"first\""}');
SELECT event_time, user_id, event FROM ecstats.events;
SELECT payload, sqlstate FROM ecstats.rejects ORDER BY id;
SELECT fetch_id, state, pages, rows, cardinality(f.rejects) FROM ecstats.source_fetches f ORDER BY 1;
-- one fetch of a source at a time; a deleted and a disabled source; the operators are told
INSERT INTO ecstats.channels (name, kind, url) VALUES ('ops', 'webhook', 'https://ops.example/hook');
UPDATE ecstats.config SET operators_channel = 'ops';
SELECT ecstats_collect('ev', '2026-03-02'), ecstats_collect('ev', '2026-03-03'), ecstats_collect('flat', '2026-03-03');
SELECT fetch_id, url FROM ecstats.source_claim_at('w', 10, 'infinity');
SELECT ecstats.pipeline_receive('w', 4, 1, pg_temp.answer('gone', 410), '2026-03-04 02:00+08');
SELECT channel, body -> 'data' ->> 'text' AS text FROM ecstats.deliveries;
UPDATE ecstats.sources SET enabled = false WHERE name = 'ev';
SELECT count(*) FROM ecstats.source_claim_at('w', 10, 'infinity');
DELETE FROM ecstats.sources;
SELECT count(*) FROM ecstats.source_claim_at('w', 10, 'infinity');
SELECT fetch_id, state, error FROM pg_temp.fetches WHERE fetch_id > 3;
SELECT ecstats.source_next_due(now());
SELECT ecstats.source_prune('infinity', 4), ecstats.source_prune('infinity', 4);
-- as the pusher calls them
SELECT * FROM ecstats.source_claim('w', 1);
SELECT ecstats.source_receive('w', 1, 1, '{"http_status": 200}');
SELECT * FROM ecstats.source_claim('', 1);
DELETE FROM ecstats.events;
DELETE FROM ecstats.order_lines;
