-- sql/55_pipeline_fetch.sql
-- What the pusher brings from HTTP sources.

-- ecstats.pipeline_failed_fetch: gives up, with the reason, and tells the operators.
CREATE OR REPLACE FUNCTION ecstats.pipeline_failed_fetch(the_source text, f ecstats.source_fetches) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_tell_operators('source ' || the_source, 'fetch ' || f.fetch_id,
		format('Source %s: the fetch of %s failed', the_source, f.day), t.error)
	  FROM ecstats.source_fetches t WHERE t.fetch_id = f.fetch_id $$;
COMMENT ON FUNCTION ecstats.pipeline_failed_fetch(text, ecstats.source_fetches) IS 'Tells the operators'' channel of a fetch that failed.';

-- ecstats.pipeline_wait: the Retry-After header, seconds or an HTTP date, as an interval; NULL where there is none.
CREATE OR REPLACE FUNCTION ecstats.pipeline_wait(header text, at timestamptz) RETURNS interval
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'GMT' SET datestyle = 'ISO, DMY' AS $$
BEGIN
	IF header ~ '^\s*\d{1,9}\s*$' THEN
		RETURN make_interval(secs => header::numeric);
	ELSIF header ~ '^\s*\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\s*$' THEN
		RETURN header::timestamptz - at;
	END IF;
	RETURN NULL;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_wait(text, timestamptz) IS 'How long a Retry-After header asks to wait; NULL where it says nothing.';

-- ecstats.pipeline_limit: which limit an answer passed, as words: the one of options.max_bytes, or the pusher's, which
-- keeps no more than that of a page. A broken off answer ends at a character.
CREATE OR REPLACE FUNCTION ecstats.pipeline_limit(body text, max_bytes integer) RETURNS text
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN octet_length(convert_to(body, 'UTF8')) < max_bytes - 3
				THEN format('the pusher''s max_fetch, of which it kept %s bytes (options.max_bytes is %s)', octet_length(convert_to(body, 'UTF8')), max_bytes)
				ELSE format('%s bytes (options.max_bytes)', max_bytes) END $$;
COMMENT ON FUNCTION ecstats.pipeline_limit(text, integer) IS 'Which limit of bytes an answer passed of which body was kept.';

-- ecstats.pipeline_received: takes an answer with status 2xx in. Result: next, done, retry or failed.
CREATE OR REPLACE FUNCTION ecstats.pipeline_received(s ecstats.sources, f ecstats.source_fetches, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	content text := coalesce(result ->> 'body', '');
	status integer := (result ->> 'http_status')::numeric;
	link text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'link');
	body jsonb;
	list jsonb;
	part record;
	next record;
BEGIN
	BEGIN
		-- No content is a page without rows only where the answer says so (204): an empty 200 is no JSON.
		body := CASE WHEN status = 204 AND content ~ '^\s*$' THEN '[]' ELSE content::jsonb END;
	EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
		RETURN ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3),
			format('page %s: the answer is no JSON: %s', f.page, coalesce(nullif(ecstats.source_excerpt(content, s, 200), ''), 'it is empty')), NULL, at);
	END;
	list := CASE WHEN status = 204 AND content ~ '^\s*$' THEN '[]' ELSE ecstats.pipeline_elements(s, body) END;
	IF list IS NULL AND f.page > 1 THEN
		-- Page 1 had it: an error in an answer with status 200 is not the end of the pages.
		RETURN ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3),
			format('page %s: options.items (%s) finds nothing in the answer: %s', f.page, coalesce(s.options ->> 'items', '$'), ecstats.source_excerpt(content, s, 200)), NULL, at);
	ELSIF list IS NULL THEN
		f.error := format('options.items (%s) finds nothing in the answer: %s', coalesce(s.options ->> 'items', '$'), ecstats.source_excerpt(content, s, 200));
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	END IF;
	SELECT * INTO part FROM ecstats.pipeline_take_page(s, f, list, at);
	SELECT * INTO next FROM ecstats.pipeline_next_page(s, f, body, link, jsonb_array_length(list));

	f.pages := f.pages + 1;
	f.rows := f.rows + part.taken;
	f.rejects := f.rejects || part.rejects;
	f.attempts := 0;
	f.error := next.reason;
	IF next.reason IS NOT NULL THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	ELSIF next.more THEN
		f.page := f.page + 1;
		f.next_url := next.url;
		f.next_value := next.value;
		f.next_attempt_at := at;
		PERFORM ecstats.source_move(f, 'pending', at);
		RETURN 'next';
	END IF;
	PERFORM ecstats.pipeline_orders_end(f.fetch_id);
	PERFORM ecstats.source_move(f, 'done', at);
	PERFORM ecstats.pipeline_unreject(s.name, f.day, f.rejects);
	PERFORM ecstats.source_ran(s.name, f.day, f.rows, ecstats.source_watermark(s, f.day, f.created_at), at);
	RETURN 'done';
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_received(ecstats.sources, ecstats.source_fetches, jsonb, timestamptz) IS
	'Takes the body of a page in and decides what is next: next, done, retry (no JSON, a later page without a list) or failed.';

-- ecstats.pipeline_receive: ecstats.source_receive at an instant.
CREATE OR REPLACE FUNCTION ecstats.pipeline_receive(the_worker text, the_fetch bigint, the_page integer, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	status integer := (result ->> 'http_status')::numeric;
	kind text := result ->> 'error_kind';
	told text;
	wrong text;
	outcome text;
	more text;
	wait text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'retry-after');
BEGIN
	SELECT * INTO f FROM ecstats.source_fetches t WHERE t.fetch_id = the_fetch FOR UPDATE;
	IF NOT FOUND OR f.state <> 'fetching' OR f.worker IS DISTINCT FROM the_worker OR f.page IS DISTINCT FROM the_page THEN
		RETURN 'ignored';
	END IF;
	SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source FOR NO KEY UPDATE;
	told := concat_ws(': ', format('page %s', f.page), 'HTTP ' || status, kind, nullif(ecstats.source_excerpt(result ->> 'error', s, 300), ''),
					  CASE WHEN status NOT BETWEEN 200 AND 299 THEN nullif(ecstats.source_excerpt(result ->> 'body', s, 200), '') END);
	wrong := CASE WHEN s.name IS NULL THEN 'the source was deleted'
				  WHEN f.asks_since IS DISTINCT FROM s.asks_since THEN 'the source was changed while it was fetched'
				  WHEN kind IS NULL AND status BETWEEN 200 AND 299 THEN ecstats.source_problem(s) END;
	IF wrong IS NOT NULL THEN
		f.error := wrong;
	ELSIF coalesce((result ->> 'truncated')::boolean, false) OR kind = 'too_large' THEN
		f.error := format('page %s: the answer has more than %s', f.page, ecstats.pipeline_limit(result ->> 'body', ecstats.source_number(s.options, 'max_bytes', 10000000)));
	ELSIF kind IS NULL AND status BETWEEN 200 AND 299 THEN
		BEGIN
			outcome := ecstats.pipeline_received(s, f, result, at);
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS told = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
			f.error := ecstats.source_excerpt(concat_ws('. ', format('page %s: %s', f.page, told), nullif(more, '')), s, 1000);
		END;
	ELSIF kind = 'refused_address' OR (kind IS NULL AND status BETWEEN 100 AND 499 AND status NOT IN (408, 425, 429)) THEN
		f.error := told;
	ELSE
		outcome := ecstats.source_back(f, ecstats.source_number(s.options, 'max_retries', 3), told, ecstats.pipeline_wait(wait, at), at);
	END IF;
	IF outcome IS NULL THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		outcome := 'failed';
	END IF;
	IF outcome = 'failed' THEN
		PERFORM ecstats.pipeline_failed_fetch(f.source, f);
	END IF;
	RETURN outcome;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_receive(text, bigint, integer, jsonb, timestamptz) IS 'ecstats.source_receive at the instant at.';

-- ecstats.source_claim: leases pages that are due to a pusher. Commit before asking.
-- Arguments: worker, the pusher's name; max_rows. Result: complete requests; headers are "Name: value" lines.
-- Nothing in a database that is a copy (ecstats_adopt). Errors: 22023 worker is empty. Touches source_fetches.
CREATE OR REPLACE FUNCTION ecstats.source_claim(worker text, max_rows integer)
	RETURNS TABLE (fetch_id bigint, page integer, method text, url text, headers text[], timeout_ms integer, allow_private boolean, max_bytes bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at timestamptz := clock_timestamp();
BEGIN
	RETURN QUERY SELECT c.* FROM ecstats.source_claim_at(worker, CASE WHEN ecstats.delivery_is_home() THEN max_rows ELSE 0 END, at) c;
	PERFORM ecstats.pipeline_failed_fetch(f.source, f) FROM ecstats.source_fetches f WHERE f.finished_at = at AND f.state = 'failed';
END
$$;
COMMENT ON FUNCTION ecstats.source_claim(text, integer) IS
	'Leases up to max_rows pages of HTTP sources that are due to worker and returns their requests. Commit before asking.';

-- ecstats.source_receive: takes in what a request of source_claim brought.
-- Arguments: worker, fetch_id and page as claimed; result {http_status, error_kind, error, headers, body, truncated,
-- elapsed_ms}. Result: next (another page is due), done, retry (put back), failed, ignored (not this worker's any more,
-- or received before). Touches source_fetches, sources, events, order_lines, rejects, deliveries.
CREATE OR REPLACE FUNCTION ecstats.source_receive(worker text, fetch_id bigint, page integer, result jsonb) RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.pipeline_receive(worker, fetch_id, page, result, clock_timestamp()) $$;
COMMENT ON FUNCTION ecstats.source_receive(text, bigint, integer, jsonb) IS
	'Takes the answer to a request of ecstats.source_claim in: next, done, retry, failed or ignored.';

-- ecstats.pipeline_next_due: what else the pusher is to wake up for: source_next_due, for its heartbeat.
CREATE OR REPLACE FUNCTION ecstats.pipeline_next_due(at timestamptz) RETURNS timestamptz
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.source_next_due(at) $$;
COMMENT ON FUNCTION ecstats.pipeline_next_due(timestamptz) IS 'When a page of an HTTP source is due next; NULL when none waits.';
