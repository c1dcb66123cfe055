-- sql/32_rollup_period_tables.sql
-- The same figures over a week and over a month. The columns are those of daily_kpi, whatever they are.

CREATE TABLE ecstats.weekly_kpi (
	LIKE ecstats.daily_kpi INCLUDING DEFAULTS,
	PRIMARY KEY (day),
	CONSTRAINT weekly_kpi_monday CHECK (extract(isodow FROM day) = 1)
);
COMMENT ON TABLE ecstats.weekly_kpi IS 'Figures of a week, one row for each that has a stored day, the running one to date; written by ecstats_daily';
COMMENT ON COLUMN ecstats.weekly_kpi.day IS 'Monday of the week';
COMMENT ON COLUMN ecstats.weekly_kpi.gmv IS 'Sum over the stored days of daily_kpi';
COMMENT ON COLUMN ecstats.weekly_kpi.order_count IS 'Distinct order_id of the week''s sale lines: an order with lines on two days counts once';
COMMENT ON COLUMN ecstats.weekly_kpi.quantity IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.buyer_count IS 'Distinct known user_id of the week''s sale lines';
COMMENT ON COLUMN ecstats.weekly_kpi.paid_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.paid_order_count IS 'Distinct order_id of sale lines whose paid_time falls on the week';
COMMENT ON COLUMN ecstats.weekly_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.weekly_kpi.refund_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.refund_order_count IS 'Distinct order_id of the week''s return lines';
COMMENT ON COLUMN ecstats.weekly_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.weekly_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.weekly_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.weekly_kpi.abnormal_order_count IS 'Distinct order_id of the week''s abnormal sale lines';
COMMENT ON COLUMN ecstats.weekly_kpi.event_count IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.pv IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.weekly_kpi.uv IS 'Distinct user_id of all events of the week';
COMMENT ON COLUMN ecstats.weekly_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.weekly_kpi.new_user_count IS 'Users whose first event ever is in the week';
COMMENT ON COLUMN ecstats.weekly_kpi.complete IS 'The week is closed and each of its stored days is complete';
COMMENT ON COLUMN ecstats.weekly_kpi.closed_at IS 'When it was closed first; NULL while it runs';
COMMENT ON COLUMN ecstats.weekly_kpi.revision IS '0 while the week runs or an ended day of it waits to be closed, 1 when it is closed, one more each time its figures changed';

CREATE TABLE ecstats.monthly_kpi (
	LIKE ecstats.daily_kpi INCLUDING DEFAULTS,
	PRIMARY KEY (day),
	CONSTRAINT monthly_kpi_first CHECK (extract(day FROM day) = 1)
);
COMMENT ON TABLE ecstats.monthly_kpi IS 'Figures of a calendar month of business days, one row for each that has a stored day, the running one to date; written by ecstats_daily';
COMMENT ON COLUMN ecstats.monthly_kpi.day IS 'First day of the month';
COMMENT ON COLUMN ecstats.monthly_kpi.gmv IS 'Sum over the stored days of daily_kpi';
COMMENT ON COLUMN ecstats.monthly_kpi.order_count IS 'Distinct order_id of the month''s sale lines: an order with lines on two days counts once';
COMMENT ON COLUMN ecstats.monthly_kpi.quantity IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.buyer_count IS 'Distinct known user_id of the month''s sale lines';
COMMENT ON COLUMN ecstats.monthly_kpi.paid_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.paid_order_count IS 'Distinct order_id of sale lines whose paid_time falls on the month';
COMMENT ON COLUMN ecstats.monthly_kpi.payer_count IS 'Distinct known user_id of these';
COMMENT ON COLUMN ecstats.monthly_kpi.refund_amount IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.refund_order_count IS 'Distinct order_id of the month''s return lines';
COMMENT ON COLUMN ecstats.monthly_kpi.net_amount IS 'paid_amount - refund_amount';
COMMENT ON COLUMN ecstats.monthly_kpi.aov IS 'gmv / order_count; NULL without orders';
COMMENT ON COLUMN ecstats.monthly_kpi.amount_per_buyer IS 'gmv / buyer_count; NULL without buyers';
COMMENT ON COLUMN ecstats.monthly_kpi.abnormal_order_count IS 'Distinct order_id of the month''s abnormal sale lines';
COMMENT ON COLUMN ecstats.monthly_kpi.event_count IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.pv IS 'Sum over the stored days';
COMMENT ON COLUMN ecstats.monthly_kpi.uv IS 'Distinct user_id of all events of the month';
COMMENT ON COLUMN ecstats.monthly_kpi.conversion_rate IS 'buyer_count / uv; NULL without visitors';
COMMENT ON COLUMN ecstats.monthly_kpi.new_user_count IS 'Users whose first event ever is in the month';
COMMENT ON COLUMN ecstats.monthly_kpi.complete IS 'The month is closed and each of its stored days is complete';
COMMENT ON COLUMN ecstats.monthly_kpi.closed_at IS 'When it was closed first; NULL while it runs';
COMMENT ON COLUMN ecstats.monthly_kpi.revision IS '0 while the month runs or an ended day of it waits to be closed, 1 when it is closed, one more each time its figures changed';
