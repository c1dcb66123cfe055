-- Sources and who may do what to them: the switch of a restore, private addresses, what a request may carry, one bad
-- source beside good ones, credentials in what is shown.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP SCHEMA IF EXISTS shop CASCADE;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
CREATE ROLE ecstats_op LOGIN;
CREATE ROLE ecstats_next;
SELECT ecstats_grant(r, 'operator') FROM unnest('{ecstats_op,ecstats_next}'::name[]) r;
SELECT ecstats_grant('ecstats_op', 'reader');
CREATE SCHEMA shop;
CREATE TABLE shop.orders (order_id int, line_no int, order_time timestamptz, product_id text, quantity int, amount numeric);
GRANT USAGE ON SCHEMA shop TO PUBLIC;
GRANT SELECT ON shop.orders TO PUBLIC;
CREATE FUNCTION pg_temp.answer(body text, status int DEFAULT 200) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT jsonb_build_object('http_status', status, 'body', body) $$;

-- ---------------------------------------------------------------- the switch of a restore is a superuser's
SET SESSION AUTHORIZATION ecstats_op;
SET check_function_bodies = off;
INSERT INTO ecstats.sources (name, target, query) VALUES ('bad', 'orders', 'DELETE FROM shop.orders');
INSERT INTO ecstats.sources (name, kind, target, url, headers) VALUES ('bad', 'http', 'orders', 'https://x/y', ARRAY[E'X: y\r\nEvil: z']);
INSERT INTO ecstats.sources (name, target, query) VALUES ('mine', 'orders', 'shop.orders');
UPDATE ecstats.sources SET query = 'SELECT * FROM shop.orders WHERE order_time >= $1 AND order_time < $2' WHERE name = 'mine';
RESET check_function_bodies;
RESET SESSION AUTHORIZATION;
SELECT name, owner, owner_id = 'ecstats_op'::regrole AS pinned FROM ecstats.sources;
-- a role that is made later under the same name gets nothing
ALTER ROLE ecstats_op RENAME TO ecstats_former;
ALTER ROLE ecstats_next RENAME TO ecstats_op;
SELECT ecstats_collect('mine', '2026-03-01');
SET SESSION AUTHORIZATION ecstats_op;
UPDATE ecstats.sources SET query = 'shop.orders';
RESET SESSION AUTHORIZATION;
ALTER ROLE ecstats_op RENAME TO ecstats_next;
ALTER ROLE ecstats_former RENAME TO ecstats_op;
-- what a restore wrote is pinned by the first run, not by a change of a setting
SET check_function_bodies = off;
DELETE FROM ecstats.sources;
INSERT INTO ecstats.sources (name, target, query, owner) VALUES ('mine', 'orders', 'shop.orders', 'ecstats_op');
INSERT INTO ecstats.sources (name, kind, target, url, owner) VALUES ('api', 'http', 'orders', 'https://api.example/o?p={{page}}', 'ecstats_op'), ('old', 'http', 'orders', 'https://api.example/o', 'ecstats_gone');
RESET check_function_bodies;
UPDATE ecstats.sources SET timeout = '2 min';
SELECT name, owner_id FROM ecstats.sources ORDER BY 1;
SELECT ecstats_collect('mine', '2026-03-01'), ecstats_collect('api', '2026-03-01'), ecstats_collect('old', '2026-03-01');
SELECT name, owner_id = 'ecstats_op'::regrole AS pinned, owner_id = 0 AS nobody FROM ecstats.sources ORDER BY 1;
UPDATE ecstats.sources SET owner_id = NULL WHERE name = 'api';
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
SELECT owner_id = 'ecstats_op'::regrole AS pinned FROM ecstats.sources WHERE name = 'api';
ALTER ROLE ecstats_op RENAME TO ecstats_former;
ALTER ROLE ecstats_next RENAME TO ecstats_op;
SELECT ecstats_collect('mine', '2026-03-01');
SET SESSION AUTHORIZATION ecstats_op;
UPDATE ecstats.sources SET url = 'https://evil.example/' WHERE name = 'api';
RESET SESSION AUTHORIZATION;
ALTER ROLE ecstats_op RENAME TO ecstats_next;
ALTER ROLE ecstats_former RENAME TO ecstats_op;
CREATE ROLE ecstats_gone;
SELECT ecstats_grant('ecstats_gone', 'operator');
SET SESSION AUTHORIZATION ecstats_gone;
UPDATE ecstats.sources SET url = 'https://evil.example/' WHERE name = 'old';
RESET SESSION AUTHORIZATION;
DELETE FROM ecstats.sources;
TRUNCATE ecstats.source_fetches RESTART IDENTITY;

-- ---------------------------------------------------------------- private addresses
SET SESSION AUTHORIZATION ecstats_op;
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('inner', 'http', 'orders', 'http://10.0.0.7/o', '{"allow_private": true}');
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('inner', 'http', 'orders', 'http://10.0.0.7/o', '{"allow_private": false}');
UPDATE ecstats.sources SET options = '{"allow_private": true}' WHERE name = 'inner';
RESET SESSION AUTHORIZATION;
UPDATE ecstats.sources SET options = '{"allow_private": true}' WHERE name = 'inner';
SET SESSION AUTHORIZATION ecstats_op;
UPDATE ecstats.sources SET url = 'http://169.254.169.254/latest' WHERE name = 'inner';
UPDATE ecstats.sources SET headers = '{X-Other: 1}' WHERE name = 'inner';
UPDATE ecstats.sources SET options = options || '{"secret_header": "Metadata"}' WHERE name = 'inner';
-- what asks nobody else goes on
UPDATE ecstats.sources SET timeout = '5 s', secret = 'rotated', options = options || '{"max_retries": 1}' WHERE name = 'inner';
-- and without the right it is an address of the internet
UPDATE ecstats.sources SET url = 'https://api.example/o', options = '{}' WHERE name = 'inner';
RESET SESSION AUTHORIZATION;
SELECT owner, url, headers, timeout, options FROM ecstats.sources;
-- a member of the extension's owner may
GRANT postgres TO ecstats_op;
SET SESSION AUTHORIZATION ecstats_op;
UPDATE ecstats.sources SET url = 'http://10.0.0.7/o', options = '{"allow_private": true}' WHERE name = 'inner';
RESET SESSION AUTHORIZATION;
REVOKE postgres FROM ecstats_op;
SELECT url, options FROM ecstats.sources;
DELETE FROM ecstats.sources;

-- ---------------------------------------------------------------- what a request may carry, for superusers too
INSERT INTO ecstats.sources (name, kind, target, url, headers) VALUES ('bad', 'http', 'orders', 'https://x/y', ARRAY[E'X: y\nEvil: z']);
INSERT INTO ecstats.sources (name, kind, target, url, headers) VALUES ('bad', 'http', 'orders', 'https://x/y', ARRAY[NULL]);
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('bad', 'http', 'orders', 'https://x/y', '{"secret_header": "X-Key: 1\r\nEvil"}');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'https://{{date}}?x');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'https://x:{{page}}/');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', 'https://api.example\@evil.example/');
\set VERBOSITY terse
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('land:public.orders', 'http', 'orders', 'https://x/y');
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('bad', 'http', 'orders', E'https://x/y\r\nHost: z');
INSERT INTO ecstats.sources (name, kind, target, url, secret) VALUES ('bad', 'http', 'orders', 'https://x/y', E'a\r\nEvil: b');
INSERT INTO ecstats.sources (name, kind, target, url, headers, options) VALUES ('good', 'http', 'orders', 'https://x?d={{date}}', '{X-A: 1}', '{"secret_header": "X-Key"}');
UPDATE ecstats.sources SET url = E'https://x/y\n';
UPDATE ecstats.sources SET secret = E'a\n';
\set VERBOSITY default
UPDATE ecstats.sources SET headers = headers || ARRAY[E'X-B: 2\r\nX-C: 3'];
UPDATE ecstats.sources SET url = 'https://{{page}}.example/';
UPDATE ecstats.sources SET options = '{"secret_header": "X Key"}';
DELETE FROM ecstats.sources;

-- ---------------------------------------------------------------- one bad source, by a restore, fails alone
SET check_function_bodies = off;
INSERT INTO ecstats.sources (name, kind, target, url, headers, secret, options) VALUES
	('a retries', 'http', 'orders', 'https://x/a', '{}', NULL, '{"max_retries": "abc"}'),
	('b header', 'http', 'orders', 'https://x/b', ARRAY[E'X: y\r\nEvil: z'], NULL, '{}'),
	('c name', 'http', 'orders', 'https://x/c', '{}', 'k', '{"secret_header": "X\r\nEvil: z"}'),
	('d host', 'http', 'orders', 'https://{{page}}/d', '{}', NULL, '{}'),
	('e private', 'http', 'orders', 'https://x/e', '{}', NULL, '{"allow_private": "perhaps"}'),
	('f bytes', 'http', 'orders', 'https://x/f', '{}', NULL, '{"max_bytes": 1e99}'),
	('g first', 'http', 'orders', 'https://x/g?p={{page}}', '{}', NULL, '{"first_page": [1]}'),
	('h path', 'http', 'orders', 'https://x/h', '{}', NULL, '{"items": "data["}'),
	('z good', 'http', 'orders', 'https://x/z', '{}', NULL, '{}');
RESET check_function_bodies;
INSERT INTO ecstats.channels (name, kind, url) VALUES ('ops', 'webhook', 'https://ops.example/hook');
UPDATE ecstats.config SET operators_channel = 'ops';
SELECT count(ecstats_collect(name, '2026-03-01')) FROM ecstats.sources;
SELECT url, headers FROM ecstats.source_claim('w', 10);
SELECT name, last_error FROM ecstats.sources ORDER BY name;
SELECT count(*) FROM ecstats.deliveries;
-- wrong by now, with a page out; a lease that ran out
SET check_function_bodies = off;
UPDATE ecstats.sources SET options = '{"max_retries": "abc", "max_pages": "x"}' WHERE name = 'z good';
RESET check_function_bodies;
SELECT ecstats.source_receive('w', f.fetch_id, 1, pg_temp.answer('[]')) FROM ecstats.source_fetches f WHERE f.state = 'fetching';
SELECT last_error FROM ecstats.sources WHERE name = 'z good';
UPDATE ecstats.sources SET options = '{}' WHERE name = 'z good';
SELECT ecstats_collect('z good', '2026-03-01') IS NOT NULL AS queued;
SELECT count(*) FROM ecstats.source_claim('w', 10);
SET check_function_bodies = off;
UPDATE ecstats.sources SET options = '{"max_retries": "abc"}' WHERE name = 'z good';
RESET check_function_bodies;
SELECT count(*) FROM ecstats.source_claim_at('w', 10, 'infinity');
UPDATE ecstats.sources SET options = '{}' WHERE name = 'z good';
SELECT state, attempts, error FROM ecstats.source_fetches WHERE source = 'z good' ORDER BY fetch_id;
-- of another kind by now
SELECT ecstats_collect('z good', '2026-03-01') IS NOT NULL AS queued;
UPDATE ecstats.sources SET kind = 'query', url = NULL, query = 'shop.orders' WHERE name = 'z good';
SELECT count(*) FROM ecstats.source_claim_at('w', 10, 'infinity');
SELECT last_error FROM ecstats.sources WHERE name = 'z good';
DELETE FROM ecstats.sources;
TRUNCATE ecstats.source_fetches RESTART IDENTITY;

-- ---------------------------------------------------------------- no credentials in what is shown, however it is cut
INSERT INTO ecstats.sources (name, kind, target, url, secret, headers) VALUES ('api', 'http', 'orders', 'https://shop:pa%2Fss@api.example/o?key=se%20same&p={{page}}',
	'tok/5 "ecret"+é', ARRAY['X-Api-Key: abcdef-123456']);
SELECT n, ecstats.source_excerpt(repeat('x', n) || s.secret || ' tail', s, 20) FROM ecstats.sources s, unnest('{0,5,10,15,19,20}'::int[]) n;
SELECT ecstats.source_excerpt(w, s, 200) FROM ecstats.sources s, unnest(ARRAY['tok%2F5%20%22ecret%22%2B%C3%A9', 'tok%2f5%20%22ecret%22%2b%c3%a9', 'tok%2F5+%22ecret%22%2B%C3%A9',
	encode(convert_to(secret, 'UTF8'), 'base64'), to_json(secret)::text, 'tok\/5 \"ecret\"+é', '[abcdef-123456]', 'shop:pa%2Fss', 'shop:pa/ss', 'pa/ss', 'se%20same', 'se same',
	encode('shop:pa/ss', 'base64'), 'https://other/?token=unknown&x=1', 'nothing secret']) w;
-- many of them before a cut one: nothing of that moves into view
SELECT ecstats.source_excerpt(repeat(secret, 200) || left(secret, 10), s, 2000) ~ 'ecret' AS leaks, length(ecstats.source_excerpt(repeat(secret || 'x', 20000), s, 200)) FROM ecstats.sources s;
CREATE FUNCTION pg_temp.ask(body text, status int DEFAULT 200, kind text DEFAULT NULL, said text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ecstats_collect('api', '2026-03-01');
	PERFORM ecstats.source_claim_at('w', 1, 'infinity');
	PERFORM ecstats.pipeline_receive('w', f.fetch_id, f.page, pg_temp.answer(body, status) || jsonb_build_object('error_kind', kind, 'error', said), 'infinity') FROM ecstats.source_fetches f WHERE f.state = 'fetching';
	RETURN (SELECT f.error FROM ecstats.source_fetches f ORDER BY fetch_id DESC LIMIT 1);
END $$;
UPDATE ecstats.sources SET secret = 'tok-5ecret-tok-5ecret', options = '{"max_retries": 0, "next": "$.next", "items": "$.rows"}';
SELECT pg_temp.ask(repeat('x', 190) || 'tok-5ecret-tok-5ecret', 403);
SELECT pg_temp.ask(repeat('x', 190) || 'tok-5ecret-tok-5ecret');
SELECT pg_temp.ask('{"a": "' || repeat('x', 183) || 'tok-5ecret-tok-5ecret"}');
SELECT pg_temp.ask('{"rows": [], "next": "https://evil.example/' || repeat('x', 167) || 'tok-5ecret-tok-5ecret"}');
SELECT pg_temp.ask(NULL, NULL, 'connect', repeat('x', 290) || 'tok-5ecret-tok-5ecret');

-- ---------------------------------------------------------------- which limit an answer passed
UPDATE ecstats.sources SET options = '{"max_bytes": 30}';
SELECT pg_temp.ask(repeat('x', 29), 200, 'too_large');
UPDATE ecstats.sources SET options = '{"max_bytes": 100000000}';
SELECT pg_temp.ask(repeat('x', 5000), 200, 'too_large');
UPDATE ecstats.sources SET options = '{}';
SELECT pg_temp.ask(NULL, NULL, 'too_large');
-- ---------------------------------------------------------------- nor by a row that is refused, whoever writes it
\set VERBOSITY default
DELETE FROM ecstats.sources;
INSERT INTO ecstats.sources (name, kind, target, url, headers, secret)
VALUES ('api', 'http', 'orders', 'https://x/y?key=tok-5ecret&page={{page}}', '{"X-Key: tok-5ecret"}', 'tok-5ecret');
UPDATE ecstats.sources SET timeout = '1 year';
UPDATE ecstats.sources SET timeout = NULL;
UPDATE ecstats.sources SET options = '[]';
UPDATE ecstats.sources SET query = 'shop.orders';
UPDATE ecstats.sources SET kind = 'query';
UPDATE ecstats.sources SET secret = E'tok-5ecret\n';
UPDATE ecstats.sources SET name = 'land:x';
UPDATE ecstats.sources SET watermark = 'infinity';
INSERT INTO ecstats.sources (name, kind, target, url, secret) VALUES (NULL, 'http', 'orders', 'https://x/y', 'tok-5ecret');
INSERT INTO ecstats.sources (name, kind, target, url, secret) VALUES ('api2', 'http', 'orders', 'https://x/y z', 'tok-5ecret');
UPDATE ecstats.sources SET timeout = '2 min';
SELECT name, timeout, secret FROM ecstats.sources;

DELETE FROM ecstats.sources;
TRUNCATE ecstats.source_fetches, ecstats.rejects;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
DROP SCHEMA shop CASCADE;
DROP ROLE ecstats_op, ecstats_next, ecstats_gone;
