-- sql/31_order_tables.sql
-- Orders, a row a line.

CREATE TABLE ecstats.order_lines (
	order_id	text COLLATE "C" NOT NULL,
	line_no		integer NOT NULL,
	order_time	timestamptz NOT NULL,
	user_id		text COLLATE "C",
	product_id	text COLLATE "C" NOT NULL,
	region		text COLLATE "C" NOT NULL DEFAULT 'unknown',
	channel		text COLLATE "C" NOT NULL DEFAULT 'unknown',
	quantity	integer NOT NULL,
	amount		numeric NOT NULL,
	status		text NOT NULL DEFAULT 'placed',
	paid_time	timestamptz,
	extra		jsonb NOT NULL DEFAULT '{}',
	PRIMARY KEY (order_id, line_no, order_time),
	CONSTRAINT order_lines_valid CHECK (ecstats.order_check(order_id, line_no, order_time, user_id, product_id, region,
															channel, quantity, amount, status, paid_time, extra))
);
-- A day's lines are found by these two, and so are the days that have lines.
CREATE INDEX order_lines_order_time ON ecstats.order_lines (order_time);
CREATE INDEX order_lines_paid_time ON ecstats.order_lines (paid_time) WHERE paid_time IS NOT NULL;
COMMENT ON TABLE ecstats.order_lines IS 'Order lines: sales (quantity > 0) and returns (quantity < 0); may be inserted, updated and deleted';
COMMENT ON COLUMN ecstats.order_lines.order_time IS 'When it was ordered; of a return, when goods or money went back';
COMMENT ON COLUMN ecstats.order_lines.user_id IS 'The customer; NULL: unknown';
COMMENT ON COLUMN ecstats.order_lines.amount IS 'The line''s total, not the unit price; negative on a return line';
COMMENT ON COLUMN ecstats.order_lines.paid_time IS 'When it was paid; NULL: not paid';

CREATE TRIGGER changed AFTER DELETE OR UPDATE ON ecstats.order_lines
	FOR EACH ROW EXECUTE FUNCTION ecstats.row_changed('order_time', 'paid_time');
ALTER TABLE ecstats.order_lines ENABLE ALWAYS TRIGGER changed;
CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.order_lines
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated();
ALTER TABLE ecstats.order_lines ENABLE ALWAYS TRIGGER truncated;

