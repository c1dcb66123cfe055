-- sql/55_pipeline_fetch.sql
-- What the pusher brings from HTTP sources.

-- ecstats.pipeline_elements: the elements in the body of an answer, as the intake takes them.
-- Result: an array; NULL where the body has no such list.
CREATE OR REPLACE FUNCTION ecstats.pipeline_elements(s ecstats.sources, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- the list itself, not its elements: an empty list is one, a missing one is an error
	path jsonpath := regexp_replace(coalesce(s.options ->> 'items', '$'), '\s*\[\s*\*\s*\]\s*$', '');
	found jsonb := jsonb_path_query_array(body, path, '{}', true);
	list jsonb;
BEGIN
	IF found = '[]' THEN
		RETURN NULL;
	END IF;
	list := coalesce((SELECT jsonb_agg(i ORDER BY n, m)
						FROM jsonb_array_elements(found) WITH ORDINALITY AS f(v, n),
							 jsonb_array_elements(CASE jsonb_typeof(f.v) WHEN 'array' THEN f.v WHEN 'null' THEN '[]' ELSE jsonb_build_array(f.v) END)
								WITH ORDINALITY AS e(i, m)), '[]');
	IF s.options ? 'fields' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_fields(i, s.options -> 'fields') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	IF s.target = 'orders' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_order_items(i, s.options -> 'item_fields') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	IF s.options ? 'timezone' THEN
		list := coalesce((SELECT jsonb_agg(ecstats.pipeline_local_times(i, s.options ->> 'timezone') ORDER BY n)
							FROM jsonb_array_elements(list) WITH ORDINALITY AS e(i, n)), '[]');
	END IF;
	RETURN list;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_elements(ecstats.sources, jsonb) IS
	'Elements of the intake in the body of an answer, mapped by the source''s options; NULL where options.items finds nothing.';

-- ecstats.pipeline_fields: an object made of the jsonpaths in fields; what they do not find is left out.
CREATE OR REPLACE FUNCTION ecstats.pipeline_fields(element jsonb, fields jsonb) RETURNS jsonb
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(f.key, v.value), '{}')
	  FROM jsonb_each_text(fields) f
	 CROSS JOIN LATERAL (SELECT jsonb_path_query_first(element, f.value::jsonpath, '{}', true) AS value) v
	 WHERE v.value IS NOT NULL $$;
COMMENT ON FUNCTION ecstats.pipeline_fields(jsonb, jsonb) IS 'An object with a member for each {name: jsonpath} that finds something in element.';

-- ecstats.pipeline_order_items: the items of an order, mapped; an element that is a line gets itself as its item.
CREATE OR REPLACE FUNCTION ecstats.pipeline_order_items(element jsonb, item_fields jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN jsonb_typeof(element) <> 'object' THEN element
		WHEN jsonb_typeof(element -> 'items') = 'array' AND item_fields IS NOT NULL THEN
			jsonb_set(element, '{items}', coalesce((SELECT jsonb_agg(ecstats.pipeline_fields(i, item_fields) ORDER BY n)
				FROM jsonb_array_elements(element -> 'items') WITH ORDINALITY AS e(i, n)), '[]'))
		WHEN element ? 'items' OR NOT element ? 'product_id' THEN element
		ELSE element - '{line_no,product_id,quantity,amount}'::text[] || jsonb_build_object('items', jsonb_build_array(
			coalesce((SELECT jsonb_object_agg(m.key, m.value) FROM jsonb_each(element) m
					   WHERE m.key IN ('line_no', 'product_id', 'quantity', 'amount')), '{}')), 'ecstats.line', true) END $$;
COMMENT ON FUNCTION ecstats.pipeline_order_items(jsonb, jsonb) IS
	'An order with its items mapped by item_fields; an element that is a line becomes an order of one, with member ecstats.line.';

-- ecstats.pipeline_local_times: times without an offset are of a zone.
CREATE OR REPLACE FUNCTION ecstats.pipeline_local_times(element jsonb, zone text) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC' AS $$
DECLARE
	m record;
BEGIN
	IF jsonb_typeof(element) <> 'object' THEN
		RETURN element;
	END IF;
	FOR m IN SELECT e.key, e.value FROM jsonb_each_text(element) e WHERE e.key IN ('timestamp', 'order_time', 'paid_time')
			   AND e.value ~ '^\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?$' LOOP
		BEGIN
			element := jsonb_set(element, ARRAY[m.key], to_jsonb(to_char(m.value::timestamp AT TIME ZONE zone, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
		EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
			NULL;		-- the intake says what is wrong with it
		END;
	END LOOP;
	RETURN element;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_local_times(jsonb, text) IS 'An element whose times without an offset are read by the clock of zone.';

-- ecstats.pipeline_take_page: takes the elements of a page in. Result: rows taken, ids of rejects.
CREATE OR REPLACE FUNCTION ecstats.pipeline_take_page(s ecstats.sources, the_day date, list jsonb, at timestamptz, OUT taken bigint, OUT rejects bigint[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	orders record;
	lines record;
	bad jsonb;
BEGIN
	IF s.target = 'events' THEN
		SELECT t.taken, t.bad INTO taken, bad FROM ecstats.pipeline_take_events(list, s.on_error = 'raise', at) t;
	ELSE
		SELECT * INTO orders FROM ecstats.pipeline_take_orders(coalesce((SELECT jsonb_agg(e) FROM jsonb_array_elements(list) e
			WHERE (e -> 'ecstats.line') IS DISTINCT FROM 'true'), '[]'), s.on_error = 'raise', true);
		SELECT * INTO lines FROM ecstats.pipeline_take_orders(coalesce((SELECT jsonb_agg(e - 'ecstats.line') FROM jsonb_array_elements(list) e
			WHERE e -> 'ecstats.line' = 'true'), '[]'), s.on_error = 'raise', false);
		PERFORM ecstats.pipeline_keys_once(s.name, lines.keys);
		taken := orders.taken + lines.taken;
		bad := orders.bad || lines.bad;
	END IF;
	rejects := CASE WHEN bad = '[]' THEN '{}' ELSE ecstats.pipeline_reject(s.name, the_day, bad) END;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_page(ecstats.sources, date, jsonb, timestamptz) IS 'Takes the elements of a page in: rows taken, ids of rejects.';

-- ecstats.pipeline_next_page: where the next page is, by options.next, the Link header, or the page's number.
-- Result: more, whether there is one, and the URL or the value of {{page}} where the answer names one; reason: why it cannot be followed.
CREATE OR REPLACE FUNCTION ecstats.pipeline_next_page(s ecstats.sources, f ecstats.source_fetches, body jsonb, link text, elements integer,
													  OUT more boolean, OUT url text, OUT value text, OUT reason text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	here text := ecstats.source_url(s, f);
	origin text := lower(substring(here FROM '^https?://[^/?#]+'));
	next jsonb := CASE WHEN s.options ? 'next' THEN jsonb_path_query_first(body, (s.options ->> 'next')::jsonpath, '{}', true) END;
BEGIN
	more := false;
	IF s.options ? 'next' THEN
		CASE coalesce(jsonb_typeof(next), 'null')
			WHEN 'boolean' THEN more := next = 'true';
			WHEN 'number' THEN value := next #>> '{}';
			WHEN 'string' THEN
				url := nullif(next #>> '{}', '');
				IF url !~ '^(https?://|[/?])' THEN
					value := url;
					url := NULL;
				END IF;
			ELSE NULL;
		END CASE;
	ELSIF link IS NOT NULL THEN
		url := (SELECT m[1] FROM regexp_matches(link, '<([^<>]*)>((?:\s*;\s*[^\s;,=]+\s*(?:=\s*(?:"[^"]*"|[^\s;,"]+))?)*)', 'g') m
				 WHERE m[2] ~* ';\s*rel\s*=\s*("([^"]*\s)?next(\s[^"]*)?"|next\s*(;|$))' LIMIT 1);
	ELSE
		more := s.url LIKE '%{{page}}%' AND elements > 0;
	END IF;
	IF url IS NOT NULL THEN
		url := CASE WHEN url ~* '^https?://' THEN url
					WHEN url ~ '^//' THEN split_part(here, '//', 1) || url
					WHEN url ~ '^/' THEN substring(here FROM '^https?://[^/?#]+') || url
					WHEN url ~ '^\?' THEN regexp_replace(here, '[?#].*$', '') || url
					ELSE regexp_replace(regexp_replace(here, '[?#].*$', ''), '(^https?://[^/]+.*/)[^/]*$', '\1') || url END;
		IF lower(substring(url FROM '^https?://[^/?#]+')) IS DISTINCT FROM origin OR url ~ '[[:cntrl:]\s]' OR octet_length(url) > 8000 THEN
			reason := format('the next page is not at the same scheme and host: %s', left(url, 200));
		ELSIF url = here THEN
			reason := 'the next page is the same page';
		END IF;
		more := reason IS NULL;
	ELSIF value IS NOT NULL THEN
		more := s.url LIKE '%{{page}}%';
		IF NOT more THEN
			reason := 'options.next finds a page, but the URL has no {{page}}';
		ELSIF value = f.next_value OR octet_length(value) > 2000 THEN
			more := false;
			reason := 'the next page is the same page';
		END IF;
	END IF;
	IF more AND f.page >= coalesce((s.options ->> 'max_pages')::integer, 1000) THEN
		more := false;
		reason := format('there are more than %s pages', f.page);
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_next_page(ecstats.sources, ecstats.source_fetches, jsonb, text, integer) IS
	'Where the next page of a fetch is: by options.next (URL, value of {{page}}, true), the Link header (same scheme and host), or one more until an empty page; reason: why it cannot be followed.';

-- ecstats.pipeline_failed_fetch: gives up, with the reason, and tells the operators.
CREATE OR REPLACE FUNCTION ecstats.pipeline_failed_fetch(s ecstats.sources, f ecstats.source_fetches) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_tell_operators('source ' || s.name, 'fetch ' || f.fetch_id,
		format('Source %s: the fetch of %s failed', s.name, f.day), t.error)
	  FROM ecstats.source_fetches t WHERE t.fetch_id = f.fetch_id $$;
COMMENT ON FUNCTION ecstats.pipeline_failed_fetch(ecstats.sources, ecstats.source_fetches) IS 'Tells the operators'' channel of a fetch that failed.';

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

-- ecstats.pipeline_received: takes an answer with status 2xx in. Result: next, done, retry or failed.
CREATE OR REPLACE FUNCTION ecstats.pipeline_received(s ecstats.sources, f ecstats.source_fetches, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	content text := coalesce(result ->> 'body', '');
	link text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'link');
	body jsonb;
	list jsonb;
	part record;
	next record;
BEGIN
	BEGIN
		body := CASE WHEN content ~ '^\s*$' THEN '[]' ELSE content::jsonb END;
	EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
		RETURN ecstats.source_back(f, coalesce((s.options ->> 'max_retries')::integer, 3),
			format('page %s: the answer is no JSON: %s', f.page, ecstats.source_mask(left(content, 200), s)), NULL, at);
	END;
	list := CASE WHEN content ~ '^\s*$' THEN '[]' ELSE ecstats.pipeline_elements(s, body) END;
	IF list IS NULL AND f.page = 1 THEN
		f.error := format('options.items (%s) finds nothing in the answer: %s', coalesce(s.options ->> 'items', '$'), ecstats.source_mask(left(content, 200), s));
		PERFORM ecstats.source_move(f, 'failed', at);
		RETURN 'failed';
	END IF;
	list := coalesce(list, '[]');
	SELECT * INTO part FROM ecstats.pipeline_take_page(s, f.day, list, at);
	SELECT * INTO next FROM ecstats.pipeline_next_page(s, f, body, link, jsonb_array_length(list));

	f.pages := f.pages + 1;
	f.rows := f.rows + part.taken;
	f.rejects := f.rejects || part.rejects;
	f.attempts := 0;
	f.error := ecstats.source_mask(next.reason, s);
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
	PERFORM ecstats.source_move(f, 'done', at);
	PERFORM ecstats.pipeline_unreject(s.name, f.day, f.rejects);
	PERFORM ecstats.source_ran(s.name, f.day, f.rows, ecstats.source_watermark(s, f.day, f.created_at), at);
	RETURN 'done';
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_received(ecstats.sources, ecstats.source_fetches, jsonb, timestamptz) IS
	'Takes the body of a page in and decides what is next: next, done, retry (no JSON) or failed.';

-- ecstats.pipeline_receive: ecstats.source_receive at an instant.
CREATE OR REPLACE FUNCTION ecstats.pipeline_receive(the_worker text, the_fetch bigint, the_page integer, result jsonb, at timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f ecstats.source_fetches;
	s ecstats.sources;
	status integer := (result ->> 'http_status')::numeric;
	kind text := result ->> 'error_kind';
	told text;
	outcome text;
	more text;
	wait text := (SELECT h.value FROM jsonb_each_text(CASE jsonb_typeof(result -> 'headers') WHEN 'object' THEN result -> 'headers' END) h WHERE lower(h.key) = 'retry-after');
BEGIN
	SELECT * INTO f FROM ecstats.source_fetches t WHERE t.fetch_id = the_fetch FOR UPDATE;
	IF NOT FOUND OR f.state <> 'fetching' OR f.worker IS DISTINCT FROM the_worker OR f.page IS DISTINCT FROM the_page THEN
		RETURN 'ignored';
	END IF;
	SELECT * INTO s FROM ecstats.sources r WHERE r.name = f.source FOR NO KEY UPDATE;
	told := ecstats.source_mask(concat_ws(': ', format('page %s', f.page), 'HTTP ' || status, kind, nullif(left(result ->> 'error', 300), ''),
										   CASE WHEN status NOT BETWEEN 200 AND 299 THEN nullif(left(result ->> 'body', 200), '') END), s);
	IF s.name IS NULL THEN
		f.error := 'the source was deleted';
	ELSIF coalesce((result ->> 'truncated')::boolean, false) OR kind = 'too_large' THEN
		f.error := format('page %s: the answer has more than %s bytes (options.max_bytes)', f.page, coalesce(s.options ->> 'max_bytes', '10000000'));
	ELSIF kind IS NULL AND status BETWEEN 200 AND 299 THEN
		BEGIN
			outcome := ecstats.pipeline_received(s, f, result, at);
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS told = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
			f.error := ecstats.source_mask(concat_ws('. ', format('page %s: %s', f.page, told), nullif(more, '')), s);
		END;
	ELSIF kind = 'refused_address' OR (kind IS NULL AND status BETWEEN 100 AND 499 AND status NOT IN (408, 425, 429)) THEN
		f.error := told;
	ELSE
		outcome := ecstats.source_back(f, coalesce((s.options ->> 'max_retries')::integer, 3), told, ecstats.pipeline_wait(wait, at), at);
	END IF;
	IF outcome IS NULL THEN
		PERFORM ecstats.source_move(f, 'failed', at);
		outcome := 'failed';
	END IF;
	IF outcome = 'failed' THEN
		PERFORM ecstats.pipeline_failed_fetch(s, f);
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
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT c.* FROM ecstats.source_claim_at(worker, CASE WHEN ecstats.delivery_is_home() THEN max_rows ELSE 0 END, clock_timestamp()) c $$;
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
