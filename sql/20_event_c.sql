-- sql/20_event_c.sql
-- What an event must be, in C.

CREATE OR REPLACE FUNCTION ecstats.event_check(event_time timestamptz, user_id text, event text, page_url text, extra jsonb)
	RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_event_check';
COMMENT ON FUNCTION ecstats.event_check(timestamptz, text, text, text, jsonb) IS
	'CHECK of ecstats.events: true, or 23514 with the column, the value in DETAIL and the cure in HINT. Notes the row''s day.';

CREATE OR REPLACE FUNCTION ecstats.event_parse(payload jsonb, raise boolean)
	RETURNS TABLE (ord integer, event_time timestamptz, user_id text, event text, event_id uuid, page_url text,
				   extra jsonb, sqlstate text, reason text, payload_element jsonb)
	LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'ecstats_event_parse';
COMMENT ON FUNCTION ecstats.event_parse(jsonb, boolean) IS
	'One row an element of an event payload (an object or an array of at most 100,000): columns of ecstats.events, or sqlstate, reason and the element. raise: the first bad element is an error.';


CREATE OR REPLACE FUNCTION ecstats.event_days_ready(at timestamptz) RETURNS boolean
	LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'ecstats_event_days_ready';
COMMENT ON FUNCTION ecstats.event_days_ready(timestamptz) IS
	'True where each business day from 7 before at''s to the day after it has its partition.';
