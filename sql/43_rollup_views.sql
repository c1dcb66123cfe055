-- sql/43_rollup_views.sql
-- What BI tools point at beyond the tables: sums over fewer columns, rates, changes. Every view can be asked for
-- some days alone (the condition reaches the primary key below), names its columns one by one, so that a new column
-- of a table changes nothing here, and only divides, adds and compares: what is stored stays the one truth.

-- Sums of daily_sales, which are stored. Distinct orders and buyers of groups do not add up, so they are not here.
CREATE OR REPLACE VIEW ecstats.product_daily AS
	SELECT s.day, s.value AS product_id, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'product';
COMMENT ON VIEW ecstats.product_daily IS 'Sales and returns of a closed day by product, over all regions and channels; exact sums';
COMMENT ON COLUMN ecstats.product_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.product_daily.product_id IS 'Product, as in order lines';
COMMENT ON COLUMN ecstats.product_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.product_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.product_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE OR REPLACE VIEW ecstats.region_daily AS
	SELECT s.day, s.value AS region, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'region';
COMMENT ON VIEW ecstats.region_daily IS 'Sales and returns of a closed day by region, over all products and channels; exact sums';
COMMENT ON COLUMN ecstats.region_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.region_daily.region IS 'Region, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.region_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.region_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.region_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE OR REPLACE VIEW ecstats.channel_daily AS
	SELECT s.day, s.value AS channel, s.total_sold, s.total_revenue, s.refund_amount
	  FROM ecstats.daily_sales_by s WHERE s.dimension = 'channel';
COMMENT ON VIEW ecstats.channel_daily IS 'Sales and returns of a closed day by channel, over all products and regions; exact sums';
COMMENT ON COLUMN ecstats.channel_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.channel_daily.channel IS 'Channel, as in order lines; unknown where none was given';
COMMENT ON COLUMN ecstats.channel_daily.total_sold IS 'Pieces of sale lines';
COMMENT ON COLUMN ecstats.channel_daily.total_revenue IS 'Amount of sale lines';
COMMENT ON COLUMN ecstats.channel_daily.refund_amount IS 'What went back: minus the amount of return lines';

CREATE OR REPLACE VIEW ecstats.funnel_daily AS
	SELECT f.day, f.step, f.event, f.user_count,
		   f.user_count::numeric / nullif(first_value(f.user_count) OVER w, 0) AS of_first,
		   f.user_count::numeric / nullif(lag(f.user_count) OVER w, 0) AS of_previous
	  FROM ecstats.daily_funnel f
	WINDOW w AS (PARTITION BY f.day ORDER BY f.step);
COMMENT ON VIEW ecstats.funnel_daily IS 'The funnel of a closed day with its rates';
COMMENT ON COLUMN ecstats.funnel_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.funnel_daily.step IS 'Place in the funnel, from 1';
COMMENT ON COLUMN ecstats.funnel_daily.event IS 'Event name of the step';
COMMENT ON COLUMN ecstats.funnel_daily.user_count IS 'Users with events of this step and of every earlier one, in any order';
COMMENT ON COLUMN ecstats.funnel_daily.of_first IS 'user_count / that of the first step; NULL where that is 0';
COMMENT ON COLUMN ecstats.funnel_daily.of_previous IS 'user_count / that of the step before; NULL at the first step and where that is 0';

-- A day that is not stored has no figures to compare with: NULL.
CREATE OR REPLACE VIEW ecstats.kpi_trend AS
	SELECT k.day,
		   k.gmv, d.gmv AS gmv_day_before, w.gmv AS gmv_week_before,
		   (k.gmv - d.gmv) / nullif(d.gmv, 0) AS gmv_day_change, (k.gmv - w.gmv) / nullif(w.gmv, 0) AS gmv_week_change,
		   k.order_count, d.order_count AS order_count_day_before, w.order_count AS order_count_week_before,
		   (k.order_count - d.order_count)::numeric / nullif(d.order_count, 0) AS order_count_day_change,
		   (k.order_count - w.order_count)::numeric / nullif(w.order_count, 0) AS order_count_week_change,
		   k.uv, d.uv AS uv_day_before, w.uv AS uv_week_before,
		   (k.uv - d.uv)::numeric / nullif(d.uv, 0) AS uv_day_change, (k.uv - w.uv)::numeric / nullif(w.uv, 0) AS uv_week_change,
		   k.complete
	  FROM ecstats.daily_kpi k
	  LEFT JOIN ecstats.daily_kpi d ON d.day = k.day - 1
	  LEFT JOIN ecstats.daily_kpi w ON w.day = k.day - 7;
COMMENT ON VIEW ecstats.kpi_trend IS 'gmv, orders and visitors of a closed day beside the day before and the same day of the week before';
COMMENT ON COLUMN ecstats.kpi_trend.day IS 'Business day';
COMMENT ON COLUMN ecstats.kpi_trend.gmv IS 'Amount of sale lines, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_day_before IS 'gmv of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_week_before IS 'gmv seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_day_change IS '(gmv - gmv_day_before) / gmv_day_before; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.gmv_week_change IS '(gmv - gmv_week_before) / gmv_week_before; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count IS 'Distinct orders, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_day_before IS 'order_count of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_week_before IS 'order_count seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_day_change IS 'Change of order_count against the day before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.order_count_week_change IS 'Change of order_count against seven days before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv IS 'Distinct users with events, as in daily_kpi';
COMMENT ON COLUMN ecstats.kpi_trend.uv_day_before IS 'uv of the day before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_week_before IS 'uv seven days before; NULL where that is not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_day_change IS 'Change of uv against the day before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.uv_week_change IS 'Change of uv against seven days before, as a share of that; NULL where that is 0 or not stored';
COMMENT ON COLUMN ecstats.kpi_trend.complete IS 'The day''s own gate, as in daily_kpi: while it is false, rows may still be missing';

COMMENT ON COLUMN ecstats.user_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.user_daily.user_id IS 'Whose events';
COMMENT ON COLUMN ecstats.user_daily.event IS 'Event name';
COMMENT ON COLUMN ecstats.user_daily.event_count IS 'How many of that name';
COMMENT ON COLUMN ecstats.first_seen.user_id IS 'Who';
COMMENT ON COLUMN ecstats.first_seen.day IS 'The first closed day with an event of theirs';
