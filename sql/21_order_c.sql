-- sql/21_order_c.sql
-- What an order line must be, in C.

CREATE OR REPLACE FUNCTION ecstats.order_check(order_id text, line_no integer, order_time timestamptz, user_id text,
											   product_id text, region text, channel text, quantity integer,
											   amount numeric, status text, paid_time timestamptz, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_order_check';
COMMENT ON FUNCTION ecstats.order_check(text, integer, timestamptz, text, text, text, text, integer, numeric, text, timestamptz, jsonb) IS
	'CHECK of ecstats.order_lines: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s days.';

CREATE OR REPLACE FUNCTION ecstats.order_parse(payload jsonb, raise boolean)
	RETURNS TABLE (ord integer, order_id text, line_no integer, order_time timestamptz, user_id text, product_id text,
				   region text, channel text, quantity integer, amount numeric, status text, paid_time timestamptz,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_order_parse';
COMMENT ON FUNCTION ecstats.order_parse(jsonb, boolean) IS
	'One row an order line of a payload (an order or an array of at most 100,000), line_no NULL for an order without items, or one row a bad order with sqlstate, reason and the order. raise: the first bad order is an error.';

CREATE OR REPLACE FUNCTION ecstats.order_buckets(payload jsonb) RETURNS integer[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_order_buckets';
COMMENT ON FUNCTION ecstats.order_buckets(jsonb) IS
	'Numbers from 0 to 1023 of the orders of a payload, by order_id, sorted, each once; without reading the rest of an order.';
