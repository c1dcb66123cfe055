-- sql/48_delivery_answer.sql
-- What an answer means, by the rules of the channel's kind. Nothing here writes.

-- Hides a channel's credentials: its secrets, its URL, and of the URL what can be a key.
CREATE OR REPLACE FUNCTION ecstats.delivery_mask(content text, url text, secret text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	tail text := substring(url FROM '^\w+://[^/?#]*(.+)$');
	word text;
BEGIN
	IF content IS NULL THEN
		RETURN NULL;
	END IF;
	FOR word IN
		SELECT w FROM (
			SELECT unnest(ARRAY[secret, url, tail, substring(url FROM '^\w+://([^/@]+)@')]) AS w
			UNION ALL SELECT regexp_replace(s, '^whsec_', '') FROM regexp_split_to_table(secret, '\s+') s
			UNION ALL SELECT s FROM regexp_split_to_table(split_part(tail, '?', 1), '/') s WHERE length(s) >= 8 OR length(s) >= 4 AND s ~ '\d'
			UNION ALL SELECT substring(s FROM '=(.*)$') FROM regexp_split_to_table(substring(tail FROM '\?(.*)$'), '&') s) c
		WHERE length(w) >= 4 ORDER BY length(w) DESC, w
	LOOP
		content := replace(content, word, '***');
	END LOOP;
	RETURN regexp_replace(content, '(\m(?:sign|sig|key|token|access_token)=)[^&\s"''<>]+', '\1***', 'g');
END $$;
COMMENT ON FUNCTION ecstats.delivery_mask(text, text, text) IS 'content without the secrets, the URL and the keys in it (each becomes ***).';

CREATE OR REPLACE FUNCTION ecstats.delivery_cut(content text, bytes int) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	content := left(content, bytes);
	WHILE octet_length(content) > bytes LOOP
		content := left(content, -greatest(1, (octet_length(content) - bytes) / 4));
	END LOOP;
	RETURN content;
END $$;
COMMENT ON FUNCTION ecstats.delivery_cut(text, int) IS 'The first characters of content that fit into bytes.';

-- The document that the kinds' rules look at. Not parallel safe: parsing what may not be JSON takes a
-- subtransaction.
CREATE OR REPLACE FUNCTION ecstats.delivery_answer(fact jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	response text := fact ->> 'response';
	body jsonb := to_jsonb(response);
BEGIN
	IF response ~ '^\s*[\[{"0-9ntf-]' THEN
		BEGIN
			body := response::jsonb;
		EXCEPTION WHEN OTHERS THEN
			NULL;			-- then it is text
		END;
	END IF;
	RETURN jsonb_build_object('http_status', fact -> 'http_status', 'error_kind', fact -> 'error_kind', 'body', body, 'headers',
		coalesce((SELECT jsonb_object_agg(lower(h.key), h.value) FROM jsonb_each(CASE jsonb_typeof(fact -> 'headers') WHEN 'object' THEN fact -> 'headers' END) h), '{}'));
END $$;
COMMENT ON FUNCTION ecstats.delivery_answer(jsonb) IS 'A result of the pusher as {"http_status", "error_kind", "body", "headers"}; body is parsed where it is JSON, header names are lower case.';

CREATE OR REPLACE FUNCTION ecstats.delivery_code(kind ecstats.channel_kinds, answer jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	path jsonpath;
	code jsonb;
BEGIN
	FOREACH path IN ARRAY coalesce(kind.code_paths, '{}') LOOP
		code := jsonb_path_query_first(answer, path, '{}', true);
		EXIT WHEN code IS NOT NULL;
	END LOOP;
	RETURN left(code #>> '{}', 64);
END $$;
COMMENT ON FUNCTION ecstats.delivery_code(ecstats.channel_kinds, jsonb) IS 'The provider''s own code in an answer, as text; NULL when there is none.';

-- What an answer means. A transport failure before the request was sent is harmless, after it the
-- message may have been shown. 2xx without the provider's own word is never success.
CREATE OR REPLACE FUNCTION ecstats.delivery_classify(kind ecstats.channel_kinds, answer jsonb, request_sent boolean) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN answer ->> 'error_kind' = 'refused_address' THEN 'permanent'
	WHEN answer ->> 'http_status' IS NULL AND NOT COALESCE(request_sent, true) THEN 'retryable'
	WHEN answer ->> 'http_status' IS NULL THEN 'unconfirmed'
	WHEN answer @@ (kind).success THEN 'sent'
	WHEN answer @@ (kind).throttle THEN 'throttled'
	WHEN answer @@ (kind).retry_once THEN 'once'
	WHEN answer @@ (kind).permanent THEN 'permanent'
	WHEN answer @@ (kind).retryable THEN 'retryable'
	WHEN (answer ->> 'http_status')::int BETWEEN 200 AND 299 AND ecstats.delivery_code(kind, answer) IS NULL THEN 'unconfirmed'
	ELSE 'retryable' END;
COMMENT ON FUNCTION ecstats.delivery_classify(ecstats.channel_kinds, jsonb, boolean) IS
	'sent, throttled, once, permanent, retryable or unconfirmed, by the kind''s rules. An unknown code is retryable; 2xx without a code is unconfirmed.';

-- Seconds (a fraction is allowed) or an HTTP date.
CREATE OR REPLACE FUNCTION ecstats.delivery_wait(kind ecstats.channel_kinds, answer jsonb, at timestamptz) RETURNS interval
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET timezone = 'UTC' AS $$
DECLARE
	said text;
	seconds float8;
BEGIN
	FOR said IN
		SELECT jsonb_path_query_first(answer, kind.wait_path, '{}', true) #>> '{}'
		UNION ALL SELECT btrim(answer -> 'headers' ->> h) FROM unnest(kind.wait_headers) h
	LOOP
		IF said ~ '^\d{1,9}(\.\d{1,9})?$' THEN
			seconds := said::float8;
		ELSIF said ~ '^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$' THEN
			BEGIN
				seconds := extract(epoch FROM to_timestamp(substr(said, 6, 20), 'DD Mon YYYY HH24:MI:SS') - at);
			EXCEPTION WHEN data_exception THEN
				NULL;		-- no such date: as if it said nothing
			END;
		END IF;
		EXIT WHEN seconds IS NOT NULL;
	END LOOP;
	RETURN CASE WHEN seconds IS NOT NULL THEN make_interval(secs => least(greatest(seconds, 1), 3600)) END;
END $$;
COMMENT ON FUNCTION ecstats.delivery_wait(ecstats.channel_kinds, jsonb, timestamptz) IS
	'How long the provider asks to wait (wait_path, then wait_headers: seconds or an HTTP date), within 1 second to 1 hour; NULL when it does not say.';

CREATE OR REPLACE FUNCTION ecstats.delivery_backoff(attempts int, jitter float8) RETURNS interval
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.make_interval(secs => 60 * 2 ^ (LEAST(attempts, 7) - 1) * (0.8 + 0.4 * jitter));
COMMENT ON FUNCTION ecstats.delivery_backoff(int, float8) IS
	'Wait after the attempts-th failure: 1, 2, 4, ... minutes (at most 64), less or more by 20 % as jitter goes from 0 to 1.';
