-- Orders over several pages of a fetch, sources that change while they are fetched, replace, days of 23 and 25 hours,
-- and a source that is late.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP SCHEMA IF EXISTS shop CASCADE;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
UPDATE ecstats.config SET timezone = 'UTC';
CREATE FUNCTION pg_temp.order_of(id text, items jsonb, status text DEFAULT 'placed') RETURNS jsonb LANGUAGE sql AS
	$$ SELECT jsonb_build_object('order_id', id, 'order_time', '2026-03-01T10:00:00Z', 'status', status, 'items', items) $$;
-- the pages of one fetch of a source, as the pusher brings them; the last one is followed by an empty one
CREATE FUNCTION pg_temp.fetch(the_source text, VARIADIC pages jsonb[]) RETURNS TABLE (outcome text, page_error text) LANGUAGE plpgsql AS $$
DECLARE
	id bigint := ecstats_collect(the_source, '2026-03-01');
	c record;
BEGIN
	FOR i IN 1 .. cardinality(pages) + 1 LOOP
		SELECT * INTO c FROM ecstats.source_claim_at('w', 1, 'infinity');
		EXIT WHEN NOT FOUND;
		outcome := concat_ws(' ', outcome, ecstats.pipeline_receive('w', c.fetch_id, c.page, jsonb_build_object('http_status', 200, 'body', coalesce(pages[i], '[]')::text), 'infinity'));
	END LOOP;
	page_error := (SELECT f.error FROM ecstats.source_fetches f WHERE f.fetch_id = id);
	RETURN NEXT;
END $$;
CREATE VIEW pg_temp.lines AS SELECT order_id, line_no, product_id, quantity AS n, amount, status FROM ecstats.order_lines ORDER BY 1, 2;
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('api', 'http', 'orders', 'https://api.example/o?page={{page}}');

-- ---------------------------------------------------------------- an order that goes on on the next page
\set a1 '{"line_no": 1, "product_id": "p1", "quantity": 1, "amount": 1}'
\set a2 '{"line_no": 2, "product_id": "p2", "quantity": 2, "amount": 2.50}'
\set a3 '{"line_no": 3, "product_id": "p3", "quantity": 3, "amount": 3}'
SELECT jsonb_build_array(pg_temp.order_of('a', jsonb_build_array(:'a1'::jsonb, :'a2'::jsonb))) AS one, jsonb_build_array(pg_temp.order_of('a', jsonb_build_array(:'a3'::jsonb))) AS two \gset
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('a', 9, '2026-03-01T10:00:00Z', 'gone', 1, 1), ('other', 1, '2026-03-01T10:00:00Z', 'stays', 1, 1);
SELECT * FROM pg_temp.fetch('api', :'one', :'two');
SELECT * FROM pg_temp.lines;
SELECT count(*) FROM ecstats.source_pages;
-- the whole again, and a page twice in between: no row is written
CREATE TEMP TABLE before AS SELECT xmin AS x, ctid AS c FROM ecstats.order_lines;
SELECT * FROM pg_temp.fetch('api', :'one', :'two');
SELECT * FROM pg_temp.fetch('api', :'one', :'one', :'two', :'two');
SELECT count(*) FROM ecstats.order_lines l JOIN before b ON b.x = l.xmin AND b.c = l.ctid;
-- twice on one page
SELECT * FROM pg_temp.fetch('api', :'one'::jsonb || :'two'::jsonb);
SELECT count(*) FROM ecstats.order_lines l JOIN before b ON b.x = l.xmin AND b.c = l.ctid;
-- a line that is on no page any more goes, at the end
SELECT * FROM pg_temp.fetch('api', :'two');
SELECT * FROM pg_temp.lines;
-- an order without items any more
SELECT * FROM pg_temp.fetch('api', jsonb_build_array(pg_temp.order_of('a', '[]')));
SELECT * FROM pg_temp.lines;

-- ---------------------------------------------------------------- without line_no nobody knows: never a line less
\set b1 '{"product_id": "p1", "quantity": 1, "amount": 1}'
\set b2 '{"product_id": "p2", "quantity": 2, "amount": 2.50}'
SELECT jsonb_build_array(pg_temp.order_of('b', jsonb_build_array(:'b1'::jsonb))) AS one, jsonb_build_array(pg_temp.order_of('b', jsonb_build_array(:'b2'::jsonb))) AS two,
	jsonb_build_array(pg_temp.order_of('b', jsonb_build_array(:'b1'::jsonb, :'b2'::jsonb), 'placed')) AS both, jsonb_build_array(pg_temp.order_of('b', jsonb_build_array(:'b1'::jsonb, :'b2'::jsonb), 'paid')) AS paid \gset
SELECT * FROM pg_temp.fetch('api', :'one', :'two');
SELECT * FROM pg_temp.fetch('api', :'one', :'both');
SELECT * FROM pg_temp.fetch('api', :'one'::jsonb || :'two'::jsonb);
SELECT last_error FROM ecstats.sources;
-- the same order again, as pages shift: the later one holds
SELECT * FROM pg_temp.fetch('api', :'both', :'paid');
SELECT * FROM pg_temp.lines WHERE order_id = 'b';
SELECT * FROM pg_temp.fetch('api', :'both'::jsonb || :'paid'::jsonb);
SELECT * FROM pg_temp.fetch('api', :'one');
SELECT * FROM pg_temp.lines WHERE order_id = 'b';
-- lines as elements
SELECT jsonb_build_array(:'a1'::jsonb || '{"order_id": "c", "order_time": "2026-03-01T10:00:00Z"}') AS one, jsonb_build_array(:'a2'::jsonb || '{"order_id": "c", "order_time": "2026-03-01T10:00:00Z"}') AS two,
	jsonb_build_array(:'a2'::jsonb || '{"order_id": "c", "order_time": "2026-03-01T10:00:00Z", "line_no": 1}') AS other,
	jsonb_build_array(:'b1'::jsonb || '{"order_id": "d", "order_time": "2026-03-01T10:00:00Z"}') AS bare, jsonb_build_array(:'b2'::jsonb || '{"order_id": "d", "order_time": "2026-03-01T10:00:00Z"}') AS bare2 \gset
SELECT * FROM pg_temp.fetch('api', :'one', :'two', :'one');
SELECT * FROM pg_temp.lines WHERE order_id = 'c';
SELECT * FROM pg_temp.fetch('api', :'one', :'other');
SELECT * FROM pg_temp.fetch('api', :'bare', :'bare2');
SELECT * FROM pg_temp.fetch('api', :'bare', :'bare');
SELECT * FROM pg_temp.lines WHERE order_id IN ('c', 'd');

-- ---------------------------------------------------------------- changed while it is fetched
DELETE FROM ecstats.source_fetches;
UPDATE ecstats.sources SET secret = 'tok-5ecret', options = '{"next": "$.next", "items": "$.rows"}';
CREATE FUNCTION pg_temp.page(body text) RETURNS text LANGUAGE sql AS
	$$ SELECT ecstats.pipeline_receive('w', f.fetch_id, f.page, jsonb_build_object('http_status', 200, 'body', body), 'infinity') FROM ecstats.source_fetches f WHERE f.state = 'fetching' $$;
-- the next page of the old URL is not asked with the new secret
SELECT ecstats_collect('api', '2026-03-01') IS NOT NULL AS queued;
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
SELECT pg_temp.page('{"rows": [], "next": "/o?cursor=2"}');
UPDATE ecstats.sources SET url = 'https://new.example/o?page={{page}}', secret = 'new-5ecret';
SELECT * FROM ecstats.source_claim_at('w', 1, 'infinity');
SELECT last_error FROM ecstats.sources;
-- an answer of the old URL is not taken for one of the new
SELECT ecstats_collect('api', '2026-03-01') IS NOT NULL AS queued;
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
UPDATE ecstats.sources SET url = 'https://api.example/o?page={{page}}';
SELECT pg_temp.page('{"rows": [{"order_id": "no"}]}');
SELECT last_error FROM ecstats.sources;
-- neither of a source that is made anew, or renamed
SELECT ecstats_collect('api', '2026-03-01') IS NOT NULL AS queued;
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
DELETE FROM ecstats.sources;
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('api', 'http', 'orders', 'https://api.example/o?page={{page}}');
SELECT pg_temp.page('[]');
SELECT last_error FROM ecstats.sources;
SELECT ecstats_collect('api', '2026-03-01') IS NOT NULL AS queued;
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
UPDATE ecstats.sources SET name = 'api2';
SELECT pg_temp.page('[]');
SELECT source, state, error FROM ecstats.source_fetches ORDER BY fetch_id;
-- what has not begun goes to where the source is now; a secret may change under way
UPDATE ecstats.sources SET name = 'api';
SELECT ecstats_collect('api', '2026-03-01') IS NOT NULL AS queued;
UPDATE ecstats.sources SET url = 'https://api.example/p?page={{page}}';
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
UPDATE ecstats.sources SET secret = 'tok-5ecret';
SELECT pg_temp.page(:'one');
SELECT url, headers FROM ecstats.source_claim_at('w', 1, 'infinity');
-- what the pages brought is lost, as by a dump and restore: from the beginning
DELETE FROM ecstats.source_pages;
SELECT pg_temp.page(:'two');
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
SELECT page, pages, rows FROM ecstats.source_fetches WHERE state = 'fetching';
SELECT pg_temp.page('[]');
-- a fetch that waits is as new as the last wish for it
SELECT ecstats_collect('api', '2026-03-01') AS id \gset
UPDATE ecstats.source_fetches SET created_at = '2026-03-01 12:00+00' WHERE fetch_id = :id;
SELECT ecstats_collect('api', '2026-03-01') = :id AS same, (SELECT created_at > '2026-03-02' FROM ecstats.source_fetches WHERE fetch_id = :id) AS before;
SELECT created_at > '2026-03-02' AS after FROM ecstats.source_fetches WHERE fetch_id = :id;
DELETE FROM ecstats.source_fetches;
DELETE FROM ecstats.sources;
DELETE FROM ecstats.order_lines;

-- ---------------------------------------------------------------- replace: the only source, and not by nothing
CREATE SCHEMA shop;
CREATE TABLE shop.orders (order_id text, line_no int, order_time timestamptz, product_id text, quantity int, amount numeric);
INSERT INTO shop.orders VALUES ('1', 1, '2026-03-01 12:00+00', 'p', 1, 1), ('2', 1, '2026-03-01 12:00+00', 'p', 1, 1);
INSERT INTO ecstats.sources (name, target, query, options) VALUES ('only', 'orders', 'shop.orders', '{"replace": true}');
INSERT INTO ecstats.sources (name, target, query) VALUES ('second', 'orders', 'shop.orders');
SELECT ecstats_collect('only', '2026-03-01');
UPDATE ecstats.sources SET enabled = false WHERE name = 'second';
SELECT ecstats_collect('only', '2026-03-01');
DELETE FROM shop.orders WHERE order_id = '1';
SELECT ecstats_collect('only', '2026-03-01');
SELECT order_id FROM ecstats.order_lines;
-- a table that replication fills
CREATE TABLE shop.landed (LIKE shop.orders, PRIMARY KEY (order_id, line_no));
SELECT ecstats_land_orders('shop.landed', 'order_id=order_id', 'line_no=line_no', 'order_time=order_time', 'product_id=product_id', 'quantity=quantity', 'amount=amount');
SELECT ecstats_collect('only', '2026-03-01');
DROP TABLE shop.landed;
DELETE FROM shop.orders;
SELECT ecstats_collect('only', '2026-03-01');
SELECT order_id, (SELECT watermark FROM ecstats.sources WHERE name = 'only') FROM ecstats.order_lines;
UPDATE ecstats.sources SET options = '{"replace_empty": true}' WHERE name = 'only';
UPDATE ecstats.sources SET options = '{"replace": true, "replace_empty": true}' WHERE name = 'only';
SELECT ecstats_collect('only', '2026-03-01');
SELECT count(*) FROM ecstats.order_lines;
UPDATE ecstats.sources SET options = '{"replace": true}' WHERE name = 'only';
SELECT ecstats_collect('only', '2026-03-01'), ecstats_collect('only', '2026-03-02');
DELETE FROM ecstats.sources;

-- ---------------------------------------------------------------- a source's word on how far it is, and the gate
INSERT INTO ecstats.sources (name, target, query, watermark_query) VALUES ('w', 'orders', 'shop.orders', 'SELECT timestamptz ''2026-03-05 06:00+00''');
SELECT ecstats_collect('w', '2026-03-01'), ecstats_collect('w', '2026-03-03');
SELECT watermark FROM ecstats.sources;
SELECT count(ecstats_collect('w', d::date)) FROM generate_series(date '2026-03-02', '2026-03-06', '1 day') d;
SELECT watermark FROM ecstats.sources;
DELETE FROM ecstats.sources;
INSERT INTO shop.orders VALUES ('7', 1, '2026-03-01 12:00+00', 'p', 1, 7);
INSERT INTO ecstats.sources (name, target, query) VALUES ('late', 'orders', 'shop.orders');
SELECT component, status, detail FROM ecstats.source_status('2026-03-02 12:00+00');
SELECT day, gmv, complete, revision FROM ecstats_daily('2026-03-01');
SELECT ecstats_collect('late', '2026-02-28');
SELECT day, gmv, complete, revision FROM ecstats_daily('2026-03-01');
SELECT ecstats_collect('late', '2026-03-01');
SELECT day, gmv, complete, revision FROM ecstats_daily('2026-03-01');
SELECT regexp_replace(detail, 'run \S+ \S+ ', 'run … ') AS detail FROM ecstats.source_status('2026-03-02 12:00+00');
SELECT day, complete FROM ecstats_daily('2026-03-02');
UPDATE ecstats.sources SET enabled = false;
SELECT day, complete FROM ecstats_daily('2026-03-02');
DELETE FROM ecstats.sources;

-- ---------------------------------------------------------------- days of 23 and of 25 hours
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
UPDATE ecstats.config SET timezone = 'America/New_York';
TRUNCATE shop.orders;
INSERT INTO shop.orders SELECT to_char(t AT TIME ZONE 'UTC', 'DD HH24:MI'), 1, t, 'p', 1, 1
  FROM unnest('{2026-03-08 04:59+00,2026-03-08 05:00+00,2026-03-09 03:59+00,2026-03-09 04:00+00,2025-11-02 03:59+00,2025-11-02 04:00+00,2025-11-03 04:59+00,2025-11-03 05:00+00}'::timestamptz[]) t;
CREATE TABLE shop.local (order_id text, order_time timestamp, product_id text, quantity int, amount numeric);
INSERT INTO shop.local SELECT order_id || ' local', order_time AT TIME ZONE 'America/New_York', product_id, quantity, amount FROM shop.orders;
INSERT INTO ecstats.sources (name, target, query) VALUES ('a', 'orders', 'shop.orders'), ('b', 'orders', 'shop.local');
SELECT d.day, s.name, ecstats_collect(s.name, d.day) FROM unnest('{2026-03-08,2025-11-02}'::date[]) WITH ORDINALITY AS d(day, n), ecstats.sources s ORDER BY d.n, s.name;
SELECT order_id, order_time, ecstats_day(order_time) FROM ecstats.order_lines ORDER BY 1;
SELECT name, watermark FROM ecstats.sources ORDER BY name;
INSERT INTO ecstats.sources (name, kind, target, url, options) VALUES ('api', 'http', 'orders', 'https://api.example/o?d={{date}}&from={{from}}&to={{to}}', '{"timezone": "America/New_York"}');
SELECT ecstats_collect('api', d) IS NOT NULL AS queued FROM unnest('{2026-03-08,2025-11-02}'::date[]) d;
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');
SELECT pg_temp.page('[{"order_id": "x", "order_time": "2026-03-08 01:59", "items": []}, {"order_id": "e", "order_time": "2026-03-08 03:00", "product_id": "p", "quantity": 1, "amount": 1}]');
SELECT order_id, order_time FROM ecstats.order_lines WHERE order_id = 'e';
SELECT url FROM ecstats.source_claim_at('w', 1, 'infinity');

-- ---------------------------------------------------------------- large pages and many rejects: what is compared is found, not searched for
DELETE FROM ecstats.source_fetches;
DELETE FROM ecstats.sources;
DELETE FROM ecstats.order_lines;
INSERT INTO ecstats.sources (name, kind, target, url) VALUES ('large', 'http', 'orders', 'https://api.example/o?page={{page}}');
SELECT jsonb_agg(jsonb_build_object('order_id', i, 'order_time', '2026-03-01T10:00:00Z', 'items', jsonb_build_array(:'a1'::jsonb, :'a2'::jsonb))) AS one FROM generate_series(1, 8000) i \gset
SET statement_timeout = '20 s';			-- each takes well below a second; with its square it took a minute
SELECT * FROM pg_temp.fetch('large', :'one');
SELECT * FROM pg_temp.fetch('large', :'one');
SELECT count(*) FROM ecstats.order_lines;
INSERT INTO ecstats.sources (name, target, query) VALUES ('dirty', 'orders', $$SELECT i AS order_id, $1 AS order_time, 'p' AS product_id, 0 AS quantity, 1 AS amount FROM generate_series(1, 20000) i$$);
SELECT ecstats_collect('dirty', '2026-03-01');
SELECT min(id) AS first FROM ecstats.rejects WHERE source = 'dirty' \gset
SELECT ecstats_collect('dirty', '2026-03-01');
SELECT count(*), min(id) = :first AS same FROM ecstats.rejects WHERE source = 'dirty';
UPDATE ecstats.sources SET query = replace(query, '(1,', '(11,') WHERE name = 'dirty';
SELECT ecstats_collect('dirty', '2026-03-01');
SELECT count(*), min(id) = :first AS same FROM ecstats.rejects WHERE source = 'dirty';
RESET statement_timeout;
DELETE FROM ecstats.rejects;
DELETE FROM ecstats.source_fetches;
DELETE FROM ecstats.sources;
DELETE FROM ecstats.order_lines;
SET client_min_messages = warning;
DROP EXTENSION ecstats CASCADE;
DROP SCHEMA shop CASCADE;
