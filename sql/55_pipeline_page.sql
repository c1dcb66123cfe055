-- sql/55_pipeline_page.sql
-- A page of an HTTP source: its elements, what becomes of them, where the next one is.

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
CREATE OR REPLACE FUNCTION ecstats.pipeline_take_page(s ecstats.sources, f ecstats.source_fetches, list jsonb, at timestamptz, OUT taken bigint, OUT rejects bigint[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	whole jsonb;
	single jsonb;
	orders record;
	lines record;
	bad jsonb;
BEGIN
	IF s.target = 'events' THEN
		SELECT t.taken, t.bad INTO taken, bad FROM ecstats.pipeline_take_events(list, s.on_error = 'raise', at) t;
	ELSE
		DELETE FROM ecstats.source_pages p WHERE p.fetch_id = f.fetch_id AND p.page >= f.page;
		SELECT coalesce(jsonb_agg(e ORDER BY n) FILTER (WHERE (e -> 'ecstats.line') IS DISTINCT FROM 'true'), '[]'),
			   coalesce(jsonb_agg(e - 'ecstats.line' ORDER BY n) FILTER (WHERE e -> 'ecstats.line' = 'true'), '[]')
		  INTO whole, single FROM jsonb_array_elements(list) WITH ORDINALITY AS t(e, n);
		PERFORM ecstats.order_lock(whole);
		PERFORM ecstats.pipeline_orders_once(s.name, whole || single, f.fetch_id);
		SELECT * INTO orders FROM ecstats.pipeline_take_orders(whole, s.on_error = 'raise');
		SELECT * INTO lines FROM ecstats.pipeline_take_orders(single, s.on_error = 'raise');
		PERFORM ecstats.pipeline_keys_once(s.name, lines.keys);
		INSERT INTO ecstats.source_pages (fetch_id, page, order_ids, order_times, keys)
		VALUES (f.fetch_id, f.page, orders.order_ids, orders.order_times, orders.keys || lines.keys);
		taken := orders.taken + lines.taken;
		bad := orders.bad || lines.bad;
	END IF;
	rejects := CASE WHEN bad = '[]' THEN '{}' ELSE ecstats.pipeline_reject(s.name, f.day, bad) END;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_take_page(ecstats.sources, ecstats.source_fetches, jsonb, timestamptz) IS
	'Takes the elements of a page in and notes its orders: rows taken, ids of rejects.';

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
			reason := format('the next page is not at the same scheme and host: %s', ecstats.source_excerpt(url, s, 200));
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
	IF more AND f.page >= ecstats.source_number(s.options, 'max_pages', 1000) THEN
		more := false;
		reason := format('there are more than %s pages', f.page);
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_next_page(ecstats.sources, ecstats.source_fetches, jsonb, text, integer) IS
	'Where the next page of a fetch is: by options.next (URL, value of {{page}}, true), the Link header (same scheme and host), or one more until an empty page; reason: why it cannot be followed.';

