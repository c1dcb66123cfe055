-- Orders that land by replication: mapping, upserts, key changes, bad rows, rights. (test/cdc has the real thing.)
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
DROP TABLE IF EXISTS public.orders, public.order_items, public.parted, public.landed, public.zoneless, public.padded, public.archived, public.aged, public.forger;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

CREATE TABLE public.orders (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, customer bigint, sku text, city text, state text,
							qty numeric(8,2), total numeric, paid_at timestamptz, meta jsonb, "odd=name" text);
INSERT INTO public.orders VALUES (1, '2026-11-01 10:00+08', 7, 'p1', '上海', 'paid', 2, 19.90, '2026-11-01 10:05+08', '{"coupon": "C9"}', 'app');

-- a mapping that does not fit is refused at once, with what to do
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=sum');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'price=total');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'amount:=1');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'on_error=ignore');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'timezone=FOO5BAR');
SELECT ecstats_land_orders('public.orders', 'order_id=customer', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total');
SELECT ecstats_land_orders('public.orders', NULL);
-- an option is no column
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'on_error:=quarantine');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'timezone:=Asia/Shanghai');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'deletes=keep');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total', 'timezone=UTC', 'timezone=Asia/Shanghai');
-- a key by a text that is a time, or by a number: many of them are the same instant
CREATE TABLE public.landed (id text NOT NULL, at text NOT NULL, n bigint NOT NULL, UNIQUE (id, at), UNIQUE (id, n));
SELECT ecstats_land_orders('public.landed', 'order_id=id', 'order_time=at', 'product_id:=x', 'quantity:=1', 'amount:=1');
SELECT ecstats_land_orders('public.landed', 'order_id=id', 'order_time=n', 'product_id:=x', 'quantity:=1', 'amount:=1');
DROP TABLE public.landed;
SELECT ecstats_land_orders('pg_catalog.pg_tables', 'order_id=id', 'order_time=at');
SELECT ecstats_land_orders(1::regclass, 'order_id=id', 'order_time=at');
SELECT ecstats_land_orders('ecstats.daily_kpi', 'order_id:=1', 'order_time=closed_at', 'product_id:=x', 'quantity:=1', 'amount=gmv');
CREATE TABLE public.parted (id bigint, at timestamptz) PARTITION BY RANGE (at);
SELECT ecstats_land_orders('public.parted', 'order_id=id', 'order_time=at', 'product_id:=x', 'quantity:=1', 'amount:=1');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id=sku', 'quantity=qty', 'amount=total');
ROLLBACK;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.orders'::regclass;

-- attached: what is there already comes along; triggers fire for an apply worker too
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'user_id=customer', 'product_id=sku', 'region=city', 'channel=odd=name',
	'status=state', 'quantity=qty', 'amount=total', 'paid_time=paid_at', 'extra=meta', 'line_no:=1', 'on_error=quarantine');
SELECT * FROM ecstats.order_lines;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'public.orders'::regclass ORDER BY 1;
SET session_replication_role = replica;
INSERT INTO public.orders (id, created_at, sku, qty, total) VALUES (2, '2026-11-02 10:00+08', 'p2', 1, 5), (3, '2026-11-03 10:00+08', 'p3', -1, -5), (4, '2026-11-04 10:00+08', 'p4', 0, 1);
SELECT order_id, line_no, user_id, region, channel, quantity, amount, status, paid_time, extra FROM ecstats.order_lines ORDER BY order_id;
SELECT source, payload, sqlstate, reason FROM ecstats.rejects;
-- marks: both days of a key that changes, the paid day old and new
DELETE FROM ecstats.day_marks;
UPDATE public.orders SET created_at = '2026-10-20 10:00+08', paid_at = '2026-10-21 10:00+08' WHERE id = 1;
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY day;
SELECT order_id, order_time, paid_time FROM ecstats.order_lines WHERE order_id = '1';
-- nothing of interest changed: no mark
DELETE FROM ecstats.day_marks;
UPDATE public.orders SET qty = qty WHERE id = 1;
SELECT count(*) FROM ecstats.day_marks;
-- bad becomes good, good becomes bad, bad stays bad, bad goes, and keys change on the way
UPDATE public.orders SET qty = 1 WHERE id = 4;
UPDATE public.orders SET qty = 1.5, id = 20 WHERE id = 2;
SELECT source, payload->>'id' AS id, sqlstate, reason FROM ecstats.rejects ORDER BY 2;
SELECT order_id, order_time, quantity FROM ecstats.order_lines ORDER BY order_id;
UPDATE public.orders SET total = 'NaN', qty = 1 WHERE id = 20;
SELECT source, payload->>'id' AS id, sqlstate, reason FROM ecstats.rejects ORDER BY 2;
UPDATE public.orders SET created_at = 'infinity' WHERE id = 20;
SELECT payload->>'id' AS id, sqlstate, reason FROM ecstats.rejects ORDER BY 1;
DELETE FROM public.orders WHERE id = 20;
UPDATE public.orders SET id = id + 100;
SELECT count(*) FROM ecstats.rejects;
SELECT order_id, order_time, quantity FROM ecstats.order_lines ORDER BY order_id;
DELETE FROM public.orders WHERE id = 103;
-- ecstats_retry_rejects leaves landed rows alone: they come again with their next change
INSERT INTO public.orders (id, created_at) VALUES (8, '2026-11-02 10:00+08');
SELECT ecstats_retry_rejects();
SELECT payload->>'id' AS id, sqlstate FROM ecstats.rejects;
DELETE FROM public.orders WHERE id = 8;
-- a line that somebody else wrote under the key of a rejected row: the reject goes with its row, the line stays
INSERT INTO public.orders (id, created_at) VALUES (8, '2026-11-02 10:00+08'), (9, '2026-11-02 10:00+08');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('8', 1, '2026-11-02 10:00+08', 'by hand', 1, 1), ('9', 1, '2026-11-02 10:00+08', 'by hand', 1, 1);
DELETE FROM public.orders WHERE id = 8;
UPDATE public.orders SET sku = 'p9', qty = 1, total = 1 WHERE id = 9;
SELECT payload->>'id' AS id FROM ecstats.rejects;
SELECT order_id, product_id FROM ecstats.order_lines WHERE order_id IN ('8', '9') ORDER BY 1;
DELETE FROM public.orders WHERE id = 9;
DELETE FROM ecstats.order_lines WHERE order_id IN ('8', '9');
-- TRUNCATE takes the lines of this table alone
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) VALUES ('other', 1, '2026-11-01', 'p', 1, 1);
INSERT INTO public.orders (id, created_at) VALUES (9, '2026-11-02 10:00+08');
SELECT count(*) FROM ecstats.rejects;
TRUNCATE public.orders;
SELECT order_id FROM ecstats.order_lines;
SELECT count(*) FROM ecstats.rejects;
RESET session_replication_role;
-- many orders of one instant, where times were unique so far: each line is found by its key
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, product_id, quantity, amount) SELECT 'a rather long id ' || i, 1, timestamptz '2026-10-01' + i * interval '1 s', 'p', 1, 1 FROM generate_series(1, 3000) i;
ANALYZE ecstats.order_lines;
INSERT INTO public.orders (id, created_at, sku, qty, total) SELECT i, '2026-10-02 10:00+08', 'p', 1, 1 FROM generate_series(1, 300) i;
BEGIN;
UPDATE public.orders SET total = 2;
UPDATE public.orders SET qty = 0;
SELECT idx_tup_fetch < 3000 AS by_key FROM pg_stat_xact_user_tables WHERE relid = 'ecstats.order_lines'::regclass;
COMMIT;
TRUNCATE public.orders;
DELETE FROM ecstats.order_lines WHERE order_id <> 'other';

-- order items without a time zone, numbers as text, cents; raise stops the row
CREATE TABLE public.order_items (order_no text NOT NULL, pos text NOT NULL, at timestamp NOT NULL, article int, n text, cents bigint,
	total numeric GENERATED ALWAYS AS (cents / 100.0) STORED, paid date, note text, PRIMARY KEY (order_no, pos, at));
SELECT ecstats_land_orders('public.order_items', 'order_id=order_no', 'line_no=pos', 'order_time=at', 'product_id=article', 'quantity=n', 'amount=total', 'paid_time=paid');
SELECT ecstats_land_orders('public.order_items', 'order_id=order_no', 'line_no=pos', 'order_time=at', 'product_id=article', 'quantity=n', 'amount=total', 'paid_time=paid',
	'extra=note', 'channel:=web', 'region:=a=b''c', 'timezone=Asia/Shanghai');
INSERT INTO public.order_items VALUES ('o1', '1', '2026-11-01 23:30', 5, '2', 1999, DEFAULT, '2026-11-02', '{"gift": true}'), ('o1', '2', '2026-11-01 23:30', 6, '-1', -500, DEFAULT, NULL, NULL);
SELECT * FROM ecstats.order_lines WHERE order_id = 'o1' ORDER BY line_no;
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text; d text; h text; c text; k text;
BEGIN
	EXECUTE statement;
	RETURN 'landed';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, c = COLUMN_NAME, k = CONSTRAINT_NAME;
	RETURN concat_ws(' | ', SQLSTATE, c, k, m, d, h);
END
$$;
SELECT pg_temp.try($$INSERT INTO public.order_items VALUES ('o2', '1', '2026-11-01', 5, '0', 1)$$);
SELECT pg_temp.try($$INSERT INTO public.order_items VALUES ('o2', 'x', '2026-11-01', 5, '1', 1)$$);
SELECT pg_temp.try($$INSERT INTO public.order_items VALUES ('o2', '1', '2026-11-01', 5, '1', 1, DEFAULT, NULL, 'no json')$$);
SELECT pg_temp.try($$INSERT INTO public.order_items VALUES (repeat('x', 400), '1', '2026-11-01', 5, '1', 1)$$);
SELECT pg_temp.try($$UPDATE public.order_items SET at = '1999-01-01' WHERE pos = '2'$$);
SELECT count(*) FROM ecstats.rejects;
-- attached again with another mapping: lines follow, and the key may change
SELECT ecstats_land_orders('public.order_items', 'order_id=order_no', 'line_no=pos', 'order_time=at', 'product_id=article', 'quantity=n', 'amount=total', 'timezone=UTC');
SELECT order_id, line_no, order_time, region, channel, paid_time FROM ecstats.order_lines WHERE order_id = 'o1' ORDER BY line_no;
SELECT ecstats_land_orders('public.order_items', 'order_id=order_no', 'line_no=pos', 'order_time=at', 'product_id=article', 'quantity=n', 'amount=total', 'timezone=UTC');

-- a random walk: always a line or a reject for each landed row, and never another
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'user_id=customer', 'product_id=sku', 'region=city', 'status=state',
	'quantity=qty', 'amount=total', 'paid_time=paid_at', 'extra=meta', 'on_error=quarantine');
SELECT setseed(0.17);
CREATE FUNCTION pg_temp.walk(steps int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	wrong bigint;
	good bigint;
	bad bigint;
	r float8;
BEGIN
	FOR i IN 1 .. steps LOOP
		r := random();
		IF r < 0.4 THEN
			INSERT INTO public.orders (id, created_at, customer, sku, city, state, qty, total, paid_at)
			SELECT 1 + floor(random() * 30), timestamptz '2026-11-01 00:00+08' + random() * interval '5 days', CASE WHEN random() < 0.8 THEN floor(random() * 9) END, CASE WHEN random() < 0.9 THEN 'p' || floor(random() * 4) END,
				   CASE WHEN random() < 0.9 THEN 'c' ELSE E'c\t' END, 'placed', floor(random() * 5) - 1, floor(random() * 100), CASE WHEN random() < 0.5 THEN timestamptz '2026-11-03' END
			ON CONFLICT DO NOTHING;
		ELSIF r < 0.5 THEN
			DELETE FROM public.orders WHERE id = 1 + floor(random() * 30)::int;
		ELSIF r < 0.6 THEN
			UPDATE public.orders o SET id = o.id + 30 WHERE o.id = 1 + floor(random() * 30)::int AND NOT EXISTS (SELECT FROM public.orders x WHERE x.id = o.id + 30);
		ELSIF r < 0.7 THEN
			UPDATE public.orders SET created_at = created_at + (random() - 0.5) * interval '3 days', state = 'paid' WHERE id = 1 + floor(random() * 60)::int;
		ELSE
			UPDATE public.orders SET qty = floor(random() * 5) - 1, sku = CASE WHEN random() < 0.9 THEN 'q' END WHERE id % 7 = floor(random() * 7)::int;
		END IF;
	END LOOP;
	SELECT count(*) INTO wrong FROM (
		SELECT id::text, created_at, customer::text, sku, coalesce(city, 'unknown'), coalesce(state, 'placed'), qty, total, paid_at FROM public.orders
		 WHERE sku IS NOT NULL AND qty <> 0 AND NOT (qty < 0 AND total > 0) AND city <> E'c\t') o (order_id, order_time, user_id, product_id, region, status, quantity, amount, paid_time)
	  FULL JOIN (SELECT * FROM ecstats.order_lines WHERE order_id ~ '^[0-9]+$') l USING (order_id, order_time)
	 WHERE (o.user_id, o.product_id, o.region, o.status, o.quantity, o.amount, o.paid_time) IS DISTINCT FROM (l.user_id, l.product_id, l.region, l.status, l.quantity, l.amount, l.paid_time);
	SELECT wrong + count(*) INTO wrong FROM (
		SELECT to_jsonb(o) FROM public.orders o WHERE NOT coalesce(sku IS NOT NULL AND qty <> 0 AND NOT (qty < 0 AND total > 0) AND city <> E'c\t', false)) b (payload)
	  FULL JOIN (SELECT * FROM ecstats.rejects WHERE source = 'land:public.orders') r ON r.payload = b.payload
	 WHERE r.payload IS NULL OR b.payload IS NULL;
	SELECT count(*) INTO good FROM ecstats.order_lines WHERE order_id ~ '^[0-9]+$';
	SELECT count(*) INTO bad FROM ecstats.rejects WHERE source = 'land:public.orders';
	RETURN format('%s wrong; lines: %s, rejects: %s', wrong, good > 3, bad > 3);
END
$$;
SELECT i, pg_temp.walk(100) FROM generate_series(1, 5) i;

-- a clock that is put forward: a time that it skips is no instant; moved to one, it could be another row's line
CREATE TABLE public.zoneless (id int, at timestamp, t int, paid timestamp, PRIMARY KEY (id, at));
SELECT ecstats_land_orders('public.zoneless', 'order_id=id', 'order_time=at', 'product_id:=x', 'quantity:=1', 'amount=t', 'paid_time=paid', 'timezone=America/New_York', 'on_error=quarantine');
INSERT INTO public.zoneless VALUES (1, '2026-03-08 01:59:59.999999', 1), (1, '2026-03-08 02:00', 2), (1, '2026-03-08 02:30', 3), (1, '2026-03-08 03:00', 4), (1, '2026-03-08 03:30', 5),
	(2, '2026-11-01 00:59', 1), (2, '2026-11-01 01:00', 2), (2, '2026-11-01 01:30', 3), (2, '2026-11-01 02:00', 4), (3, '2026-03-07 12:00', 1);
UPDATE public.zoneless SET paid = '2026-03-08 02:30' WHERE id = 3;
SELECT order_id, order_time, amount FROM ecstats.order_lines WHERE product_id = 'x' ORDER BY order_time;
SELECT payload->>'at' AS at, sqlstate, reason FROM ecstats.rejects WHERE source = 'land:public.zoneless' ORDER BY 1;
UPDATE public.zoneless SET at = '2026-03-08 04:00' WHERE at = '2026-03-08 02:30';
DELETE FROM public.zoneless WHERE at = '2026-03-08 02:00';
UPDATE public.zoneless SET paid = NULL WHERE id = 3;
SELECT order_id, order_time, amount FROM ecstats.order_lines WHERE product_id = 'x' AND order_id <> '2' ORDER BY order_time;
SELECT count(*) FROM ecstats.rejects WHERE source = 'land:public.zoneless';
DROP TABLE public.zoneless;
-- numbers as text: 01 is not 1
CREATE TABLE public.padded (id int, pos text, at timestamptz, PRIMARY KEY (id, pos));
SELECT ecstats_land_orders('public.padded', 'order_id=id', 'line_no=pos', 'order_time=at', 'product_id:=pad', 'quantity:=1', 'amount:=1', 'on_error=quarantine');
INSERT INTO public.padded VALUES (1, '1', '2026-11-01'), (1, '01', '2026-11-01'), (1, '-0', '2026-11-01');
SELECT line_no FROM ecstats.order_lines WHERE product_id = 'pad';
SELECT payload->>'pos' AS pos, sqlstate, reason FROM ecstats.rejects WHERE source = 'land:public.padded' ORDER BY 1;
DROP TABLE public.padded;

-- deletes=ignore: an archive job at the publisher does not take sales out of the figures
CREATE TABLE public.archived (t int PRIMARY KEY, at timestamptz, qty int);		-- a column may be called as anything
SELECT ecstats_land_orders('public.archived', 'order_id=t', 'order_time=at', 'product_id:=arch', 'quantity=qty', 'amount:=1', 'on_error=quarantine', 'deletes=ignore');
INSERT INTO public.archived VALUES (1, '2026-11-01', 1), (2, '2026-11-01', 1), (3, '2026-11-01', 0), (4, '2026-11-01', 1);
DELETE FROM public.archived WHERE t <> 4;
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'arch' ORDER BY 1;
UPDATE public.archived SET t = 5;
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'arch' ORDER BY 1;
TRUNCATE public.archived;
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'arch' ORDER BY 1;
SELECT count(*) FROM ecstats.rejects WHERE source = 'land:public.archived';
-- back again, and told to follow
INSERT INTO public.archived VALUES (1, '2026-11-01', 1);
SELECT ecstats_land_orders('public.archived', 'order_id=t', 'order_time=at', 'product_id:=arch', 'quantity=qty', 'amount:=1', 'deletes=follow');
DELETE FROM public.archived;
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'arch' ORDER BY 1;
DROP TABLE public.archived;

-- days whose order lines retention dropped: a landed row that is touched, or copied, once more gets no line
CREATE TABLE public.aged (id int PRIMARY KEY, at timestamptz, paid timestamptz, state text);
SELECT ecstats_land_orders('public.aged', 'order_id=id', 'order_time=at', 'paid_time=paid', 'status=state', 'product_id:=aged', 'quantity=id', 'amount:=1', 'on_error=quarantine');
INSERT INTO public.aged VALUES (1, '2025-01-01 12:00+08', NULL), (2, '2025-01-01 12:00+08', '2025-01-02 12:00+08'), (3, '2025-01-01 12:00+08', '2025-05-02 12:00+08'), (0, '2025-01-01 12:00+08', NULL);
SELECT day FROM ecstats_daily('2025-01-02');
UPDATE ecstats.config SET order_retention = '60 days';
SELECT ecstats.maintain_drop('2025-01-01', '2025-03-31 00:00+08'), ecstats.maintain_drop('2025-01-02', '2025-03-31 00:00+08');
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'aged' ORDER BY 1;
DELETE FROM ecstats.day_marks;
UPDATE public.aged SET state = 'archived';
SELECT order_id, status FROM ecstats.order_lines WHERE product_id = 'aged' ORDER BY 1;
SELECT payload->>'state' AS state FROM ecstats.rejects WHERE source = 'land:public.aged';
UPDATE public.aged SET id = 4 WHERE id = 0;								-- good now, and over
SELECT count(*) FROM ecstats.rejects WHERE source = 'land:public.aged';
SELECT ecstats_land_orders('public.aged', 'order_id=id', 'order_time=at', 'paid_time=paid', 'status=state', 'product_id:=aged', 'quantity:=1', 'amount:=1');
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'aged' ORDER BY 1;
-- paid today: that day counts it
UPDATE public.aged SET paid = '2025-06-01 12:00+08' WHERE id = 1;
SELECT order_id FROM ecstats.order_lines WHERE product_id = 'aged' ORDER BY 1;
DELETE FROM public.aged;
SELECT count(*) FROM ecstats.order_lines WHERE product_id = 'aged';
SELECT DISTINCT day FROM ecstats.day_marks ORDER BY 1;
UPDATE ecstats.config SET order_retention = NULL;
DROP TABLE public.aged;

-- rights: who applies needs the profile, and a table of one's own
SET client_min_messages = warning;
DROP ROLE IF EXISTS ecstats_test_lander;
CREATE ROLE ecstats_test_lander;
RESET client_min_messages;
GRANT CREATE, USAGE ON SCHEMA public TO ecstats_test_lander;
SET ROLE ecstats_test_lander;
CREATE TABLE public.landed (id int PRIMARY KEY, at timestamptz);
SELECT ecstats_land_orders('public.landed', 'order_id=id', 'order_time=at', 'product_id:=x', 'quantity:=1', 'amount:=1');
RESET ROLE;
SELECT ecstats_grant('ecstats_test_lander', 'writer');
SET ROLE ecstats_test_lander;
SELECT ecstats_land_orders('public.landed', 'order_id=id', 'order_time=at', 'product_id:=x', 'quantity:=1', 'amount:=1');
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'product_id:=x', 'quantity:=1', 'amount:=1');
INSERT INTO public.landed VALUES (777, '2026-11-01');
SELECT order_id, product_id, amount FROM ecstats.order_lines WHERE order_id = '777';
-- a writer speaks for no other table: neither lines nor rejects of public.orders are theirs to make or to take away
SELECT ecstats.pipeline_land('public.orders', '{order_id=id}', (SELECT '{"id": 1}'::jsonb), NULL, NULL);
SELECT ecstats.pipeline_land('public.orders', NULL, NULL, '{order_id=id,on_error=quarantine}', '{"forged": true}');
SELECT ecstats.pipeline_land_forget('public.orders', '{order_id=id}', '{"id": 1}');
SELECT ecstats.pipeline_land_rows('public.orders', '{order_id=id}', '{order_id=id,on_error=quarantine}');
SELECT ecstats.pipeline_land_rows(1::regclass, '{}', '{}');
SELECT ecstats.pipeline_land_rows('public.landed', NULL, '{}');
SELECT ecstats.pipeline_land_order();
-- their own trigger, with whatever arguments, speaks for their own table
CREATE TABLE public.forger (id int);
CREATE TRIGGER mine AFTER INSERT OR DELETE ON public.forger FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_land_order('order_id=id', 'on_error=quarantine');
INSERT INTO public.forger VALUES (1);
CREATE TRIGGER before BEFORE INSERT ON public.forger FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_land_order('order_id=id');
INSERT INTO public.forger VALUES (2);
RESET ROLE;
SELECT source, payload FROM ecstats.rejects WHERE source = 'land:public.forger' OR payload ? 'forged';
SET ROLE ecstats_test_lander;
DROP TABLE public.forger;
-- a cast of one's own runs as oneself
CREATE TYPE public.sly AS ENUM ('a');
CREATE FUNCTION public.sly_json(public.sly) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user) $$;
CREATE CAST (public.sly AS json) WITH FUNCTION public.sly_json(public.sly);
ALTER TABLE public.landed ADD COLUMN s public.sly;
SELECT ecstats_land_orders('public.landed', 'order_id=id', 'order_time=at', 'product_id=s', 'quantity:=1', 'amount:=1', 'on_error=quarantine');
INSERT INTO public.landed VALUES (778, '2026-11-01', 'a');
SELECT order_id, product_id, amount FROM ecstats.order_lines WHERE order_id = '778';
RESET ROLE;
SELECT ecstats_revoke('ecstats_test_lander', 'writer');
SET ROLE ecstats_test_lander;
INSERT INTO public.landed VALUES (779, '2026-11-01', 'a');
RESET ROLE;
SET client_min_messages = warning;
DROP TABLE public.landed, public.orders, public.order_items, public.parted;
DROP TYPE public.sly CASCADE;
DROP OWNED BY ecstats_test_lander;
DROP ROLE ecstats_test_lander;
