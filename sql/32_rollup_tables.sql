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
COMMENT ON COLUMN ecstats.daily_kpi.complete IS 'The grace has passed and nobody who began before the day''s end is still writing';
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
COMMENT ON COLUMN ecstats.daily_sales.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.daily_sales.total_revenue IS 'Amount of sale lines';

CREATE TABLE ecstats.daily_events (
	day			date NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_count	bigint NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, event)
);
COMMENT ON TABLE ecstats.daily_events IS 'Events and their distinct users of a closed day, by name';

CREATE TABLE ecstats.daily_funnel (
	day			date NOT NULL,
	step		integer NOT NULL,
	event		text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	PRIMARY KEY (day, step)
);
COMMENT ON TABLE ecstats.daily_funnel IS 'Users of a closed day with events of this step and of every earlier one, in any order';

-- One compact row a user and day; a row for each event name would be three times as much to write.
CREATE TABLE ecstats.event_names (
	event_no	integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	event		text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE ecstats.event_names IS 'Numbers of the event names in ecstats.user_day';
CREATE TABLE ecstats.user_day (
	day		date NOT NULL,
	user_id	text COLLATE "C" NOT NULL,
	counts	bytea NOT NULL,
	PRIMARY KEY (day, user_id)
);
COMMENT ON TABLE ecstats.user_day IS 'Events of a user on a closed day, packed; read it through the view ecstats.user_daily';
COMMENT ON COLUMN ecstats.user_day.counts IS 'Pairs of event number and count, see ecstats.rollup_counts_unpack';
CREATE VIEW ecstats.user_daily AS
	SELECT d.day, d.user_id, n.event, c.event_count
	  FROM ecstats.user_day d
	 CROSS JOIN LATERAL ecstats.rollup_counts_unpack(d.counts) c
	  JOIN ecstats.event_names n ON n.event_no = c.event_no;
COMMENT ON VIEW ecstats.user_daily IS 'Events of a user on a closed day, by name';

-- Outlives the raw rows.
CREATE TABLE ecstats.first_seen (
	user_id	text COLLATE "C" PRIMARY KEY,
	day		date NOT NULL
);
CREATE INDEX first_seen_day ON ecstats.first_seen (day);
COMMENT ON TABLE ecstats.first_seen IS 'The first closed day on which a user has an event';

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

COMMENT ON TABLE ecstats.day_state IS 'State of closed days that is no figure';
COMMENT ON COLUMN ecstats.day_state.unseen IS 'Transactions that were under way when the day was computed and may hold rows of it';
COMMENT ON COLUMN ecstats.day_state.cluster IS 'System identifier of the cluster whose transaction numbers these are';
COMMENT ON COLUMN ecstats.day_state.partitioned IS 'The day had a partition of its own when it was computed';
COMMENT ON COLUMN ecstats.day_state.frozen IS 'Its order lines are gone: never computed again';
COMMENT ON COLUMN ecstats.day_state.events_dropped IS 'Its events were dropped by config.event_retention, or its partition by somebody: what is counted from them stays as it is, orders are still computed';
COMMENT ON COLUMN ecstats.day_state.orders_dropped IS 'Its order lines were dropped by config.order_retention; what came since then stays';

