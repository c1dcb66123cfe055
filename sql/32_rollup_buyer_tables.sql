-- sql/32_rollup_buyer_tables.sql
-- Who bought what on a closed day, and in all: the order side of user profiles. Both outlive the order lines.

-- By user first: what is asked is one user's days. An order counts at one place alone, so that sums over regions and
-- channels are numbers of orders.
CREATE TABLE ecstats.buyer_daily (
	day				date NOT NULL,
	user_id			text COLLATE "C" NOT NULL,
	region			text COLLATE "C" NOT NULL,
	channel			text COLLATE "C" NOT NULL,
	order_count		bigint NOT NULL,
	gmv				numeric NOT NULL,
	paid_amount		numeric NOT NULL,
	PRIMARY KEY (user_id, day, region, channel)
);
CREATE INDEX buyer_daily_day ON ecstats.buyer_daily (day);
COMMENT ON TABLE ecstats.buyer_daily IS 'What each known user ordered and paid on a closed day, by region and channel; sums over these are exact';
COMMENT ON COLUMN ecstats.buyer_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.buyer_daily.user_id IS 'The customer';
COMMENT ON COLUMN ecstats.buyer_daily.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.buyer_daily.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.buyer_daily.order_count IS
	'Distinct order_id of the user''s sale lines of the day; an order with lines of several regions or channels counts where its lowest line_no is';
COMMENT ON COLUMN ecstats.buyer_daily.gmv IS 'Amount of the user''s sale lines by order_time';
COMMENT ON COLUMN ecstats.buyer_daily.paid_amount IS 'Amount of the user''s sale lines whose paid_time falls on the day; refunds are not taken off';

-- A fifth of a page stays free: of a million buyers some return every day, and no index has to know.
CREATE TABLE ecstats.buyers (
	user_id				text COLLATE "C" PRIMARY KEY,
	order_count			bigint NOT NULL,
	gmv					numeric NOT NULL,
	paid_amount			numeric NOT NULL,
	first_order_day		date,
	last_order_day		date,
	favourite_channel	text COLLATE "C",
	favourite_region	text COLLATE "C"
) WITH (fillfactor = 80);
COMMENT ON TABLE ecstats.buyers IS 'ecstats.buyer_daily added up over all stored days, one row a user';
COMMENT ON COLUMN ecstats.buyers.user_id IS 'The customer';
COMMENT ON COLUMN ecstats.buyers.order_count IS 'Orders of all stored days; one with lines on two days counts on both';
COMMENT ON COLUMN ecstats.buyers.gmv IS 'Amount of sale lines by order_time';
COMMENT ON COLUMN ecstats.buyers.paid_amount IS 'Amount of sale lines paid on stored days; refunds are not taken off';
COMMENT ON COLUMN ecstats.buyers.first_order_day IS 'First stored day with an order; NULL: only payments';
COMMENT ON COLUMN ecstats.buyers.last_order_day IS 'Last stored day with an order; NULL: only payments';
COMMENT ON COLUMN ecstats.buyers.favourite_channel IS 'Channel of the most orders; of several, that of more gmv, then the first by bytes';
COMMENT ON COLUMN ecstats.buyers.favourite_region IS 'Region of the most orders; of several, that of more gmv, then the first by bytes';

