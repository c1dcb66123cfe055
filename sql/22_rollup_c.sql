-- sql/22_rollup_c.sql
-- The one-pass rollup. Nothing here writes: the pipeline stores what these functions return.

-- Purpose:   everything that is counted from the events of a range, in one pass.
-- Arguments: from_time (inclusive), to_time (exclusive); page_views: names that are page views; funnel:
--            names of the steps, in order; with_users: also who did what; names: event names that have a
--            number, in the order of these, from 1 ('' for a number without a name).
-- Result:    kind 't' a = events, b = page views; 'v' a = distinct users; 'e' name = event, a = events,
--            b = distinct users; 'f' name = funnel[a], b = users with this and every earlier step, in
--            any order; and with users: 'n' name = an event that is not in names, a = the number that it
--            has in this result; 'u' packed = a block of a users, the first of them name. What is not
--            named is NULL. In no particular order.
-- Errors:    0A000 a partition that is not an ordinary table, or row-level security; 22004 a NULL in an
--            array; 42501; 53200 more than config.rollup_memory of users; 54000.
-- Touches:   reads ecstats.events (the partitions that meet the range, and the default one).
CREATE OR REPLACE FUNCTION ecstats.rollup_scan_events(from_time timestamptz, to_time timestamptz, page_views text[], funnel text[],
		with_users boolean, names text[] DEFAULT '{}')
	RETURNS TABLE (kind "char", name text, a bigint, b bigint, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1000000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_events';
COMMENT ON FUNCTION ecstats.rollup_scan_events(timestamptz, timestamptz, text[], text[], boolean, text[]) IS
	'One pass over the events of [from_time, to_time): rows of kind t (events, page views), v (users), e (by event), f (funnel steps), with_users also n (numbers of events that names has not) and u (blocks of users). Errors: 0A000, 22004, 42501, 53200 above config.rollup_memory.';

-- Purpose:   whether the scan of events got help.
-- Arguments: none.
-- Result:    parallel workers that took part in this session's last rollup_scan_events; 0 if it ran in one process
--            (config.rollup_workers = 0, tables below 8 x min_parallel_table_scan_size, no worker to be had).
-- Errors:    none.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_scan_workers() RETURNS int
	LANGUAGE c VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_workers';
COMMENT ON FUNCTION ecstats.rollup_scan_workers() IS
	'Parallel workers that took part in the last rollup_scan_events of this session; 0 if it ran in one process.';

-- Purpose:   everything that is counted from the order lines of a range.
-- Arguments: from_time (inclusive), to_time (exclusive); abnormal: statuses that make a sale line abnormal;
--            with_ids: also which orders and buyers there are, and what each buyer ordered and paid.
-- Result:    by order_time: kind 't' quantity, amount, orders (distinct order_id), buyers (distinct user_id
--            that is not NULL) of sale lines, refund = minus the amount of return lines; 'r' orders of
--            return lines; 'a' orders of sale lines with an abnormal status; 's' as 't', for each
--            product_id, region and channel. By paid_time: 'p' amount, orders, buyers of sale lines.
--            With ids: 'o' packed = a block of quantity orders, 'b' of buyers, the first of them product_id;
--            each has its roles as a number: 1 sale, 2 return, 4 abnormal, 8 paid, added up. And 'u' for each known
--            user_id (product_id), region and channel of sale lines: orders and amount by order_time, refund = the
--            amount by paid_time; an order counts once for a user, where the lowest line_no of its sale lines is.
--            Money has the largest display scale that was put in; what is not named is NULL.
-- Errors:    22003 a sum of quantities out of range; 22004 a NULL in abnormal; 53200 more than config.rollup_memory.
-- Touches:   reads ecstats.order_lines.
CREATE OR REPLACE FUNCTION ecstats.rollup_scan_orders(from_time timestamptz, to_time timestamptz, abnormal text[], with_ids boolean DEFAULT false)
	RETURNS TABLE (kind "char", product_id text, region text, channel text, quantity bigint, amount numeric, orders bigint,
		buyers bigint, refund numeric, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_scan_orders';
COMMENT ON FUNCTION ecstats.rollup_scan_orders(timestamptz, timestamptz, text[], boolean) IS
	'One pass over the order lines of [from_time, to_time): rows of kind t (totals), r (returns), a (abnormal), p (paid in the range), s (by product_id, region, channel), with_ids also o and b (blocks of orders and buyers with their roles) and u (by user, region and channel). Errors: 22003, 22004, 53200 above config.rollup_memory.';

-- Purpose:   the distinct users, orders and buyers of a week or a month.
-- Arguments: from_day (inclusive), to_day (exclusive).
-- Result:    one row, over the days of the range that are stored in daily_kpi: uv distinct visitors; distinct order_id
--            of sale lines (orders), return lines, sale lines with an abnormal status, and sale lines paid on one of the
--            days; distinct known user_id of the first (buyers) and the last (payers). An id that is on several days
--            counts once.
-- Errors:    22023 more than 400 stored days; 42501; 53200 more than config.rollup_memory, which takes days and not ids; XX001 a
--            corrupt block.
-- Touches:   reads ecstats.daily_kpi, user_day and order_day, never raw rows.
CREATE OR REPLACE FUNCTION ecstats.rollup_period(from_day date, to_day date)
	RETURNS TABLE (uv bigint, orders bigint, return_orders bigint, abnormal_orders bigint, paid_orders bigint, buyers bigint, payers bigint)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000000 ROWS 1
	AS 'MODULE_PATHNAME', 'ecstats_rollup_period';
COMMENT ON FUNCTION ecstats.rollup_period(date, date) IS
	'Distinct visitors, orders and buyers by role over the stored days of [from_day, to_day), from the ids that closes left behind. Errors: 22023 above 400 stored days, 53200 above config.rollup_memory, XX001 if a block is corrupt.';

-- Purpose:   the users of a block, with their counts.
-- Arguments: packed: a block of ecstats.user_day.
-- Result:    a row for each user and event, by ascending user_id and event number (ecstats.event_names).
-- Errors:    XX001 no such block, with the place.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_users_unpack(packed bytea)
	RETURNS TABLE (user_id text, event_no int, event_count bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 250
	AS 'MODULE_PATHNAME', 'ecstats_rollup_users_unpack';
COMMENT ON FUNCTION ecstats.rollup_users_unpack(bytea) IS
	'Rows (user_id, event_no, event_count) of a block of ecstats.user_day. Error: XX001 if it is corrupt.';

-- Purpose:   the ids of a block, with their numbers.
-- Arguments: packed: a block of ecstats.order_day or ecstats.first_seen_block.
-- Result:    a row for each id, ascending.
-- Errors:    XX001 no such block, with the place.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_ids_unpack(packed bytea)
	RETURNS TABLE (id text, number bigint)
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 64
	AS 'MODULE_PATHNAME', 'ecstats_rollup_ids_unpack';
COMMENT ON FUNCTION ecstats.rollup_ids_unpack(bytea) IS
	'Rows (id, number) of a block of ecstats.order_day or ecstats.first_seen_block. Error: XX001 if it is corrupt.';

-- Purpose:   who is in some blocks and not in others.
-- Arguments: old, new: blocks of ecstats.user_day, in order.
-- Result:    the user_ids that only old has, ascending.
-- Errors:    22004 a NULL; XX001 a corrupt block, or one that is not in order.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_gone(old bytea[], new bytea[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_gone';
COMMENT ON FUNCTION ecstats.rollup_gone(bytea[], bytea[]) IS
	'Ascending user_ids of old blocks of ecstats.user_day that new ones have not. Errors: 22004, XX001.';

-- Purpose:   which of some users are in blocks.
-- Arguments: users: user_ids, ascending in collation "C"; blocks of ecstats.user_day, in order.
-- Result:    those that the blocks have, ascending.
-- Errors:    22004 a NULL; XX001 a corrupt block, or one that is not in order.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_among(users text[], blocks bytea[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_among';
COMMENT ON FUNCTION ecstats.rollup_among(text[], bytea[]) IS
	'Those of ascending user_ids that blocks of ecstats.user_day have. Errors: 22004, XX001.';

-- Purpose:   which of some users were not found.
-- Arguments: users, found: user_ids, ascending in collation "C".
-- Result:    the users that are not among found, ascending.
-- Errors:    22004 a NULL.
-- Touches:   nothing.
CREATE OR REPLACE FUNCTION ecstats.rollup_without(users text[], found text[]) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'ecstats_rollup_without';
COMMENT ON FUNCTION ecstats.rollup_without(text[], text[]) IS 'Those of ascending user_ids that are not among others, ascending too. Error: 22004.';

-- Purpose:   how many users of a day that is not stored are new on it.
-- Arguments: day; blocks: its users, as in ecstats.user_day, in order.
-- Result:    users first seen on day, for the day itself and each other day that has them now.
-- Errors:    22004 a NULL; 22008 a day before 1999-12-30; XX001 a corrupt block, or one that is not where its ids belong.
-- Touches:   reads ecstats.first_seen_block.
CREATE OR REPLACE FUNCTION ecstats.rollup_first_merge(day date, blocks bytea[])
	RETURNS TABLE (kind "char", of_day date, users bigint, first_user text, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 10
	AS 'MODULE_PATHNAME', 'ecstats_rollup_first_merge';
COMMENT ON FUNCTION ecstats.rollup_first_merge(date, bytea[]) IS
	'Rows of kind d: users first seen by day, were the users of these blocks seen on a day. Errors: 22004, 22008, XX001.';

-- Purpose:   what a stored day's users change in who was seen first when.
-- Arguments: day; gone: users that it had and has not any more, ascending, and next: for each of them the next day with
--            an event (NULL: none).
-- Result:    kind 'd' users = how many were first seen on day, for the day itself and each other day that
--            this changed; 'b' a block to be stored (first_user, users, packed), 'x' first_user = key of a stored one
--            that is not any more, unless it is a 'b' too.
-- Errors:    as above; 2202E gone and next are not of the same length.
-- Touches:   reads ecstats.user_day and ecstats.first_seen_block.
CREATE OR REPLACE FUNCTION ecstats.rollup_first_merge_stored(day date, gone text[], next date[])
	RETURNS TABLE (kind "char", of_day date, users bigint, first_user text, packed bytea)
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100000 ROWS 1000
	AS 'MODULE_PATHNAME', 'ecstats_rollup_first_merge_stored';
COMMENT ON FUNCTION ecstats.rollup_first_merge_stored(date, text[], date[]) IS
	'Merges a stored day''s users into ecstats.first_seen_block and returns, without writing: d users first seen by day, b blocks to store, x keys of blocks to drop. Errors: 22004, 22008, 2202E, XX001.';
