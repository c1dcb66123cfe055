-- sql/35_delivery_tables.sql
-- What a provider is (channel_kinds), where messages go (channels), what is sent (deliveries, one
-- row per message and channel; delivery_attempts, one row per request), and who carries (pushers).
-- No foreign keys between the tables that a dump holds: pg_restore -j loads them in any order, and an
-- extension's keys are there from the start. Triggers do their work, and are silent in a restore.

CREATE TABLE ecstats.channel_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_-]{0,31}$'),
	description text NOT NULL DEFAULT '',
	transport text NOT NULL DEFAULT 'http' CHECK (transport IN ('http', 'smtp')),
	method text NOT NULL DEFAULT 'POST' CHECK (method IN ('POST', 'PUT')),
	content_type text NOT NULL DEFAULT 'application/json; charset=utf-8',
	signature text CHECK (signature IN ('dingtalk', 'feishu', 'standard-webhooks')),
	native jsonpath NOT NULL,
	envelopes jsonb NOT NULL CHECK (jsonb_typeof(envelopes) = 'object'),
	default_envelope text NOT NULL,
	text_paths jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(text_paths) = 'array'),
	mentions jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(mentions) = 'array'),
	limits jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(limits) = 'array'),
	options jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(options) = 'object'),
	code_paths jsonpath[] NOT NULL DEFAULT '{}',
	message_path jsonpath,
	success jsonpath NOT NULL,
	warning jsonpath,
	throttle jsonpath,
	wait_path jsonpath,
	wait_headers text[] NOT NULL DEFAULT '{retry-after}',
	retry_once jsonpath,
	permanent jsonpath,
	retryable jsonpath,
	CONSTRAINT channel_kinds_default_envelope_exists CHECK (envelopes ? default_envelope)
);
COMMENT ON TABLE ecstats.channel_kinds IS
	'Providers as rows. Rules are jsonpath predicates over {"http_status", "body", "headers", "error_kind"} of an answer; body is parsed JSON or the text. They are tried in the order success, throttle, retry_once, permanent, retryable.';
COMMENT ON COLUMN ecstats.channel_kinds.kind IS 'Name of the kind, as in ecstats.channels.kind';
COMMENT ON COLUMN ecstats.channel_kinds.description IS 'What it is, for people';
COMMENT ON COLUMN ecstats.channel_kinds.transport IS 'http, or smtp';
COMMENT ON COLUMN ecstats.channel_kinds.method IS 'HTTP method of a request';
COMMENT ON COLUMN ecstats.channel_kinds.content_type IS 'Content-Type of a request';
COMMENT ON COLUMN ecstats.channel_kinds.signature IS 'How requests are signed with the channel''s secret; NULL: not at all';
COMMENT ON COLUMN ecstats.channel_kinds.default_envelope IS 'The envelope taken where the message and the channel name none';
COMMENT ON COLUMN ecstats.channel_kinds.message_path IS 'Where the provider''s own words stand in an answer';
COMMENT ON COLUMN ecstats.channel_kinds.success IS 'Holds for an answer that means: taken';
COMMENT ON COLUMN ecstats.channel_kinds.wait_path IS 'Where an answer says how many seconds to wait';
COMMENT ON COLUMN ecstats.channel_kinds.wait_headers IS 'Headers of an answer that say how long to wait';
COMMENT ON COLUMN ecstats.channel_kinds.permanent IS 'Holds for an answer after which the same message need not be tried again';
COMMENT ON COLUMN ecstats.channel_kinds.retryable IS 'Holds for an answer after which it is tried again';
COMMENT ON COLUMN ecstats.channel_kinds.native IS 'Holds for a message that is in the provider''s own form and passes as it is';
COMMENT ON COLUMN ecstats.channel_kinds.envelopes IS 'Name: template of the request body for a neutral message (title, markdown, text, ...); a member that is exactly {{name}} takes an object or array whole';
COMMENT ON COLUMN ecstats.channel_kinds.text_paths IS 'Where the provider looks for its keyword: paths as arrays, e.g. [["text","content"]]';
COMMENT ON COLUMN ecstats.channel_kinds.mentions IS 'Where options.mention goes: [{"when": jsonpath, "users_at", "mobiles_at", "all_at": path, "all_value": "@all", "append_to": path, "user", "mobile", "all": text with %s}]';
COMMENT ON COLUMN ecstats.channel_kinds.limits IS '[{"path": jsonpath or absent for the whole body, "max_bytes" | "max_chars" | "max_items": n, "base64": true to count decoded bytes}]';
COMMENT ON COLUMN ecstats.channel_kinds.options IS 'Defaults of channels.options; a kind that names audience_page here, null as a rule, lets its channels have it';
COMMENT ON COLUMN ecstats.channel_kinds.code_paths IS 'Where the provider''s own code stands; the first that yields. An answer 2xx without any is unconfirmed, unless success says otherwise';
COMMENT ON COLUMN ecstats.channel_kinds.warning IS 'Holds for a success that lost something on the way';
COMMENT ON COLUMN ecstats.channel_kinds.throttle IS 'The channel waits (wait_path, else wait_headers, else options.throttle_seconds); no attempt is used';
COMMENT ON COLUMN ecstats.channel_kinds.retry_once IS 'Retried once, permanent the second time (a signature that was too old)';

CREATE TABLE ecstats.channels (
	name text PRIMARY KEY,
	kind text NOT NULL,
	url text NOT NULL,
	secret text,
	options jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ecstats.channels IS 'Where messages go. url and secret are credentials: no profile reads them; a trigger checks them, because a CHECK would print them';
COMMENT ON COLUMN ecstats.channels.name IS 'Name that reports and ecstats_push give';
COMMENT ON COLUMN ecstats.channels.kind IS 'What it is: a row of ecstats.channel_kinds';
COMMENT ON COLUMN ecstats.channels.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.channels.options IS 'Overrides the kind''s options: rate, throttle_seconds, lane, max_retries, timeout_seconds, allow_private, on_unconfirmed, breaker, keyword, mention, envelope, audience_page';
COMMENT ON COLUMN ecstats.channels.enabled IS 'false: takes no new messages, and what is pending stays pending';

CREATE TABLE ecstats.channel_state (
	channel text PRIMARY KEY REFERENCES ecstats.channels ON UPDATE CASCADE ON DELETE CASCADE,
	throttled_until timestamptz,
	paused_until timestamptz,
	rate_until timestamptz,
	failures int NOT NULL DEFAULT 0,
	last_claim_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE ecstats.channel_state IS 'What happens to a channel, apart from its settings; its row is the lock under which the channel''s deliveries are claimed. Not dumped';
COMMENT ON COLUMN ecstats.channel_state.throttled_until IS 'The provider asked to wait';
COMMENT ON COLUMN ecstats.channel_state.paused_until IS 'The breaker is open; after it one request at a time until one succeeds';
COMMENT ON COLUMN ecstats.channel_state.rate_until IS 'options.rate is used up until then';
COMMENT ON COLUMN ecstats.channel_state.failures IS 'Failures since the last success';

CREATE TABLE ecstats.deliveries (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	report text,
	day date,
	revision int NOT NULL DEFAULT 0,
	occasion text NOT NULL DEFAULT '',
	channel text NOT NULL,
	priority int NOT NULL DEFAULT 5 CHECK (priority BETWEEN 1 AND 9),
	status text NOT NULL DEFAULT 'pending'
		CHECK (status IN ('pending', 'sending', 'sent', 'dead', 'expired', 'cancelled')),
	attempts int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	requests int NOT NULL DEFAULT 0 CHECK (requests >= 0),
	moves int NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL DEFAULT now(),
	expires_at timestamptz,
	worker text,
	lease_until timestamptz,
	body jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
	source text,
	created_at timestamptz NOT NULL DEFAULT now(),
	sent_at timestamptz,
	settled_at timestamptz,
	last_error text,
	UNIQUE (report, day, revision, occasion, channel),
	CHECK (report IS NULL OR day IS NOT NULL),
	CHECK (report IS NULL OR source IS NULL),
	CHECK ((status = 'sending') = (lease_until IS NOT NULL)),
	CHECK ((status = 'sent') = (sent_at IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE ecstats.deliveries IS 'One row per message and channel; ecstats.delivery_move is the only writer of status';
COMMENT ON COLUMN ecstats.deliveries.id IS 'Number of the message';
COMMENT ON COLUMN ecstats.deliveries.day IS 'Business day that the message is about; NULL where it is about none';
COMMENT ON COLUMN ecstats.deliveries.revision IS 'Revision of daily_kpi that the message was made from; 0 where the day was not closed, or where it is about activity';
COMMENT ON COLUMN ecstats.deliveries.occasion IS 'What else tells messages of one report and day apart; empty as a rule, "audience 2/5" for a page of an audience';
COMMENT ON COLUMN ecstats.deliveries.channel IS 'Name in ecstats.channels';
COMMENT ON COLUMN ecstats.deliveries.priority IS '1 (first) to 9';
COMMENT ON COLUMN ecstats.deliveries.status IS 'pending, sending, sent, dead, expired or cancelled';
COMMENT ON COLUMN ecstats.deliveries.next_attempt_at IS 'Not sent before';
COMMENT ON COLUMN ecstats.deliveries.expires_at IS 'Not sent after; NULL: whenever';
COMMENT ON COLUMN ecstats.deliveries.worker IS 'Pusher that sends it now';
COMMENT ON COLUMN ecstats.deliveries.lease_until IS 'Until when that pusher may be silent';
COMMENT ON COLUMN ecstats.deliveries.created_at IS 'When it was queued';
COMMENT ON COLUMN ecstats.deliveries.sent_at IS 'When the provider took it';
COMMENT ON COLUMN ecstats.deliveries.report IS 'NULL for what ecstats_push and the operators'' messages send';
COMMENT ON COLUMN ecstats.deliveries.attempts IS 'Attempts that count against max_retries; a throttle answer uses none, a replay starts again';
COMMENT ON COLUMN ecstats.deliveries.requests IS 'Number of the latest row in delivery_attempts';
COMMENT ON COLUMN ecstats.deliveries.moves IS 'How often delivery_move has moved the row; by it the guard knows a replay or a late success from a stray UPDATE';
COMMENT ON COLUMN ecstats.deliveries.body IS 'What is sent, without URL, time stamp and signature: these are added at each claim';
COMMENT ON COLUMN ecstats.deliveries.source IS 'Who tells the operators; (source, occasion) is told once, and its failure is not told in turn';
COMMENT ON COLUMN ecstats.deliveries.settled_at IS 'When it became sent, dead, expired or cancelled';
COMMENT ON COLUMN ecstats.deliveries.last_error IS 'The latest failure, kept when a later attempt succeeds';

CREATE UNIQUE INDEX deliveries_source_key ON ecstats.deliveries (source, occasion) WHERE source IS NOT NULL;
CREATE INDEX deliveries_claim_idx ON ecstats.deliveries (channel, priority, next_attempt_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_due_idx ON ecstats.deliveries (channel, next_attempt_at) WHERE status = 'pending';
CREATE INDEX deliveries_expiry_idx ON ecstats.deliveries (expires_at) WHERE status = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX deliveries_lease_idx ON ecstats.deliveries (channel, lease_until) WHERE status = 'sending';
CREATE INDEX deliveries_channel_idx ON ecstats.deliveries (channel, created_at);
CREATE INDEX deliveries_settled_idx ON ecstats.deliveries (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE ecstats.delivery_attempts (
	delivery_id bigint NOT NULL,
	attempt int NOT NULL CHECK (attempt > 0),
	channel text NOT NULL,
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	answered_at timestamptz,
	worker text NOT NULL,
	result text CHECK (result IN ('sent', 'retryable', 'once', 'permanent', 'throttled', 'unconfirmed')),
	http_status int,
	provider_code text,
	error_kind text,
	elapsed_ms int,
	response text,
	error text,
	PRIMARY KEY (delivery_id, attempt)
);
COMMENT ON TABLE ecstats.delivery_attempts IS 'One row per request, committed before the request leaves';
COMMENT ON COLUMN ecstats.delivery_attempts.delivery_id IS 'Number in ecstats.deliveries';
COMMENT ON COLUMN ecstats.delivery_attempts.attempt IS 'Number of the request, from 1';
COMMENT ON COLUMN ecstats.delivery_attempts.channel IS 'Name in ecstats.channels';
COMMENT ON COLUMN ecstats.delivery_attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN ecstats.delivery_attempts.finished_at IS 'When it was settled; NULL while it is under way';
COMMENT ON COLUMN ecstats.delivery_attempts.worker IS 'Pusher that made it';
COMMENT ON COLUMN ecstats.delivery_attempts.http_status IS 'Status of the answer; NULL without one';
COMMENT ON COLUMN ecstats.delivery_attempts.provider_code IS 'The provider''s own code in the answer';
COMMENT ON COLUMN ecstats.delivery_attempts.error_kind IS 'What kind of failure, where there was no answer';
COMMENT ON COLUMN ecstats.delivery_attempts.elapsed_ms IS 'Milliseconds from request to answer';
COMMENT ON COLUMN ecstats.delivery_attempts.error IS 'What went wrong, in words';
COMMENT ON COLUMN ecstats.delivery_attempts.answered_at IS 'When the pusher told; NULL with finished_at set: the lease ran out and the answer is unknown';
COMMENT ON COLUMN ecstats.delivery_attempts.result IS 'What the answer meant; NULL while it is awaited';
COMMENT ON COLUMN ecstats.delivery_attempts.response IS 'First 4 kB of the answer, credentials masked';

CREATE INDEX delivery_attempts_rate_idx ON ecstats.delivery_attempts (channel, started_at);

CREATE OR REPLACE FUNCTION ecstats.deliveries_deleted() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM ecstats.delivery_attempts a USING gone g WHERE a.delivery_id = g.id;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.deliveries_deleted() IS 'Trigger: the attempts go with their deliveries';
CREATE TRIGGER deliveries_deleted AFTER DELETE ON ecstats.deliveries REFERENCING OLD TABLE AS gone
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.deliveries_deleted();

CREATE TABLE ecstats.pushers (
	worker text PRIMARY KEY,
	version text,
	started_at timestamptz NOT NULL,
	last_beat timestamptz NOT NULL
);
COMMENT ON TABLE ecstats.pushers IS 'Heartbeats of the pushers; version is read from application_name. Not dumped';

CREATE TABLE ecstats.home (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	system_identifier bigint NOT NULL,
	database name NOT NULL,
	adopted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ecstats.home IS 'The database whose messages may leave. A restored copy brings the row of its origin and sends nothing before ecstats_adopt()';
INSERT INTO ecstats.home (system_identifier, database)
	SELECT s.system_identifier, current_database() FROM pg_control_system() s;

CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.home
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('singleton');

-- The transitions that exist; whoever else writes status meets them too. What leaves a final state
-- (a replay, a late success) only delivery_move does, which counts its moves.
CREATE OR REPLACE FUNCTION ecstats.delivery_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (OLD.status, NEW.status) IN (
		('pending', 'sending'), ('pending', 'sent'), ('pending', 'expired'), ('pending', 'cancelled'),
		('sending', 'sent'), ('sending', 'pending'), ('sending', 'dead'), ('sending', 'expired'))
		OR NEW.moves = OLD.moves + 1 AND OLD.status IN ('sent', 'dead', 'expired', 'cancelled') AND NEW.status IN ('pending', 'sent')
	THEN
		RETURN NEW;
	END IF;
	RAISE EXCEPTION 'delivery % cannot go from % to %', OLD.id, OLD.status, NEW.status
		USING ERRCODE = '55000', SCHEMA = 'ecstats', TABLE = 'deliveries', COLUMN = 'status',
			DETAIL = 'The states and their successors are in doc/delivery.md.',
			HINT = 'Use ecstats_replay or ecstats_cancel.';
END $$;
COMMENT ON FUNCTION ecstats.delivery_guard() IS 'Trigger: refuses a transition that is not in the diagram (55000)';
CREATE TRIGGER delivery_guard BEFORE UPDATE OF status ON ecstats.deliveries FOR EACH ROW
	WHEN (OLD.status IS DISTINCT FROM NEW.status)
	EXECUTE FUNCTION ecstats.delivery_guard();
