-- The subscriber: tables of the publisher's names and columns. Cents become money in a column of their own.
CREATE TABLE public.orders (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, customer_id bigint, sku text, city text,
							state text NOT NULL DEFAULT 'placed', qty integer, total numeric(12,2), paid_at timestamptz, meta jsonb);
CREATE TABLE public.order_items (order_no text, pos smallint, ordered timestamp NOT NULL, sku text, n integer, cents bigint,
								 total numeric GENERATED ALWAYS AS (round(cents / 100.0, 2)) STORED, PRIMARY KEY (order_no, pos, ordered));
SELECT ecstats_land_orders('public.orders', 'order_id=id', 'order_time=created_at', 'user_id=customer_id', 'product_id=sku', 'region=city',
	'channel:=web', 'status=state', 'quantity=qty', 'amount=total', 'paid_time=paid_at', 'extra=meta', 'on_error=quarantine');
SELECT ecstats_land_orders('public.order_items', 'order_id=order_no', 'line_no=pos', 'order_time=ordered', 'product_id=sku', 'quantity=n',
	'amount=total', 'timezone=Asia/Shanghai', 'on_error=raise');
