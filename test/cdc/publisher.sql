-- The publisher: a shop that knows nothing of ecstats. Orders of one line each, order items of several, and
-- events in a plain table of ecstats' name and shape.
CREATE TABLE public.orders (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, customer_id bigint, sku text, city text,
							state text NOT NULL DEFAULT 'placed', qty integer, total numeric(12,2), paid_at timestamptz, meta jsonb);
INSERT INTO public.orders
SELECT n, timestamptz '2025-03-01 00:00+08' + n * interval '7 minutes', n % 90, 'p' || n % 13, CASE WHEN n % 5 > 0 THEN '城' || n % 5 END,
	   'placed', 1 + n % 4, n * 0.37, CASE WHEN n % 3 > 0 THEN timestamptz '2025-03-01 00:00+08' + n * interval '8 minutes' END, jsonb_build_object('n', n)
  FROM generate_series(1, 1000) n;
UPDATE public.orders SET qty = 0 WHERE id = 500;		-- one that breaks a rule

CREATE TABLE public.order_items (order_no text, pos smallint, ordered timestamp NOT NULL, sku text, n integer, cents bigint, PRIMARY KEY (order_no, pos, ordered));
INSERT INTO public.order_items
SELECT 'i' || o, p, timestamp '2025-03-02 23:50' + o * interval '1 hour', 'q' || p, CASE WHEN p = 3 THEN -1 ELSE p END, CASE WHEN p = 3 THEN -99 ELSE o * 100 + p END
  FROM generate_series(1, 30) o, generate_series(1, 3) p;

CREATE SCHEMA ecstats;
CREATE TABLE ecstats.events (event_time timestamptz NOT NULL DEFAULT now(), user_id text NOT NULL, event text NOT NULL, event_id uuid, page_url text,
							 extra jsonb NOT NULL DEFAULT '{}');
ALTER TABLE ecstats.events REPLICA IDENTITY FULL;		-- so that corrections come along too
INSERT INTO ecstats.events (event_time, user_id, event, event_id, extra)
SELECT timestamptz '2025-03-01 00:00+08' + n * interval '3 minutes', 'u' || n % 70, CASE WHEN n % 4 = 0 THEN 'view_item' ELSE 'page_view' END, gen_random_uuid(), '{"from": "shop"}'
  FROM generate_series(1, 1500) n;

CREATE PUBLICATION shop_orders FOR TABLE public.orders, public.order_items;
CREATE PUBLICATION shop_events FOR TABLE ecstats.events;
