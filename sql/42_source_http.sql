-- sql/42_source_http.sql
-- Fetches of HTTP sources: requests, leases, what an answer means. The pusher carries, nothing more.

-- ecstats.source_url: the URL of a fetch's next page.
CREATE OR REPLACE FUNCTION ecstats.source_url(s ecstats.sources, f ecstats.source_fetches) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	page text := coalesce(f.next_value, (ecstats.source_number(s.options, 'first_page', 1) + f.page - 1)::text);
	iso text := 'YYYY-MM-DD"T"HH24:MI:SS"Z"';
	url text := s.url;
BEGIN
	IF f.next_url IS NOT NULL THEN
		RETURN f.next_url;
	END IF;
	url := replace(url, '{{date}}', to_char(f.day, 'YYYY-MM-DD'));
	url := replace(url, '{{from}}', ecstats.source_percent(to_char(ecstats.day_start(f.day) AT TIME ZONE 'UTC', iso)));
	url := replace(url, '{{to}}', ecstats.source_percent(to_char(ecstats.day_start(f.day + 1) AT TIME ZONE 'UTC', iso)));
	RETURN replace(url, '{{page}}', ecstats.source_percent(page));
END
$$;
COMMENT ON FUNCTION ecstats.source_url(ecstats.sources, ecstats.source_fetches) IS 'The URL of the next page of a fetch, placeholders filled in and percent-encoded.';

-- ecstats.source_move: the only writer of a fetch's state.
CREATE OR REPLACE FUNCTION ecstats.source_move(f ecstats.source_fetches, to_state text, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.source_fetches t
	   SET state = to_state, page = f.page, pages = f.pages, rows = f.rows, attempts = f.attempts, next_attempt_at = f.next_attempt_at,
		   error = f.error, next_url = f.next_url, next_value = f.next_value, rejects = f.rejects,
		   asks_since = f.asks_since, lease_until = CASE to_state WHEN 'fetching' THEN f.lease_until END,
		   worker = CASE to_state WHEN 'fetching' THEN f.worker ELSE t.worker END,
		   finished_at = CASE WHEN to_state IN ('done', 'failed') THEN at END
	 WHERE t.fetch_id = f.fetch_id AND t.state = f.state
	   AND (t.state, to_state) IN (('pending', 'fetching'), ('pending', 'failed'), ('fetching', 'pending'), ('fetching', 'done'), ('fetching', 'failed'));
	IF NOT FOUND THEN
		RAISE EXCEPTION 'fetch % cannot go from % to %', f.fetch_id, f.state, to_state USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	IF to_state IN ('done', 'failed') THEN
		DELETE FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id;
	END IF;
	IF to_state = 'failed' THEN
		UPDATE ecstats.sources s SET last_error = left(f.error, 1000), last_day = f.day, last_run_at = at WHERE s.name = f.source;
	END IF;
	IF to_state = 'pending' THEN
		NOTIFY ecstats_deliveries;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.source_move(ecstats.source_fetches, text, timestamptz) IS
	'Moves a fetch from the state in f to another one, writing what else f says; 55000 for a step that does not exist.';

-- ecstats.source_queue: queues the fetch of a day, or finds the one that has not begun yet.
CREATE OR REPLACE FUNCTION ecstats.source_queue(source text, day date, at timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	-- What has not begun yet reads what is there from now on. A pusher that just claims it was there first.
	SELECT f.fetch_id INTO id FROM ecstats.source_fetches f
	 WHERE f.source = source_queue.source AND f.day = source_queue.day AND f.state = 'pending' AND f.page = 1 AND f.attempts = 0
	 ORDER BY f.fetch_id LIMIT 1 FOR UPDATE SKIP LOCKED;
	UPDATE ecstats.source_fetches f SET created_at = at WHERE f.fetch_id = id;
	IF id IS NULL THEN
		INSERT INTO ecstats.source_fetches (source, day, next_attempt_at, created_at) VALUES (source, day, at, at) RETURNING fetch_id INTO id;
	END IF;
	NOTIFY ecstats_deliveries;
	RETURN id;
END
$$;
COMMENT ON FUNCTION ecstats.source_queue(text, date, timestamptz) IS 'Queues the fetch of a day of an HTTP source, whose row is locked, and returns its id.';

-- ecstats.source_back: puts a fetch back for another attempt, or fails it after the last one.
-- Back-off 1, 2, 4 … minutes; wait (the server's own word) instead, 1 second to 1 hour. Result: retry or failed.
CREATE OR REPLACE FUNCTION ecstats.source_back(f ecstats.source_fetches, max_retries integer, reason text, wait interval, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	f.attempts := f.attempts + 1;
	f.error := reason;
	IF f.attempts > max_retries THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	END IF;
	f.next_attempt_at := at + least(greatest(coalesce(wait, interval '1 minute' * 2 ^ (f.attempts - 1)), interval '1 second'), interval '1 hour');
	PERFORM ecstats.source_move(f, 'pending', at);
	RETURN 'retry';
END
$$;
COMMENT ON FUNCTION ecstats.source_back(ecstats.source_fetches, integer, text, interval, timestamptz) IS
	'After a failed attempt: pending again, after wait or 1, 2, 4 ... minutes (retry), or failed after the last.';

-- ecstats.source_obstacle: why the next page of a fetch may not be asked for; NULL: it may. It is where the URL of
-- page 1 led: with the secret of another URL nobody goes there.
CREATE OR REPLACE FUNCTION ecstats.source_obstacle(f ecstats.source_fetches, s ecstats.sources) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN s.name IS NULL THEN 'the source was deleted'
				WHEN f.page > 1 AND f.asks_since IS DISTINCT FROM s.asks_since THEN 'the source was changed while it was fetched'
				ELSE ecstats.source_problem(s) END $$;
COMMENT ON FUNCTION ecstats.source_obstacle(ecstats.source_fetches, ecstats.sources) IS
	'Why the next page of a fetch may not be asked for: the source is gone, another one by now, or wrong; NULL: it may.';

-- ecstats.source_resume: a fetch as its next page is claimed. Without what its pages brought (a dump does not take that
-- along) it begins anew, which changes nothing.
CREATE OR REPLACE FUNCTION ecstats.source_resume(f ecstats.source_fetches, s ecstats.sources) RETURNS ecstats.source_fetches
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF s.target = 'orders' AND (SELECT count(*) FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id) < f.pages THEN
		f.page := 1;
		f.pages := 0;
		f.rows := 0;
		f.rejects := '{}';
		f.next_url := NULL;
		f.next_value := NULL;
	END IF;
	f.asks_since := s.asks_since;
	RETURN f;
END
$$;
COMMENT ON FUNCTION ecstats.source_resume(ecstats.source_fetches, ecstats.sources) IS
	'A fetch as its next page is claimed: from page 1 again where what its pages brought is not there.';

-- ecstats.source_claim_at: leases pages that are due. One fetch of a source at a time, in their order.
CREATE OR REPLACE FUNCTION ecstats.source_claim_at(worker text, max_rows integer, at timestamptz)
	RETURNS TABLE (fetch_id bigint, page integer, method text, url text, headers text[], timeout_ms integer, allow_private boolean, max_bytes bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	wrong text;
	first bigint;
BEGIN
	IF worker IS NULL OR worker = '' OR length(worker) > 200 THEN
		RAISE EXCEPTION 'worker must be a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR f IN SELECT * FROM ecstats.source_fetches t WHERE t.state = 'fetching' AND t.lease_until <= at ORDER BY t.fetch_id FOR UPDATE SKIP LOCKED LOOP
		PERFORM ecstats.source_back(f, ecstats.source_number((SELECT r.options FROM ecstats.sources r WHERE r.name = f.source), 'max_retries', 3),
									format('page %s: no answer before the lease ran out', f.page), interval '1 second', at);
	END LOOP;
	FOR first IN SELECT min(t.fetch_id) FROM ecstats.source_fetches t WHERE t.state IN ('pending', 'fetching') GROUP BY t.source ORDER BY 1 LOOP
		EXIT WHEN coalesce(max_rows, 0) < 1;
		SELECT * INTO f FROM ecstats.source_fetches t
		 WHERE t.fetch_id = first AND t.state = 'pending' AND t.next_attempt_at <= at FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source;
		CONTINUE WHEN FOUND AND NOT s.enabled;
		wrong := ecstats.source_obstacle(f, s);
		IF wrong IS NOT NULL THEN
			f.error := wrong;
			PERFORM ecstats.source_move(f, 'failed', at);
			CONTINUE;
		END IF;
		PERFORM ecstats.source_pin(s);
		f := ecstats.source_resume(f, s);
		f.worker := worker;
		f.lease_until := at + s.timeout + interval '10 minutes';
		PERFORM ecstats.source_move(f, 'fetching', at);
		max_rows := max_rows - 1;

		fetch_id := f.fetch_id;
		page := f.page;
		method := 'GET';
		url := ecstats.source_url(s, f);
		headers := s.headers || CASE WHEN s.secret IS NULL THEN '{}'
			WHEN s.options ? 'secret_header' THEN ARRAY[(s.options ->> 'secret_header') || ': ' || s.secret]
			ELSE ARRAY['Authorization: Bearer ' || s.secret] END;
		IF NOT EXISTS (SELECT FROM unnest(headers) h WHERE h ~* '^accept:') THEN
			headers := ARRAY['Accept: application/json'] || headers;
		END IF;
		timeout_ms := extract(epoch FROM s.timeout) * 1000;
		allow_private := coalesce((s.options ->> 'allow_private')::boolean, false);
		max_bytes := ecstats.source_number(s.options, 'max_bytes', 10000000);
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.source_claim_at(text, integer, timestamptz) IS 'ecstats.source_claim at the instant at. Returns credentials: for the pusher alone.';

-- ecstats.source_next_due: when a claim may next find something; NULL: nothing is waiting.
CREATE OR REPLACE FUNCTION ecstats.source_next_due(at timestamptz) RETURNS timestamptz
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(CASE f.state WHEN 'fetching' THEN f.lease_until ELSE f.next_attempt_at END)
	  FROM ecstats.source_fetches f
	  JOIN ecstats.sources s ON s.name = f.source AND s.enabled
	 WHERE f.fetch_id IN (SELECT min(t.fetch_id) FROM ecstats.source_fetches t WHERE t.state IN ('pending', 'fetching') GROUP BY t.source) $$;
COMMENT ON FUNCTION ecstats.source_next_due(timestamptz) IS 'When ecstats.source_claim may next find something (past: now); NULL when nothing waits.';
