-- sql/47_delivery.sql
-- A delivery's states and how it gets into the queue: enqueue, tell the operators, push, replay,
-- cancel; and the home check. Answers are judged in 48, requests are made in 49.

-- The only writer of deliveries.status. Asserts where the row comes from; NULL arguments keep the column.
CREATE OR REPLACE FUNCTION ecstats.delivery_move(delivery bigint, from_status text[], to_status text, at timestamptz,
	next_attempt_at timestamptz DEFAULT NULL, attempts int DEFAULT NULL, error text DEFAULT NULL,
	worker text DEFAULT NULL, lease_until timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.deliveries d SET
		status = to_status,
		moves = d.moves + 1,
		requests = d.requests + (to_status = 'sending')::int,
		attempts = coalesce(delivery_move.attempts, d.attempts),
		next_attempt_at = coalesce(delivery_move.next_attempt_at, d.next_attempt_at),
		expires_at = coalesce(delivery_move.expires_at, d.expires_at),
		worker = coalesce(delivery_move.worker, d.worker),
		lease_until = CASE WHEN to_status = 'sending' THEN delivery_move.lease_until END,
		sent_at = CASE WHEN to_status = 'sent' THEN at END,
		settled_at = CASE WHEN to_status NOT IN ('pending', 'sending') THEN at END,
		last_error = coalesce(delivery_move.error, d.last_error)
	WHERE d.id = delivery AND d.status = ANY (from_status);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'delivery % cannot become %', delivery, to_status
			USING ERRCODE = '55000',
				DETAIL = coalesce((SELECT format('It is %s; it would have to be %s.', d.status, array_to_string(from_status, ' or '))
					FROM ecstats.deliveries d WHERE d.id = delivery), 'There is no such delivery.');
	END IF;
END $$;
COMMENT ON FUNCTION ecstats.delivery_move(bigint, text[], text, timestamptz, timestamptz, int, text, text, timestamptz, timestamptz) IS
	'Moves a delivery from one of from_status to to_status at the instant at. 55000 when it is in another state or absent.';

CREATE OR REPLACE FUNCTION ecstats.delivery_enqueue(report text, day date, revision int, occasion text, channel text,
	priority int, ttl interval, body jsonb, due timestamptz, source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	open boolean;
	oversize text;
	id bigint;
BEGIN
	due := coalesce(due, now());
	SELECT c.enabled INTO open FROM ecstats.channels c WHERE c.name = delivery_enqueue.channel FOR KEY SHARE;
	IF open IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF NOT open THEN
		RAISE EXCEPTION 'channel "%" is disabled', channel USING ERRCODE = '22023',
			HINT = 'Set ecstats.channels.enabled, or send to another channel.';
	ELSIF priority IS NULL OR priority NOT BETWEEN 1 AND 9 THEN
		RAISE EXCEPTION 'priority must be 1 to 9' USING ERRCODE = '22023', DETAIL = format('It is %s.', coalesce(priority::text, 'NULL')),
			HINT = '1 goes first, 5 is usual.';
	ELSIF ttl <= interval '0' THEN
		RAISE EXCEPTION 'ttl must be longer than 0' USING ERRCODE = '22023', DETAIL = format('It is %s.', ttl),
			HINT = 'NULL never expires.';
	ELSIF jsonb_typeof(body) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'the body of a delivery must be a JSON object' USING ERRCODE = '22023',
			DETAIL = format('It is %s.', coalesce(jsonb_typeof(body), 'NULL'));
	END IF;
	oversize := ecstats.channel_oversize(channel, body);
	IF oversize IS NOT NULL THEN
		RAISE EXCEPTION 'message is too long for channel "%"', channel USING ERRCODE = '22001', DETAIL = oversize,
			HINT = 'Shorten it, for example with the template filter truncate.';
	END IF;

	INSERT INTO ecstats.deliveries AS d (report, day, revision, occasion, channel, priority, next_attempt_at, expires_at, body, source)
		VALUES (delivery_enqueue.report, delivery_enqueue.day, coalesce(delivery_enqueue.revision, 0), coalesce(delivery_enqueue.occasion, ''),
			delivery_enqueue.channel, delivery_enqueue.priority, due, due + ttl, delivery_enqueue.body, delivery_enqueue.source)
		ON CONFLICT DO NOTHING
		RETURNING d.id INTO id;
	IF id IS NOT NULL THEN
		PERFORM pg_notify('ecstats_deliveries', '');
	ELSIF NOT EXISTS (SELECT FROM ecstats.deliveries d WHERE (d.source, d.occasion) = (delivery_enqueue.source, delivery_enqueue.occasion)
		OR (d.report, d.day, d.revision, d.occasion, d.channel) = (delivery_enqueue.report, delivery_enqueue.day,
			coalesce(delivery_enqueue.revision, 0), coalesce(delivery_enqueue.occasion, ''), delivery_enqueue.channel))
	THEN
		-- not this message: a message is never lost in silence
		RAISE EXCEPTION 'the next id of ecstats.deliveries is taken' USING ERRCODE = '23505', TABLE = 'deliveries', SCHEMA = 'ecstats',
			HINT = 'SELECT setval(''ecstats.deliveries_id_seq'', (SELECT max(id) FROM ecstats.deliveries)) after a restore without sequences.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION ecstats.delivery_enqueue(text, date, int, text, text, int, interval, jsonb, timestamptz, text) IS
	'Queues a finished, unsigned body for a channel, due at due (NULL: now), expiring ttl later (NULL: never). Returns the id, or NULL when (report, day, revision, occasion, channel) '
	'or (source, occasion) is there. 42704 unknown channel, 22023 disabled channel, priority, ttl or body, 22001 too long. NOTIFY ecstats_deliveries.';

-- Telling must not break what it tells of: whatever goes wrong here is a warning.
CREATE OR REPLACE FUNCTION ecstats.delivery_tell_operators(source text, occasion text, subject text, detail text) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	operators text := (SELECT c.operators_channel FROM ecstats.config c);
	body jsonb;
BEGIN
	IF operators IS NULL THEN
		RETURN NULL;
	END IF;
	subject := left(subject, 100);
	detail := left(coalesce(detail, ''), 500);
	body := ecstats.channel_envelope(operators, jsonb_build_object('type', 'ecstats.alert', 'source', source, 'occasion', occasion,
		'title', subject, 'text', rtrim(subject || E'\n' || detail, E'\n'), 'markdown', rtrim('**' || subject || E'**\n\n' || detail, E'\n')));
	RETURN ecstats.delivery_enqueue(NULL, NULL, 0, occasion, operators, 2, interval '1 day', body, NULL, coalesce(source, 'ecstats'));
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'the operators could not be told: %', SQLERRM USING ERRCODE = SQLSTATE;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.delivery_tell_operators(text, text, text, text) IS
	'Queues a message to config.operators_channel, once per (source, occasion), for a day. Returns its id; NULL when no channel is set, it was told before, or it cannot be told (a warning).';

CREATE OR REPLACE FUNCTION ecstats.delivery_replay(delivery bigint, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d ecstats.deliveries;
BEGIN
	SELECT * INTO d FROM ecstats.deliveries r WHERE r.id = delivery FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'delivery % does not exist', delivery USING ERRCODE = 'P0002',
			HINT = 'Settled deliveries are dropped after config.log_retention.';
	END IF;
	PERFORM FROM ecstats.channels c WHERE c.name = d.channel FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'channel "%" does not exist', d.channel USING ERRCODE = '42704',
			DETAIL = format('Delivery %s went there.', delivery);
	END IF;
	PERFORM ecstats.delivery_move(delivery, '{dead,expired,cancelled,sent}', 'pending', at, next_attempt_at => at, attempts => 0,
		expires_at => at + (d.expires_at - d.created_at));
	PERFORM pg_notify('ecstats_deliveries', '');
	RETURN delivery;
END $$;
COMMENT ON FUNCTION ecstats.delivery_replay(bigint, timestamptz) IS
	'Puts a settled delivery back to pending with all its attempts and its ttl anew. P0002 no such delivery, 42704 its channel is gone, 55000 it is not settled.';

CREATE OR REPLACE FUNCTION ecstats.delivery_is_home() RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (SELECT FROM ecstats.home h, pg_control_system() s
		WHERE h.system_identifier = s.system_identifier AND h.database = current_database());
END $$;
COMMENT ON FUNCTION ecstats.delivery_is_home() IS 'Whether this is the database that was created or adopted, not a copy of it elsewhere.';

-- ecstats_push(channel, message, priority, ttl)
-- Purpose: send anything. Arguments: a channel; a neutral message ({"title", "text", "markdown", ...})
-- or one in the provider's own form; 1 (first) to 9; how long it is worth sending, NULL for ever.
-- Result: the delivery's id. Errors: 42704, 22023, 22001. Tables: deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_push(channel text, message jsonb, priority int DEFAULT 5, ttl interval DEFAULT NULL) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', channel, priority, ttl, ecstats.channel_envelope(channel, message), now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_push(text, jsonb, int, interval) IS
	'Queues message for channel; priority 1 (first) to 9; ttl NULL never expires. Returns the delivery''s id. 42704 unknown channel, 22023 bad argument, 22001 too long for the provider.';

-- ecstats_replay(delivery_id): send a settled delivery again, with all its attempts.
-- Result: the id. Errors: P0002, 55000. Tables: deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_replay(delivery_id bigint) RETURNS bigint
	LANGUAGE sql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_replay(delivery_id, now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay(bigint) IS
	'Sends a dead, expired, cancelled or sent delivery again. Returns its id. P0002 no such delivery, 55000 it is still pending or being sent.';

-- ecstats_replay(channel, since, until): send again what failed of a time.
-- Arguments: deliveries created in [since, until). Result: how many. Errors: 42704. Tables: deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_replay(channel text, since timestamptz, until timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM ecstats.channels c WHERE c.name = ecstats_replay.channel) THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704';
	END IF;
	RETURN (SELECT count(ecstats.delivery_replay(f.id, now())) FROM (
		SELECT d.id FROM ecstats.deliveries d
		WHERE d.channel = ecstats_replay.channel AND d.status IN ('dead', 'expired') AND d.created_at >= since AND d.created_at < until
		ORDER BY d.id FOR UPDATE) f);
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay(text, timestamptz, timestamptz) IS
	'Sends the dead and expired deliveries of channel that were created in [since, until) again. Returns how many. 42704 unknown channel.';

-- ecstats_cancel(delivery_id): take back what is pending.
-- Result: true when it was pending, false when it is too late or absent. Tables: deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_cancel(delivery_id bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM FROM ecstats.deliveries d WHERE d.id = delivery_id AND d.status = 'pending' FOR UPDATE;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM ecstats.delivery_move(delivery_id, '{pending}', 'cancelled', now());
	RETURN true;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_cancel(bigint) IS 'Cancels a pending delivery. true when done, false when it is not pending (any more) or does not exist.';

-- ecstats_channel_test(channel): send a short test message, first in the queue, for an hour.
-- Result: the delivery's id. Errors: 42704, 22023. Tables: deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_channel_test(channel text) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.delivery_enqueue(NULL, NULL, 0, '', channel, 1, interval '1 hour', ecstats.channel_envelope(channel,
		jsonb_build_object('type', 'ecstats.test', 'title', 'ecstats', 'text', format('ecstats test: channel %s of database %s', channel, current_database()))), now()) $$;
COMMENT ON FUNCTION @extschema@.ecstats_channel_test(text) IS 'Queues a test message for channel. Returns the delivery''s id; ecstats.deliveries and delivery_attempts say how it went.';

-- ecstats_adopt(): let a copied or restored database deliver. What is pending then leaves: cancel first
-- what its origin sends already. Result: true when it was a copy. Tables: home.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_adopt() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	was_home boolean := ecstats.delivery_is_home();
BEGIN
	INSERT INTO ecstats.home AS h (system_identifier, database) SELECT s.system_identifier, current_database() FROM pg_control_system() s
		ON CONFLICT (singleton) DO UPDATE SET system_identifier = excluded.system_identifier, database = excluded.database, adopted_at = now()
		WHERE NOT was_home;
	PERFORM pg_notify('ecstats_deliveries', '');
	RETURN NOT was_home;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_adopt() IS 'Makes this database the one whose messages leave. true when it was a copy of another, false when nothing changed.';

-- What is settled and old goes, with its attempts (a trigger takes them along).
CREATE OR REPLACE FUNCTION ecstats.delivery_prune(before timestamptz, max_rows int) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone bigint;
BEGIN
	DELETE FROM ecstats.deliveries d WHERE d.id IN (
		SELECT o.id FROM ecstats.deliveries o WHERE o.settled_at < before ORDER BY o.settled_at LIMIT max_rows FOR UPDATE SKIP LOCKED);
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END $$;
COMMENT ON FUNCTION ecstats.delivery_prune(timestamptz, int) IS
	'Deletes at most max_rows deliveries that were settled before an instant; returns how many.';
