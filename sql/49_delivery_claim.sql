-- sql/49_delivery_claim.sql
-- What the pusher takes: finished requests, a lease on each, the attempt recorded before it leaves.

-- The request of a claimed delivery at an instant. It holds credentials and is never stored.
CREATE OR REPLACE FUNCTION ecstats.delivery_request(delivery bigint, at timestamptz,
	OUT transport text, OUT method text, OUT url text, OUT headers text[], OUT body text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
	c ecstats.channels;
	k ecstats.channel_kinds;
	seconds bigint := floor(extract(epoch FROM at));
	ms bigint := floor(extract(epoch FROM at) * 1000);
	message_id text;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery;
	SELECT * INTO c FROM ecstats.channels r WHERE r.name = d.channel;
	SELECT * INTO k FROM ecstats.channel_kinds r WHERE r.kind = c.kind;
	transport := k.transport;
	method := k.method;
	url := c.url;
	headers := ARRAY['Content-Type: ' || k.content_type];
	body := d.body::text;
	CASE k.signature
		WHEN 'dingtalk' THEN
			IF c.secret IS NOT NULL THEN
				url := format('%s%stimestamp=%s&sign=%s', url, CASE WHEN strpos(url, '?') > 0 THEN '&' ELSE '?' END,
					ms, ecstats.sign_dingtalk(c.secret, ms));
			END IF;
		WHEN 'feishu' THEN
			IF c.secret IS NOT NULL THEN
				body := (d.body || jsonb_build_object('timestamp', seconds::text, 'sign', ecstats.sign_feishu(c.secret, seconds)))::text;
			END IF;
		WHEN 'standard-webhooks' THEN
			-- the same at every attempt, and another one in a database that continues from a copy
			message_id := format('msg_%s_%s', d.id, to_hex((extract(epoch FROM d.created_at) * 1000000)::bigint));
			headers := headers || ARRAY['webhook-id: ' || message_id, 'webhook-timestamp: ' || seconds];
			IF c.secret IS NOT NULL THEN
				headers := headers || ('webhook-signature: ' || ecstats.sign_standard_webhook(c.secret, message_id, seconds, body));
			END IF;
		ELSE NULL;
	END CASE;
END $$;
COMMENT ON FUNCTION ecstats.delivery_request(bigint, timestamptz) IS
	'URL, headers and body of a delivery, signed for the instant at. Holds credentials: for the pusher alone.';

-- How many deliveries of a channel may be claimed now. Takes the channel's state row, which nobody
-- waits for: who meets it locked leaves the channel to the other claimer.
CREATE OR REPLACE FUNCTION ecstats.delivery_room(channel text, at timestamptz) RETURNS int
	LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	settings jsonb := ecstats.channel_settings(channel);
	s ecstats.channel_state;
	r record;
	used int;
	oldest timestamptz;
	room int;
	full_until timestamptz;
BEGIN
	SELECT * INTO s FROM ecstats.channel_state t WHERE t.channel = delivery_room.channel FOR UPDATE SKIP LOCKED;
	IF NOT FOUND OR s.throttled_until > at OR s.paused_until > at THEN
		RETURN 0;
	END IF;
	room := CASE WHEN s.paused_until IS NULL THEN (settings ->> 'lane')::numeric ELSE 1 END
		- (SELECT count(*) FROM ecstats.deliveries d WHERE d.channel = delivery_room.channel AND d.status = 'sending');
	-- the tokens of a rate are the requests of its last per_seconds, whichever pusher made them
	FOR r IN SELECT (e ->> 'count')::numeric::int AS count, make_interval(secs => (e ->> 'per_seconds')::float8) AS per
		FROM jsonb_path_query(settings, '$.rate[*] ? (@ != null)') e
	LOOP
		SELECT count(*), min(a.started_at) INTO used, oldest FROM (
			SELECT t.started_at FROM ecstats.delivery_attempts t
			WHERE t.channel = delivery_room.channel AND t.started_at > at - r.per
			ORDER BY t.started_at DESC LIMIT r.count) a;
		room := least(room, r.count - used);
		IF used >= r.count THEN
			full_until := greatest(full_until, oldest + r.per);
		END IF;
	END LOOP;
	-- written even if nothing changes: under REPEATABLE READ the second claimer then fails instead of
	-- counting by an old snapshot
	UPDATE ecstats.channel_state t SET rate_until = full_until, last_claim_at = at WHERE t.channel = delivery_room.channel;
	RETURN greatest(room, 0);
END $$;
COMMENT ON FUNCTION ecstats.delivery_room(text, timestamptz) IS
	'How many more deliveries of a channel may leave at the instant at, by lane, rate, throttle and breaker; 0 while another transaction claims it. Locks the channel''s state row.';

CREATE OR REPLACE FUNCTION ecstats.delivery_expire(at timestamptz) RETURNS int
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	e record;
	expired int := 0;
BEGIN
	FOR e IN SELECT d.id, d.last_error FROM ecstats.deliveries d WHERE d.status = 'pending' AND d.expires_at <= at
		ORDER BY d.expires_at LIMIT 500 FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM ecstats.delivery_move(e.id, '{pending}', 'expired', at, error => coalesce(e.last_error, 'expired before it could be sent'));
		expired := expired + 1;
	END LOOP;
	RETURN expired;
END $$;
COMMENT ON FUNCTION ecstats.delivery_expire(timestamptz) IS 'Moves pending deliveries whose time is over by at to expired. Returns how many.';

-- Due deliveries in order of priority, then age, over all channels. Each channel is locked when its
-- first row comes up, and its rows are read again under that lock.
CREATE OR REPLACE FUNCTION ecstats.delivery_claim_at(worker text, max_rows int, at timestamptz, jitter float8 DEFAULT NULL)
	RETURNS TABLE (delivery_id bigint, attempt int, transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	lease interval := coalesce((SELECT f.delivery_lease FROM ecstats.config f), interval '1 minute');
	cand record;
	d ecstats.deliveries;
	settings jsonb;
	room jsonb := '{}';
	why text;
	claimed int := 0;
BEGIN
	IF worker IS NULL OR worker = '' OR length(worker) > 200 THEN
		RAISE EXCEPTION 'worker must be a name of 1 to 200 characters' USING ERRCODE = '22023';
	ELSIF max_rows IS NULL OR max_rows < 1 OR NOT ecstats.delivery_is_home() THEN
		RETURN;
	END IF;
	INSERT INTO ecstats.channel_state (channel) SELECT c.name FROM ecstats.channels c
		WHERE NOT EXISTS (SELECT FROM ecstats.channel_state s WHERE s.channel = c.name) ORDER BY c.name
		ON CONFLICT DO NOTHING;
	PERFORM ecstats.delivery_lapse(at, jitter);
	PERFORM ecstats.delivery_expire(at);

	FOR cand IN
		SELECT w.id, c.name AS channel
		FROM ecstats.channels c
		JOIN ecstats.channel_kinds k ON k.kind = c.kind
		JOIN ecstats.channel_state s ON s.channel = c.name
		CROSS JOIN LATERAL (SELECT q.id, q.priority, q.next_attempt_at FROM ecstats.deliveries q
			WHERE q.channel = c.name AND q.status = 'pending' AND q.next_attempt_at <= at
			ORDER BY q.priority, q.next_attempt_at, q.id
			LIMIT least(coalesce(((k.options || c.options) ->> 'lane')::numeric, 1), max_rows)) w
		WHERE c.enabled AND coalesce(s.throttled_until <= at, true) AND coalesce(s.paused_until <= at, true)
		ORDER BY w.priority, w.next_attempt_at, w.id
	LOOP
		EXIT WHEN claimed >= max_rows;
		IF NOT room ? cand.channel THEN
			room := room || jsonb_build_object(cand.channel, ecstats.delivery_room(cand.channel, at));
		END IF;
		CONTINUE WHEN (room ->> cand.channel)::int < 1;
		SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = cand.id AND r.status = 'pending' FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		room := room || jsonb_build_object(cand.channel, (room ->> cand.channel)::int - 1);

		delivery_id := d.id;
		attempt := d.requests + 1;
		PERFORM ecstats.delivery_move(d.id, '{pending}', 'sending', at, attempts => d.attempts + 1, worker => worker, lease_until => at + lease);
		INSERT INTO ecstats.delivery_attempts (delivery_id, attempt, channel, started_at, worker) VALUES (d.id, d.requests + 1, d.channel, at, worker);
		settings := ecstats.channel_settings(d.channel);
		allow_private := (settings ->> 'allow_private')::boolean;
		timeout_ms := 1000 * least((settings ->> 'timeout_seconds')::float8, 0.9 * extract(epoch FROM lease)::float8);
		BEGIN
			SELECT q.transport, q.method, q.url, q.headers, q.body INTO transport, method, url, headers, body FROM ecstats.delivery_request(d.id, at) q;
		EXCEPTION WHEN OTHERS THEN
			-- one channel's bad secret must not stop the others
			why := 'the request cannot be made: ' || SQLERRM;
			UPDATE ecstats.delivery_attempts a SET finished_at = at, answered_at = at, result = 'permanent', error = why
				WHERE a.delivery_id = d.id AND a.attempt = d.requests + 1;
			PERFORM ecstats.delivery_conclude(d.id, 'permanent', NULL, why, at, jitter);
			CONTINUE;
		END;
		claimed := claimed + 1;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.delivery_claim_at(text, int, timestamptz, float8) IS
	'ecstats.delivery_claim at the instant at; jitter 0..1 for the back-off of leases that ran out, NULL random.';

CREATE OR REPLACE FUNCTION ecstats.delivery_claim(worker text, max_rows int)
	RETURNS TABLE (delivery_id bigint, attempt int, transport text, method text, url text, headers text[], body text, timeout_ms int, allow_private boolean)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT * FROM ecstats.delivery_claim_at(worker, max_rows, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.delivery_claim(text, int) IS
	'Leases up to max_rows due deliveries to worker, priority first, then age, and returns their requests, ready to send. Commit before sending. '
	'Nothing in a database that is a copy (ecstats_adopt). 22023 when worker is empty.';

-- When a claim may next find something: due rows of open channels, leases and expiries.
CREATE OR REPLACE FUNCTION ecstats.pusher_beat_at(worker text, at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.pushers (worker, version, started_at, last_beat)
		VALUES (pusher_beat_at.worker, substring(current_setting('application_name') FROM '^ecstats-pusher[ /]([0-9][0-9.]{0,20})'), at, at)
		ON CONFLICT ON CONSTRAINT pushers_pkey DO UPDATE SET version = excluded.version, last_beat = excluded.last_beat;
	RETURN CASE WHEN ecstats.delivery_is_home() THEN least(
		(SELECT min(greatest(h.due, s.throttled_until, s.paused_until, s.rate_until, busy.until))
			FROM ecstats.channels c
			JOIN ecstats.channel_kinds k ON k.kind = c.kind
			LEFT JOIN ecstats.channel_state s ON s.channel = c.name
			CROSS JOIN LATERAL (SELECT min(d.next_attempt_at) AS due FROM ecstats.deliveries d WHERE d.channel = c.name AND d.status = 'pending') h
			LEFT JOIN LATERAL (SELECT min(d.lease_until) AS until FROM ecstats.deliveries d WHERE d.channel = c.name AND d.status = 'sending'
				HAVING count(*) >= CASE WHEN s.paused_until IS NULL THEN coalesce(((k.options || c.options) ->> 'lane')::numeric, 1) ELSE 1 END) busy ON true
			WHERE c.enabled AND h.due IS NOT NULL),
		(SELECT min(d.lease_until) FROM ecstats.deliveries d WHERE d.status = 'sending'),
		(SELECT min(d.expires_at) FROM ecstats.deliveries d WHERE d.status = 'pending'),
		ecstats.pipeline_next_due(at)) END;
END $$;
COMMENT ON FUNCTION ecstats.pusher_beat_at(text, timestamptz) IS 'ecstats.pusher_beat at the instant at.';

CREATE OR REPLACE FUNCTION ecstats.pusher_beat(worker text) RETURNS timestamptz
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.pusher_beat_at(worker, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.pusher_beat(text) IS
	'Heartbeat of a pusher. Returns when a claim will next find something (past: now), NULL when nothing is known to come.';
