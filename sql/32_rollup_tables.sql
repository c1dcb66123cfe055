-- sql/32_rollup_tables.sql
-- What a closed day leaves behind.

CREATE TABLE ecstats.daily_kpi (
	day						date PRIMARY KEY,
	gmv						numeric NOT NULL DEFAULT 0,
	order_count				bigint NOT NULL DEFAULT 0,
	quantity				bigint NOT NULL DEFAULT 0,
	buyer_count				bigint NOT NULL DEFAULT 0,
	paid_amount				numeric NOT NULL DEFAULT 0,
	paid_order_count		bigint NOT NULL DEFAULT 0,
	payer_count				bigint NOT NULL DEFAULT 0,
	refund_amount			numeric NOT NULL DEFAULT 0,
	refund_order_count		bigint NOT NULL DEFAULT 0,
	net_amount				numeric NOT NULL DEFAULT 0,
	aov						numeric,
	amount_per_buyer		numeric,
	abnormal_order_count	bigint NOT NULL DEFAULT 0,
	event_count				bigint NOT NULL DEFAULT 0,
	pv						bigint NOT NULL DEFAULT 0,
	uv						bigint NOT NULL DEFAULT 0,
	conversion_rate			numeric,
	new_user_count			bigint NOT NULL DEFAULT 0,
	complete				boolean NOT NULL DEFAULT false,
	closed_at				timestamptz,
	revision				integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE ecstats.daily_kpi IS 'Figures of a closed business day, one row a day; written by ecstats_daily';
COMMENT ON COLUMN ecstats.daily_kpi.day IS 'Business day, by config.timezone and config.day_starts_at';
COMMENT ON COLUMN ecstats.daily_kpi.gmv IS 'Amount of sale lines by order_time, every status';
COMMENT ON COLUMN ecstats.daily_kpi.order_count IS 'Distinct order_id of the day''s sale lines';
COMMENT ON COLUMN ecstats.daily_kpi.quantity IS 'Pieces sold';
COMMENT ON COLUMN ecstats.daily_kpi.buyer_count IS 'Distinct known user_id of the day''s sale lines';
COMMENT ON COLUMN ecstats.daily_kpi.paid_amount IS 'Amount of sale lines whose paid_time falls on the day; refunds are not taken off';
COMMENT ON COLUMN ecstats.daily_kpi.paid_order_count IS 'Distinct order_id of these';
COMMENT ON COLUMN ecstats.daily_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.daily_kpi.refund_amount IS 'What went back: minus the amount of return lines by their order_time';
COMMENT ON COLUMN ecstats.daily_kpi.refund_order_count IS 'Distinct order_id of return lines';
COMMENT ON COLUMN ecstats.daily_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.daily_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.daily_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.daily_kpi.abnormal_order_count IS 'Distinct order_id of sale lines with a status in config.abnormal_statuses';
COMMENT ON COLUMN ecstats.daily_kpi.event_count IS 'Events of every name';
COMMENT ON COLUMN ecstats.daily_kpi.pv IS 'Events that are page views by ecstats.event_types';
COMMENT ON COLUMN ecstats.daily_kpi.uv IS 'Distinct user_id of all events';
COMMENT ON COLUMN ecstats.daily_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.daily_kpi.new_user_count IS 'Users whose first event ever is on this day';
COMMENT ON COLUMN ecstats.daily_kpi.complete IS 'The grace has passed, every enabled source''s watermark is past the day, and nobody who began before its end is still writing';
COMMENT ON COLUMN ecstats.daily_kpi.closed_at IS 'When it was closed first';
COMMENT ON COLUMN ecstats.daily_kpi.revision IS '1 at the first close, one more each time its figures changed';

CREATE TABLE ecstats.daily_sales (
	day				date NOT NULL,
	product_id		text COLLATE "C" NOT NULL,
	region			text COLLATE "C" NOT NULL,
	channel			text COLLATE "C" NOT NULL,
	total_sold		bigint NOT NULL,
	total_revenue	numeric NOT NULL,
	order_count		bigint NOT NULL,
	buyer_count		bigint NOT NULL,
	refund_amount	numeric NOT NULL,
	PRIMARY KEY (day, product_id, region, channel)
);
COMMENT ON TABLE ecstats.daily_sales IS 'Sales and returns of a closed day by product, region and channel; sums equal daily_kpi, distinct counts do not add up';
COMMENT ON COLUMN ecstats.daily_sales.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_sales.product_id IS 'Product, as in order lines';
COMMENT ON COLUMN ecstats.daily_sales.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.daily_sales.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.daily_sales.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.order_count IS 'Distinct order_id of the group''s sale lines; does not add up over groups';
COMMENT ON COLUMN ecstats.daily_sales.buyer_count IS 'Distinct known user_id of the group''s sale lines; does not add up over groups';
COMMENT ON COLUMN ecstats.daily_sales.refund_amount IS 'What went back: minus the amount of the group''s return lines';

-- A day has about as many groups as order lines: the ten best products of a day are to be found without them.
CREATE TABLE ecstats.daily_sales_by (
	day				date NOT NULL,
	dimension		text COLLATE "C" NOT NULL CHECK (dimension IN ('product', 'region', 'channel')),
	value			text COLLATE "C" NOT NULL,
	total_sold		bigint NOT NULL,
	total_revenue	numeric NOT NULL,
	refund_amount	numeric NOT NULL,
	PRIMARY KEY (day, dimension, value)
);
COMMENT ON TABLE ecstats.daily_sales_by IS 'daily_sales added up by product, by region and by channel; read it through the views product_daily, region_daily and channel_daily';
COMMENT ON COLUMN ecstats.daily_sales_by.value IS 'The product_id, region or channel';
COMMENT ON COLUMN ecstats.daily_sales_by.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_sales_by.dimension IS 'product, region or channel';
COMMENT ON COLUMN ecstats.daily_sales_by.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales_by.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.daily_sales_by.refund_amount IS 'What went back: minus the amount of return lines';

CREATE TABLE ecstats.daily_events (
	day			date NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_count	bigint NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, event)
);
COMMENT ON TABLE ecstats.daily_events IS 'Events and their distinct users of a closed day, by name';
COMMENT ON COLUMN ecstats.daily_events.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_events.event IS 'Event name';
COMMENT ON COLUMN ecstats.daily_events.event_count IS 'Events of that name';
COMMENT ON COLUMN ecstats.daily_events.user_count IS 'Distinct user_id of these; does not add up over names';

CREATE TABLE ecstats.daily_funnel (
	day			date NOT NULL,
	step		integer NOT NULL,
	event		text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, step)
);
COMMENT ON TABLE ecstats.daily_funnel IS 'Users of a closed day with events of this step and of every earlier one, in any order';
COMMENT ON COLUMN ecstats.daily_funnel.day IS 'Business day';
COMMENT ON COLUMN ecstats.daily_funnel.step IS 'Place in the funnel, from 1';
COMMENT ON COLUMN ecstats.daily_funnel.event IS 'Event name of the step';
COMMENT ON COLUMN ecstats.daily_funnel.user_count IS 'Users with events of this step and of every earlier one that day, in any order';

-- Sets of ids are kept as blocks: some 64 of them, sorted and packed, in a row (src/rollup_block.c). A row a user
-- would be five times as much to write, and a row a user and event three times that. Blocks are stored as they are:
-- they do not get smaller by PostgreSQL's compression.
CREATE TABLE ecstats.event_names (
	event_no	integer PRIMARY KEY CHECK (event_no > 0),
	event		text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE ecstats.event_names IS 'Numbers of the event names in ecstats.user_day; given by whoever closes days';
COMMENT ON COLUMN ecstats.event_names.event_no IS 'Number, from 1; never given to another name';
COMMENT ON COLUMN ecstats.event_names.event IS 'Event name';
CREATE TABLE ecstats.user_day (
	day			date NOT NULL,
	first_user	text COLLATE "C" NOT NULL,
	users		integer NOT NULL,
	packed		bytea NOT NULL,
	PRIMARY KEY (day, first_user)
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.user_day ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.user_day IS 'Users of a closed day with their events, in blocks; read it through the view ecstats.user_daily';
COMMENT ON COLUMN ecstats.user_day.day IS 'Business day';
COMMENT ON COLUMN ecstats.user_day.first_user IS 'The least user_id of the block';
COMMENT ON COLUMN ecstats.user_day.users IS 'How many users the block has';
COMMENT ON COLUMN ecstats.user_day.packed IS 'The block, see ecstats.rollup_users_unpack';
CREATE VIEW ecstats.user_daily AS
	SELECT d.day, c.user_id COLLATE "C" AS user_id, n.event, c.event_count
	  FROM ecstats.user_day d
	 CROSS JOIN LATERAL ecstats.rollup_users_unpack(d.packed) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no;
COMMENT ON VIEW ecstats.user_daily IS 'Events of a user on a closed day, by name; for one user ecstats.user_events is faster';

CREATE TABLE ecstats.order_day (
	day			date NOT NULL,
	kind		"char" NOT NULL CHECK (kind IN ('o', 'b')),
	first_id	text COLLATE "C" NOT NULL,
	ids			integer NOT NULL,
	packed		bytea NOT NULL,
	PRIMARY KEY (day, kind, first_id)
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.order_day ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.order_day IS 'Which orders and buyers a closed day has, in blocks: what is distinct over a week or a month is counted from them';
COMMENT ON COLUMN ecstats.order_day.day IS 'Business day';
COMMENT ON COLUMN ecstats.order_day.first_id IS 'The least id of the block';
COMMENT ON COLUMN ecstats.order_day.ids IS 'How many ids the block has';
COMMENT ON COLUMN ecstats.order_day.kind IS 'o: order_ids, b: user_ids';
COMMENT ON COLUMN ecstats.order_day.packed IS 'The block, see ecstats.rollup_ids_unpack; numbers are roles: 1 sale, 2 return, 4 abnormal, 8 paid, added up';

-- Outlives the raw rows.
CREATE TABLE ecstats.first_seen_block (
	first_user	text COLLATE "C" PRIMARY KEY,
	users		integer NOT NULL,
	packed		bytea NOT NULL
) WITH (toast_tuple_target = 8160);
ALTER TABLE ecstats.first_seen_block ALTER packed SET STORAGE EXTERNAL;
COMMENT ON TABLE ecstats.first_seen_block IS 'All users with the first closed day on which they have an event, in blocks; read it through the view ecstats.first_seen';
COMMENT ON COLUMN ecstats.first_seen_block.first_user IS 'The least user_id of the block';
COMMENT ON COLUMN ecstats.first_seen_block.users IS 'How many users the block has';
COMMENT ON COLUMN ecstats.first_seen_block.packed IS 'The block, see ecstats.rollup_ids_unpack; numbers are days since 1999-12-30';
CREATE VIEW ecstats.first_seen AS
	SELECT c.id COLLATE "C" AS user_id, date '1999-12-30' + c.number::integer AS day
	  FROM ecstats.first_seen_block b CROSS JOIN LATERAL ecstats.rollup_ids_unpack(b.packed) c;
COMMENT ON VIEW ecstats.first_seen IS 'The first closed day on which a user has an event';

CREATE TABLE ecstats.restatements (
	day			date NOT NULL,
	revision	integer NOT NULL,
	column_name	name NOT NULL,
	old			numeric,
	new			numeric,
	at			timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (day, revision, column_name)
);
COMMENT ON TABLE ecstats.restatements IS 'What changed in a closed day, by revision and column of daily_kpi';
COMMENT ON COLUMN ecstats.restatements.day IS 'Business day whose figure changed';
COMMENT ON COLUMN ecstats.restatements.revision IS 'Revision of daily_kpi that brought the new figure';
COMMENT ON COLUMN ecstats.restatements.column_name IS 'Column of daily_kpi';
COMMENT ON COLUMN ecstats.restatements.old IS 'Figure before; NULL for a ratio that was undefined';
COMMENT ON COLUMN ecstats.restatements.new IS 'Figure since; NULL for a ratio that became undefined';
COMMENT ON COLUMN ecstats.restatements.at IS 'When it was found';

-- What a close has to remember. A transaction that had passed its pre-commit before the day's end and was
-- not visible to the close left no mark: its number is kept, and the day is computed again when it is over.
CREATE TABLE ecstats.day_state (
	day			date PRIMARY KEY,
	unseen		xid[] NOT NULL DEFAULT '{}',
	cluster		bigint NOT NULL,
	partitioned	boolean NOT NULL DEFAULT false,
	frozen		boolean NOT NULL DEFAULT false,
	events_dropped	boolean NOT NULL DEFAULT false,
	orders_dropped	boolean NOT NULL DEFAULT false
);
-- Not dumped: a table that is restored is another one by number, and no less the day's.
CREATE TABLE ecstats.day_partitions (
	day			date PRIMARY KEY,
	partition	oid NOT NULL
);
COMMENT ON TABLE ecstats.day_partitions IS 'Which table held a closed day''s events when the day was looked at: another one of that name has other rows';
COMMENT ON COLUMN ecstats.day_partitions.day IS 'Business day';
COMMENT ON COLUMN ecstats.day_partitions.partition IS 'Its partition, as a row of pg_class';

COMMENT ON TABLE ecstats.day_state IS 'State of closed days that is no figure';
COMMENT ON COLUMN ecstats.day_state.day IS 'Business day';
COMMENT ON COLUMN ecstats.day_state.unseen IS 'Transactions that were under way when the day was computed and may hold rows of it';
COMMENT ON COLUMN ecstats.day_state.cluster IS 'System identifier of the cluster whose transaction numbers these are';
COMMENT ON COLUMN ecstats.day_state.partitioned IS 'The day had a partition of its own when it was computed';
COMMENT ON COLUMN ecstats.day_state.frozen IS 'Its order lines are gone: never computed again';
COMMENT ON COLUMN ecstats.day_state.events_dropped IS 'Its events were dropped by config.event_retention, or its partition by somebody: what is counted from them stays as it is, orders are still computed';
COMMENT ON COLUMN ecstats.day_state.orders_dropped IS 'Its order lines were dropped by config.order_retention; what came since then stays';

