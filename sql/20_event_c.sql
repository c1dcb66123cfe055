-- sql/20_event_c.sql
-- What an event must be, in C.

CREATE OR REPLACE FUNCTION ecstats.event_check(event_time timestamptz, user_id text, event text, page_url text, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_check';
COMMENT ON FUNCTION ecstats.event_check(timestamptz, text, text, text, jsonb) IS
	'CHECK of ecstats.events: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s day.';

CREATE OR REPLACE FUNCTION ecstats.event_parse(payload jsonb, raise boolean, at timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event text, event_id uuid, page_url text,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_event_parse';
COMMENT ON FUNCTION ecstats.event_parse(jsonb, boolean, timestamptz) IS
	'One row an element of an event payload (an object or an array of at most 100,000): columns of ecstats.events, or sqlstate, reason and the element. raise: the first bad element is an error. at: the clock to judge by.';

CREATE OR REPLACE FUNCTION ecstats.event_store(payload jsonb, raise boolean, at timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'ecstats_event_store';
COMMENT ON FUNCTION ecstats.event_store(jsonb, boolean, timestamptz) IS
	'Stores the valid elements of an event payload in batches and returns how many there were; NULL, or SQLSTATE ZE001 after some rows were stored, where INSERT has to do it. 23505 for a key that is there. raise: the first bad element is an error.';

CREATE OR REPLACE FUNCTION ecstats.event_days_wanted(payload jsonb, at timestamptz) RETURNS date[]
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_days_wanted';
COMMENT ON FUNCTION ecstats.event_days_wanted(jsonb, timestamptz) IS
	'Business days of a payload''s elements, from 7 before at''s to the day after it, whose partition is to be made; NULL where there are none.';
