-- sql/31_source_tables.sql
-- Where rows are taken from: tables, views and foreign tables of this database, and HTTP APIs.

CREATE TABLE ecstats.sources (
	name			text COLLATE "C" PRIMARY KEY,
	kind			text NOT NULL DEFAULT 'query',
	target			text NOT NULL,
	owner			text NOT NULL DEFAULT current_user,
	owner_id		oid,
	enabled			boolean NOT NULL DEFAULT true,
	query			text,
	watermark_query	text,
	url				text,
	headers			text[] NOT NULL DEFAULT '{}',
	secret			text,
	timeout			interval NOT NULL DEFAULT '1 minute',
	on_error		text NOT NULL DEFAULT 'quarantine',
	options			jsonb NOT NULL DEFAULT '{}',
	watermark		timestamptz,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	asks_since		timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_run_at		timestamptz,
	last_day		date,
	last_rows		bigint,
	last_error		text,
	CONSTRAINT sources_name_1_to_100_bytes_without_control CHECK (octet_length(name) BETWEEN 1 AND 100 AND name !~ '[[:cntrl:]]'),
	CONSTRAINT sources_name_is_not_an_intake CHECK (name NOT IN ('track', 'order') AND left(name, 5) <> 'land:'),
	CONSTRAINT sources_kind_is_query_or_http CHECK (kind IN ('query', 'http')),
	CONSTRAINT sources_target_is_events_or_orders CHECK (target IN ('events', 'orders')),
	CONSTRAINT sources_on_error_is_quarantine_or_raise CHECK (on_error IN ('quarantine', 'raise')),
	CONSTRAINT sources_of_kind_query_have_a_query CHECK (kind <> 'query' OR query IS NOT NULL),
	CONSTRAINT sources_of_kind_query_have_no_url CHECK (kind <> 'query' OR url IS NULL AND secret IS NULL AND headers = '{}'),
	CONSTRAINT sources_of_kind_http_have_a_url CHECK (kind <> 'http' OR url IS NOT NULL),
	CONSTRAINT sources_of_kind_http_have_no_query CHECK (kind <> 'http' OR query IS NULL AND watermark_query IS NULL),
	CONSTRAINT sources_query_at_most_1_mb CHECK (octet_length(query) <= 1000000 AND octet_length(watermark_query) <= 1000000),
	CONSTRAINT sources_url_is_http_without_spaces CHECK (octet_length(url) <= 4000 AND url ~ '^https?://[^/?#\s[:cntrl:]]+[^\s[:cntrl:]]*$'),
	CONSTRAINT sources_secret_without_control CHECK (octet_length(secret) BETWEEN 1 AND 8000 AND secret !~ '[[:cntrl:]]'),
	CONSTRAINT sources_timeout_1_ms_to_1_day CHECK (timeout BETWEEN interval '1 millisecond' AND interval '1 day'),
	CONSTRAINT sources_timeout_of_a_request_1_s_to_10_min CHECK (kind <> 'http' OR timeout BETWEEN interval '1 second' AND interval '10 minutes'),
	CONSTRAINT sources_options_is_an_object CHECK (jsonb_typeof(options) = 'object'),
	CONSTRAINT sources_watermark_is_finite CHECK (isfinite(watermark))
);
COMMENT ON TABLE ecstats.sources IS 'Where ecstats_collect takes events and orders from; the owner is the current user, whatever is written (a superuser may set another)';
COMMENT ON COLUMN ecstats.sources.name IS 'Name that ecstats_collect gives';
COMMENT ON COLUMN ecstats.sources.target IS 'events or orders';
COMMENT ON COLUMN ecstats.sources.enabled IS 'false: not asked, and complete does not wait for it';
COMMENT ON COLUMN ecstats.sources.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.sources.last_run_at IS 'When it was asked last';
COMMENT ON COLUMN ecstats.sources.last_day IS 'Business day that it was asked for last';
COMMENT ON COLUMN ecstats.sources.kind IS 'query: a SELECT or a relation of this database; http: an API that the pusher asks';
COMMENT ON COLUMN ecstats.sources.owner IS 'The role that the query is run as';
COMMENT ON COLUMN ecstats.sources.owner_id IS 'Which role that name was when the row was written: a role made later under the same name inherits no source. NULL after a restore, until it is used';
COMMENT ON COLUMN ecstats.sources.query IS 'One SELECT, $1 and $2 (timestamptz) being where the day begins and ends, or schema.name of a relation; columns are taken by their names';
COMMENT ON COLUMN ecstats.sources.watermark_query IS 'One SELECT of one instant up to which the source is complete; without it a run says so itself';
COMMENT ON COLUMN ecstats.sources.url IS 'With {{date}}, {{from}}, {{to}} and {{page}}';
COMMENT ON COLUMN ecstats.sources.headers IS 'Lines "Name: value" sent along; may hold credentials';
COMMENT ON COLUMN ecstats.sources.secret IS 'Sent as "Authorization: Bearer ...", or in the header that options.secret_header names';
COMMENT ON COLUMN ecstats.sources.timeout IS 'Of the query, or of one request';
COMMENT ON COLUMN ecstats.sources.on_error IS 'A row that breaks a rule: quarantine keeps it in ecstats.rejects, raise fails the run';
COMMENT ON COLUMN ecstats.sources.asks_since IS 'When name, kind, target or url were last written: a fetch that began before fails rather than go on elsewhere';
COMMENT ON COLUMN ecstats.sources.options IS 'query: replace, replace_empty; http: items, fields, item_fields, next, first_page, max_pages, max_bytes, max_retries, timezone, secret_header, allow_private';
COMMENT ON COLUMN ecstats.sources.watermark IS 'Everything before it has been taken in; a day is complete when it has passed the day''s end. NULL: nothing yet';
COMMENT ON COLUMN ecstats.sources.last_rows IS 'Rows taken by the last run that succeeded';
COMMENT ON COLUMN ecstats.sources.last_error IS 'Why the last fetch failed (kind http); a failed query is an error of ecstats_collect';

CREATE TABLE ecstats.source_fetches (
	fetch_id		bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source			text COLLATE "C" NOT NULL,
	day				date NOT NULL,
	state			text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'fetching', 'done', 'failed')),
	page			integer NOT NULL DEFAULT 1 CHECK (page >= 1),
	pages			integer NOT NULL DEFAULT 0,
	rows			bigint NOT NULL DEFAULT 0,
	attempts		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz NOT NULL,
	lease_until		timestamptz,
	worker			text,
	error			text,
	created_at		timestamptz NOT NULL,
	finished_at		timestamptz,
	next_url		text,
	next_value		text,
	rejects			bigint[] NOT NULL DEFAULT '{}',
	asks_since		timestamptz
);
CREATE INDEX source_fetches_active ON ecstats.source_fetches (source, fetch_id) WHERE state IN ('pending', 'fetching');
CREATE INDEX source_fetches_finished ON ecstats.source_fetches (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE ecstats.source_fetches IS 'Days asked of HTTP sources, a row a fetch: pending, fetching, pending (next page, or again), then done or failed';
COMMENT ON COLUMN ecstats.source_fetches.fetch_id IS 'Number of the fetch, as ecstats_collect returned it';
COMMENT ON COLUMN ecstats.source_fetches.source IS 'Name in ecstats.sources';
COMMENT ON COLUMN ecstats.source_fetches.day IS 'Business day that is asked for';
COMMENT ON COLUMN ecstats.source_fetches.state IS 'pending, fetching, done or failed';
COMMENT ON COLUMN ecstats.source_fetches.next_attempt_at IS 'Not asked before';
COMMENT ON COLUMN ecstats.source_fetches.lease_until IS 'Until when the pusher may be silent';
COMMENT ON COLUMN ecstats.source_fetches.worker IS 'Pusher that asks now';
COMMENT ON COLUMN ecstats.source_fetches.error IS 'Why it failed, or the latest attempt did';
COMMENT ON COLUMN ecstats.source_fetches.created_at IS 'When it was queued';
COMMENT ON COLUMN ecstats.source_fetches.finished_at IS 'When it was done or failed';
COMMENT ON COLUMN ecstats.source_fetches.page IS 'The page that is asked for next, from 1';
COMMENT ON COLUMN ecstats.source_fetches.pages IS 'Pages taken';
COMMENT ON COLUMN ecstats.source_fetches.rows IS 'Rows taken';
COMMENT ON COLUMN ecstats.source_fetches.attempts IS 'Failed attempts at this page';
COMMENT ON COLUMN ecstats.source_fetches.next_url IS 'Where the answer said that the next page is; may hold credentials';
COMMENT ON COLUMN ecstats.source_fetches.next_value IS 'What the answer said that {{page}} is next';
COMMENT ON COLUMN ecstats.source_fetches.rejects IS 'Rejects that this fetch met so far';

COMMENT ON COLUMN ecstats.source_fetches.asks_since IS 'The source''s asks_since when page 1 was claimed';

-- What the pages of a fetch under way brought, a row a page: an order may go on on another page, so what it no longer
-- has is known at the last page only. Not dumped: a fetch that misses its pages begins anew.
CREATE TABLE ecstats.source_pages (
	fetch_id	bigint NOT NULL,
	page		integer NOT NULL,
	order_ids	text[] NOT NULL,
	order_times	timestamptz[] NOT NULL,
	keys		bigint[] NOT NULL,
	PRIMARY KEY (fetch_id, page)
);
COMMENT ON TABLE ecstats.source_pages IS 'Orders that the pages of a fetch under way brought; gone when it ends';
COMMENT ON COLUMN ecstats.source_pages.order_ids IS 'Whole orders of the page, with order_times';
COMMENT ON COLUMN ecstats.source_pages.keys IS 'A hash of (order_id, line_no, order_time) of each of its lines';

-- Rejects of a source belong to the day that was asked for: its next run takes them back or confirms them.
ALTER TABLE ecstats.rejects ADD COLUMN day date;
CREATE INDEX rejects_source_day ON ecstats.rejects (source, day, jsonb_hash(payload)) WHERE day IS NOT NULL;
COMMENT ON COLUMN ecstats.rejects.source IS '''track'', ''order'', or the name of a source';
COMMENT ON COLUMN ecstats.rejects.day IS 'The business day that the source was asked for; NULL: sent by a client';
