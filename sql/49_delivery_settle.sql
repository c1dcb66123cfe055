-- sql/49_delivery_settle.sql
-- From what an answer means to the delivery's next state. The pusher reports facts and decides nothing.

-- Counts a failure against the channel. With a breaker the failures-th one in a row pauses it, and
-- so does each failed probe after the pause.
CREATE OR REPLACE FUNCTION ecstats.channel_failed(channel text, breaker jsonb, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.channel_state s SET failures = s.failures + 1,
		paused_until = CASE WHEN s.failures + 1 >= (breaker ->> 'failures')::numeric
			THEN at + make_interval(secs => (breaker ->> 'pause_seconds')::float8) ELSE s.paused_until END
	WHERE s.channel = channel_failed.channel;
END $$;
COMMENT ON FUNCTION ecstats.channel_failed(text, jsonb, timestamptz) IS 'Counts a failure of a channel and opens its breaker, if it has one.';

-- What follows from a result of the attempt that a delivery is in. Returns the outcome.
CREATE OR REPLACE FUNCTION ecstats.delivery_conclude(delivery bigint, result text, wait interval, error text, at timestamptz, jitter float8) RETURNS text
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	settings jsonb;
	next_at timestamptz;
	final boolean;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery FOR UPDATE;
	settings := ecstats.channel_settings(d.channel);
	IF result = 'sent' THEN
		PERFORM ecstats.delivery_move(d.id, '{sending,pending,dead,expired,cancelled}', 'sent', at, error => error);
		UPDATE ecstats.channel_state s SET failures = 0, paused_until = NULL
			WHERE s.channel = d.channel AND (s.failures > 0 OR s.paused_until IS NOT NULL);
		RETURN 'sent';
	ELSIF result = 'throttled' THEN
		next_at := at + coalesce(wait, make_interval(secs => (settings ->> 'throttle_seconds')::float8));
		UPDATE ecstats.channel_state s SET throttled_until = greatest(s.throttled_until, next_at) WHERE s.channel = d.channel;
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'pending', at, next_attempt_at => next_at, attempts => d.attempts - 1, error => error);
		RETURN 'throttled';
	END IF;

	IF result <> 'permanent' THEN
		PERFORM ecstats.channel_failed(d.channel, settings -> 'breaker', at);
	END IF;
	final := result = 'permanent'
		OR result = 'unconfirmed' AND settings ->> 'on_unconfirmed' = 'hold'
		OR result = 'once' AND EXISTS (SELECT FROM ecstats.delivery_attempts a WHERE a.delivery_id = d.id AND a.result = 'once'
			AND a.attempt < d.requests AND a.attempt > d.requests - d.attempts)
		OR d.attempts > (settings ->> 'max_retries')::numeric;
	IF final THEN
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'dead', at, error => error);
		IF d.source IS NULL THEN
			PERFORM ecstats.delivery_tell_operators('delivery', format('dead:%s:%s', d.id, d.requests),
				format('Delivery %s to channel %s is dead', d.id, d.channel),
				format('%s (attempt %s). After the cause is gone: SELECT ecstats_replay(%s)', error, d.attempts, d.id));
		END IF;
		RETURN 'dead';
	ELSIF d.expires_at <= at THEN
		PERFORM ecstats.delivery_move(d.id, '{sending}', 'expired', at, error => error);
		RETURN 'expired';
	END IF;
	next_at := at + greatest(ecstats.delivery_backoff(d.attempts, coalesce(jitter, random())), wait);
	PERFORM ecstats.delivery_move(d.id, '{sending}', 'pending', at, next_attempt_at => next_at, error => error);
	RETURN 'retry';
END $$;
COMMENT ON FUNCTION ecstats.delivery_conclude(bigint, text, interval, text, timestamptz, float8) IS
	'Moves a delivery by the result of its attempt: sent, throttled, retry, dead or expired. wait is the provider''s; jitter 0..1, NULL random.';

-- Leases that ran out: the answer is unknown. Never waits for a row that somebody settles.
CREATE OR REPLACE FUNCTION ecstats.delivery_lapse(at timestamptz, jitter float8) RETURNS int
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	why text;
	lapsed int := 0;
BEGIN
	FOR d IN SELECT * FROM ecstats.deliveries r WHERE r.status = 'sending' AND r.lease_until <= at
		ORDER BY r.channel, r.id LIMIT 200 FOR UPDATE SKIP LOCKED
	LOOP
		why := format('attempt %s: no answer from worker %s before its lease ran out; it may have been delivered', d.requests, d.worker);
		UPDATE ecstats.delivery_attempts a SET finished_at = at, result = 'unconfirmed', error = why
			WHERE a.delivery_id = d.id AND a.attempt = d.requests;
		PERFORM ecstats.delivery_conclude(d.id, 'unconfirmed', NULL, why, at, jitter);
		lapsed := lapsed + 1;
	END LOOP;
	RETURN lapsed;
END $$;
COMMENT ON FUNCTION ecstats.delivery_lapse(timestamptz, float8) IS 'Puts back (or holds) deliveries whose lease ended by at. Returns how many.';

-- One result: records the answer, then moves the delivery. An answer that comes after its lease moves
-- it only when it says sent (or, for the channel, to wait).
CREATE OR REPLACE FUNCTION ecstats.delivery_settle_one(fact jsonb, at timestamptz, jitter float8) RETURNS text
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	c ecstats.channels;
	k ecstats.channel_kinds;
	answer jsonb := ecstats.delivery_answer(fact);
	code text;
	verdict text;
	said text;
	problem text;
	wait interval;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = (fact ->> 'delivery_id')::bigint FOR UPDATE;
	PERFORM FROM ecstats.delivery_attempts a
		WHERE a.delivery_id = d.id AND a.attempt = (fact ->> 'attempt')::int AND a.answered_at IS NULL FOR UPDATE;
	IF NOT FOUND THEN
		RETURN 'ignored';
	END IF;
	SELECT * INTO c FROM ecstats.channels r WHERE r.name = d.channel;
	SELECT * INTO k FROM ecstats.channel_kinds r WHERE r.kind = c.kind;
	code := ecstats.delivery_code(k, answer);
	verdict := ecstats.delivery_classify(k, answer, (fact ->> 'request_sent')::boolean);
	wait := ecstats.delivery_wait(k, answer, at);
	said := coalesce(jsonb_path_query_first(answer, k.message_path, '{}', true) #>> '{}', fact ->> 'error');
	IF verdict <> 'sent' OR answer @@ k.warning THEN
		problem := concat_ws(': ', concat_ws(', ', CASE verdict WHEN 'sent' THEN 'sent with a warning' WHEN 'unconfirmed' THEN 'it may have been delivered' END,
			'HTTP ' || (answer ->> 'http_status'), answer ->> 'error_kind', 'code ' || code), nullif(said, code));
		problem := left(ecstats.delivery_mask(problem, c.url, c.secret), 500);
	END IF;
	UPDATE ecstats.delivery_attempts a SET
			answered_at = at, finished_at = at, result = verdict,
			http_status = (answer ->> 'http_status')::int, provider_code = ecstats.delivery_mask(code, c.url, c.secret),
			error_kind = answer ->> 'error_kind', elapsed_ms = (fact ->> 'elapsed_ms')::numeric::int, error = problem,
			response = ecstats.delivery_cut(ecstats.delivery_mask(fact ->> 'response', c.url, c.secret), 4096)
		WHERE a.delivery_id = d.id AND a.attempt = (fact ->> 'attempt')::int;

	IF d.status = 'sending' AND d.requests = (fact ->> 'attempt')::int OR verdict = 'sent' AND d.status <> 'sent' THEN
		RETURN ecstats.delivery_conclude(d.id, verdict, wait, problem, at, jitter);
	ELSIF verdict = 'throttled' THEN
		UPDATE ecstats.channel_state s SET throttled_until = greatest(s.throttled_until,
			at + coalesce(wait, make_interval(secs => (ecstats.channel_settings(d.channel) ->> 'throttle_seconds')::float8)))
			WHERE s.channel = d.channel;
	END IF;
	RETURN 'ignored';
END $$;
COMMENT ON FUNCTION ecstats.delivery_settle_one(jsonb, timestamptz, float8) IS
	'Records one result of the pusher and moves its delivery. Returns sent, retry, throttled, dead, expired, or ignored (settled before, unknown, or too late to matter).';

-- Locks the deliveries first, then goes channel by channel: two settles and a claim never wait in a circle.
CREATE OR REPLACE FUNCTION ecstats.delivery_settle_at(worker text, results jsonb, at timestamptz, jitter float8 DEFAULT NULL)
	RETURNS TABLE (delivery_id bigint, attempt int, outcome text)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fact jsonb;
BEGIN
	IF jsonb_typeof(results) IS DISTINCT FROM 'array' OR results @? '$[*] ? (!(@.delivery_id.type() == "number" && @.attempt.type() == "number"))' THEN
		RAISE EXCEPTION 'results must be an array of objects with delivery_id and attempt' USING ERRCODE = '22023',
			HINT = 'doc/delivery.md has the members of a result.';
	END IF;
	PERFORM FROM ecstats.deliveries d WHERE d.id IN (SELECT (r ->> 'delivery_id')::bigint FROM jsonb_array_elements(results) r)
		ORDER BY d.id FOR UPDATE;
	FOR fact IN SELECT r FROM jsonb_array_elements(results) WITH ORDINALITY AS t(r, n)
		LEFT JOIN ecstats.deliveries d ON d.id = (r ->> 'delivery_id')::bigint ORDER BY d.channel, n
	LOOP
		delivery_id := (fact ->> 'delivery_id')::bigint;
		attempt := (fact ->> 'attempt')::int;
		outcome := ecstats.delivery_settle_one(fact, at, jitter);
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.delivery_settle_at(text, jsonb, timestamptz, float8) IS
	'ecstats.delivery_settle at the instant at; jitter 0..1 for the back-off, NULL random. 22023 when results is no array of results.';

CREATE OR REPLACE FUNCTION ecstats.delivery_settle(worker text, results jsonb) RETURNS TABLE (delivery_id bigint, attempt int, outcome text)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT * FROM ecstats.delivery_settle_at(worker, results, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.delivery_settle(text, jsonb) IS
	'The pusher''s answers: an array of {"delivery_id", "attempt", "http_status", "error_kind", "request_sent", "error", "response", "headers", "elapsed_ms"}. '
	'Returns an outcome each; settling twice is ignored.';
