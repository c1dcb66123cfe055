-- sql/42_source_http.sql
-- Fetches of HTTP sources: requests, leases, what an answer means. The pusher carries, nothing more.

-- ecstats.source_percent: text as it stands in a URL.
CREATE OR REPLACE FUNCTION ecstats.source_percent(value text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9._~-]$' THEN c
		ELSE (SELECT string_agg('%' || upper(lpad(to_hex(get_byte(b, i)), 2, '0')), '' ORDER BY i)
				FROM convert_to(c, 'UTF8') b, generate_series(0, length(b) - 1) i) END, '' ORDER BY n), '')
	  FROM regexp_split_to_table(value, '') WITH ORDINALITY AS t(c, n) $$;
COMMENT ON FUNCTION ecstats.source_percent(text) IS 'Percent-encodes everything but unreserved characters.';

-- ecstats.source_url: the URL of a fetch's next page.
CREATE OR REPLACE FUNCTION ecstats.source_url(s ecstats.sources, f ecstats.source_fetches) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	page text := coalesce(f.next_value, (coalesce((s.options ->> 'first_page')::numeric, 1) + f.page - 1)::text);
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

-- ecstats.source_mask: text without the credentials of a source.
CREATE OR REPLACE FUNCTION ecstats.source_mask(content text, s ecstats.sources) RETURNS text
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	word text;
BEGIN
	FOR word IN SELECT w FROM (SELECT s.secret AS w
			UNION ALL SELECT regexp_replace(h, '^[^:]*:\s*((Bearer|Basic|Token)\s+)?', '', 'i') FROM unnest(s.headers) h
			UNION ALL SELECT substring(s.url FROM '^\w+://([^/@]+)@')
			UNION ALL SELECT substring(q FROM '=(.*)$') FROM regexp_split_to_table(substring(s.url FROM '\?(.*)$'), '&') q WHERE q !~ '\{\{') c
		WHERE length(w) >= 4 ORDER BY length(w) DESC, w LOOP
		content := replace(content, word, '***');
	END LOOP;
	RETURN regexp_replace(content, '(\m(?:sign|sig|key|api_?key|token|access_token|secret|password)=)[^&\s"''<>]+', '\1***', 'gi');
END
$$;
COMMENT ON FUNCTION ecstats.source_mask(text, ecstats.sources) IS 'content with the source''s secret, header values and keys in its URL replaced by ***.';

-- ecstats.source_move: the only writer of a fetch's state.
CREATE OR REPLACE FUNCTION ecstats.source_move(f ecstats.source_fetches, to_state text, at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.source_fetches t
	   SET state = to_state, page = f.page, pages = f.pages, rows = f.rows, attempts = f.attempts, next_attempt_at = f.next_attempt_at,
		   error = f.error, next_url = f.next_url, next_value = f.next_value, rejects = f.rejects,
		   lease_until = CASE to_state WHEN 'fetching' THEN f.lease_until END,
		   worker = CASE to_state WHEN 'fetching' THEN f.worker ELSE t.worker END,
		   finished_at = CASE WHEN to_state IN ('done', 'failed') THEN at END
	 WHERE t.fetch_id = f.fetch_id AND t.state = f.state
	   AND (t.state, to_state) IN (('pending', 'fetching'), ('pending', 'failed'), ('fetching', 'pending'), ('fetching', 'done'), ('fetching', 'failed'));
	IF NOT FOUND THEN
		RAISE EXCEPTION 'fetch % cannot go from % to %', f.fetch_id, f.state, to_state USING ERRCODE = 'object_not_in_prerequisite_state';
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
	id bigint := (SELECT min(f.fetch_id) FROM ecstats.source_fetches f
				   WHERE f.source = source_queue.source AND f.day = source_queue.day AND f.state = 'pending' AND f.page = 1 AND f.attempts = 0);
BEGIN
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

-- ecstats.source_claim_at: leases pages that are due. One fetch of a source at a time, in their order.
CREATE OR REPLACE FUNCTION ecstats.source_claim_at(worker text, max_rows integer, at timestamptz)
	RETURNS TABLE (fetch_id bigint, page integer, method text, url text, headers text[], timeout_ms integer, allow_private boolean, max_bytes bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	first bigint;
BEGIN
	IF worker IS NULL OR worker = '' OR length(worker) > 200 THEN
		RAISE EXCEPTION 'worker must be a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR f IN SELECT * FROM ecstats.source_fetches t WHERE t.state = 'fetching' AND t.lease_until <= at ORDER BY t.fetch_id FOR UPDATE SKIP LOCKED LOOP
		PERFORM ecstats.source_back(f, coalesce((SELECT (r.options ->> 'max_retries')::integer FROM ecstats.sources r WHERE r.name = f.source), 3),
									format('page %s: no answer before the lease ran out', f.page), interval '1 second', at);
	END LOOP;
	FOR first IN SELECT min(t.fetch_id) FROM ecstats.source_fetches t WHERE t.state IN ('pending', 'fetching') GROUP BY t.source ORDER BY 1 LOOP
		EXIT WHEN coalesce(max_rows, 0) < 1;
		SELECT * INTO f FROM ecstats.source_fetches t
		 WHERE t.fetch_id = first AND t.state = 'pending' AND t.next_attempt_at <= at FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source;
		IF NOT FOUND THEN
			f.error := 'the source was deleted';
			PERFORM ecstats.source_move(f, 'failed', at);
			CONTINUE;
		END IF;
		CONTINUE WHEN NOT s.enabled;
		f.worker := worker;
		f.lease_until := at + s.timeout + interval '30 seconds';
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
		max_bytes := coalesce((s.options ->> 'max_bytes')::bigint, 10000000);
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
