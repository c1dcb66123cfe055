-- sql/42_source_mask.sql
-- What of an answer may be shown: excerpts without the credentials of the source.

-- ecstats.source_percent: text as it stands in a URL.
CREATE OR REPLACE FUNCTION ecstats.source_percent(value text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9._~-]$' THEN c
		ELSE (SELECT string_agg('%' || upper(lpad(to_hex(get_byte(b, i)), 2, '0')), '' ORDER BY i)
				FROM convert_to(c, 'UTF8') b, generate_series(0, length(b) - 1) i) END, '' ORDER BY n), '')
	  FROM regexp_split_to_table(value, '') WITH ORDINALITY AS t(c, n) $$;
COMMENT ON FUNCTION ecstats.source_percent(text) IS 'Percent-encodes everything but unreserved characters.';

-- ecstats.source_unpercent: what a percent-encoded text says; NULL where it is no text.
CREATE OR REPLACE FUNCTION ecstats.source_unpercent(value text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT convert_from(decode(string_agg(CASE WHEN m[1] ~ '^%..$' THEN substr(m[1], 2) ELSE encode(convert_to(m[1], 'UTF8'), 'hex') END, '' ORDER BY n), 'hex'), 'UTF8')
			  FROM regexp_matches(value, '%[0-9A-Fa-f]{2}|.', 'g') WITH ORDINALITY AS t(m, n));
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.source_unpercent(text) IS 'A percent-encoded text decoded; NULL where that is no text.';

-- ecstats.source_secrets: what must not be shown of a source, in the forms in which an answer or an error may repeat it:
-- as it is, percent-encoded either way, in base64, inside a JSON string. The longest first.
CREATE OR REPLACE FUNCTION ecstats.source_secrets(s ecstats.sources) RETURNS SETOF text
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH written(w) AS (
		SELECT s.secret
		UNION ALL SELECT regexp_replace(h, '^[^:]*:\s*((Bearer|Basic|Token)\s+)?', '', 'i') FROM unnest(s.headers) h
		UNION ALL SELECT u FROM substring(s.url FROM '^\w+://([^/?#]+)@') u
		UNION ALL SELECT substring(u FROM ':(.*)$') FROM substring(s.url FROM '^\w+://([^/?#]+)@') u
		UNION ALL SELECT substring(q FROM '=(.*)$') FROM regexp_split_to_table(substring(s.url FROM '\?([^#]*)'), '&') q WHERE q !~ '\{\{'
	), words AS (
		SELECT w FROM written UNION SELECT ecstats.source_unpercent(w) FROM written WHERE w ~ '%'
	)
	SELECT v FROM (
		SELECT DISTINCT f.v FROM words CROSS JOIN LATERAL (SELECT ecstats.source_percent(w) AS p, translate(encode(convert_to(w, 'UTF8'), 'base64'), E'\n', '') AS b,
																   to_json(w)::text AS j) e
		 CROSS JOIN LATERAL (VALUES (w), (e.p), (replace(e.p, '%20', '+')),
			((SELECT string_agg(CASE WHEN m[1] ~ '^%..$' THEN lower(m[1]) ELSE m[1] END, '' ORDER BY n) FROM regexp_matches(e.p, '%..|.', 'g') WITH ORDINALITY AS t(m, n))),
			(e.b), (rtrim(e.b, '=')), (translate(e.b, '+/=', '-_')), (substring(e.j FROM 2 FOR length(e.j) - 2)),
			(replace(substring(e.j FROM 2 FOR length(e.j) - 2), '/', '\/'))) f(v)
		 WHERE length(w) >= 4) a
	 WHERE length(v) >= 4 ORDER BY length(v) DESC, v $$;
COMMENT ON FUNCTION ecstats.source_secrets(ecstats.sources) IS
	'The secret, header values and keys in the URL of a source, of 4 characters and more, in the forms in which they may be repeated; the longest first.';

-- ecstats.source_excerpt: the beginning of a text that came from outside, without credentials. What a cut may have
-- left of a credential goes with it: first masked, then cut.
CREATE OR REPLACE FUNCTION ecstats.source_excerpt(content text, s ecstats.sources, most integer) RETURNS text
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	words text[] := ARRAY(SELECT ecstats.source_secrets(s));
	longest integer := coalesce(length(words[1]), 0);		-- nothing longer is left of one at the end of part
	part text := left(content, most + 4 * longest + 1000);
	word text;
BEGIN
	FOREACH word IN ARRAY words LOOP
		part := replace(part, word, '***');
	END LOOP;
	IF length(content) > most + 4 * longest + 1000 THEN
		part := left(part, greatest(length(part) - longest, 0));
	END IF;
	part := regexp_replace(part, '(\m(?:sign|sig|key|api_?key|token|access_token|secret|password)=)[^&\s"''<>]+', '\1***', 'gi');
	RETURN left(part, most);
END
$$;
COMMENT ON FUNCTION ecstats.source_excerpt(text, ecstats.sources, integer) IS
	'At most so many characters of content, with the source''s secret, header values and keys in its URL replaced by ***.';
