-- sql/22_rollup_c.sql
-- The one-pass rollup. Nothing here writes: the pipeline stores what these functions return.

-- Purpose:   everything that is counted from the events of a range, in one pass.
-- Arguments: from_time (inclusive), to_time (exclusive); page_views: names that are page views; funnel:
--            names of the steps, in order; with_users: also a row for each user.
-- Result:    kind 't' a = events, b = page views; 'v' a = distinct users; 'e' name = event, a = events,
--            b = distinct users; 'f' name = funnel[a], b = users with this and every earlier step, in
--            any order; and with users: 'n' name = event, a = its number in this call's counts; 'u'
--            name = user_id, a = events, b = different events, counts = packed counts. What is not
--            named is NULL. In no particular order.
-- Errors:    0A000 a partition that is not an ordinary table, or row-level security; 22004 a NULL in an
--            array; 42501; 53200 more than 4 GB of users; 54000.
-- Touches:   reads ecstats.events (the partitions that meet the range, and the default one).
CREATE OR REPLACE FUNCTION ecstats.rollup_scan_events(from_time timestamptz, to_time timestamptz, page_views text[], funnel text[],
		with_users boolean)
	RETURNS TABLE (kind "char", name text, a bigint, b bigint, counts bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_events';
COMMENT ON FUNCTION ecstats.rollup_scan_events(timestamptz, timestamptz, text[], text[], boolean) IS
	'One pass over the events of [from_time, to_time): rows of kind t (events, page views), v (users), e (by event), f (funnel steps), with_users also n (numbers of events in counts) and u (by user). Errors: 0A000, 22004, 42501, 53200 above 4 GB of users.';

-- Purpose:   everything that is counted from the order lines of a range.
-- Arguments: from_time (inclusive), to_time (exclusive); abnormal: statuses that make a sale line abnormal.
-- Result:    by order_time: kind 't' quantity, amount, orders (distinct order_id), buyers (distinct user_id
--            that is not NULL) of sale lines, refund = minus the amount of return lines; 'r' orders of
--            return lines; 'a' orders of sale lines with an abnormal status; 's' as 't', for each
--            product_id, region and channel. By paid_time: 'p' amount, orders, buyers of sale lines.
--            Money has the largest display scale that was put in; what is not named is NULL.
-- Errors:    22003 a sum of quantities out of range; 22004 a NULL in abnormal; 53200 more than 4 GB.
-- Touches:   reads ecstats.order_lines.
CREATE OR REPLACE FUNCTION ecstats.rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[])
	RETURNS TABLE (kind "char", product_id text, region text, channel text, quantity bigint, amount numeric, orders bigint,
		buyers bigint, refund numeric)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_orders';
COMMENT ON FUNCTION ecstats.rollup_scan_orders(timestamptz, timestamptz, text[]) IS
	'One pass over the order lines of [from_time, to_time): rows of kind t (totals), r (returns), a (abnormal), p (paid in the range), s (by product_id, region, channel). Errors: 22003, 22004, 53200 above 4 GB.';

-- Purpose:   the pairs of packed counts.
-- Arguments: counts: version byte 1, then varints, event number and count, by ascending event number.
-- Result:    a row for each pair.
-- Errors:    XX001 not packed counts, with the place.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_counts_unpack(counts bytea)
	RETURNS TABLE (event_no int, event_count bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 4
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_unpack';
COMMENT ON FUNCTION ecstats.rollup_counts_unpack(bytea) IS
	'Rows (event_no, event_count) of packed counts, by ascending event_no. Error: XX001 if counts are corrupt.';

-- Purpose:   how many events packed counts stand for.
-- Arguments: counts: packed counts.
-- Result:    the sum, 0 if there are none.
-- Errors:    XX001 not packed counts, with the place.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_counts_total(counts bytea) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_total';
COMMENT ON FUNCTION ecstats.rollup_counts_total(bytea) IS
	'Sum of packed counts. Error: XX001 if counts are corrupt.';

-- Purpose:   packed counts under other event numbers.
-- Arguments: counts: packed counts; map: event number i becomes map[i], 1 or more.
-- Result:    packed counts, sorted by the new numbers; numbers that become equal are added up.
-- Errors:    22023 no number for an event; 22004 a NULL in map; 2202E map is not a list; XX001.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_counts_translate(counts bytea, map int[]) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_counts_translate';
COMMENT ON FUNCTION ecstats.rollup_counts_translate(bytea, int[]) IS
	'Packed counts with event number i replaced by map[i]. Errors: 22023 no number for an event, 22004, 2202E, XX001 if counts are corrupt.';

