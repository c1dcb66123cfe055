-- sql/42_source_check.sql
-- What the settings of a source may be.

-- ecstats.source_wrong: raises that a setting of a source is wrong.
CREATE OR REPLACE FUNCTION ecstats.source_wrong(source text, what text, hint text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION 'invalid setting of source "%"', source USING ERRCODE = 'invalid_parameter_value', DETAIL = what || '.', HINT = hint;
END
$$;
COMMENT ON FUNCTION ecstats.source_wrong(text, text, text) IS 'Raises 22023: what is wrong with a source, and the cure.';

-- ecstats.source_options_check: the options that its kind knows, each of its type.
CREATE OR REPLACE FUNCTION ecstats.source_options_check(s ecstats.sources) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known jsonb := CASE s.kind WHEN 'query' THEN '{"replace": "boolean", "replace_empty": "boolean"}'
		ELSE '{"items": "jsonpath", "next": "jsonpath", "fields": "jsonpaths", "item_fields": "jsonpaths", "first_page": "number", "max_pages": "number",
			   "max_bytes": "number", "max_retries": "number", "timezone": "string", "secret_header": "string", "allow_private": "boolean"}' END::jsonb;
	low jsonb := '{"first_page": 0, "max_pages": 1, "max_bytes": 1, "max_retries": 0}';
	most jsonb := '{"first_page": 1000000000, "max_pages": 100000, "max_bytes": 100000000, "max_retries": 20}';
	o record;
	path text;
BEGIN
	FOR o IN SELECT e.key, e.value, known ->> e.key AS type, jsonb_typeof(e.value) AS given FROM jsonb_each(s.options) e ORDER BY e.key LOOP
		IF o.type IS NULL THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is unknown for kind %s', left(o.key, 60), s.kind),
				'It knows ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(known) k) || '.');
		ELSIF o.given <> (CASE o.type WHEN 'jsonpath' THEN 'string' WHEN 'jsonpaths' THEN 'object' ELSE o.type END) THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is of JSON type %s', o.key, o.given), format('It is %s.', CASE o.type WHEN 'jsonpaths' THEN 'an object of jsonpaths' ELSE 'a ' || o.type END));
		END IF;
		IF o.type IN ('jsonpath', 'jsonpaths') THEN
			FOR path IN SELECT CASE o.type WHEN 'jsonpath' THEN o.value #>> '{}' END WHERE o.type = 'jsonpath'
						UNION ALL SELECT f.value #>> '{}' FROM jsonb_each(CASE o.type WHEN 'jsonpaths' THEN o.value END) f LOOP
				BEGIN
					PERFORM path::jsonpath;
				EXCEPTION WHEN syntax_error OR invalid_text_representation THEN
					PERFORM ecstats.source_wrong(s.name, format('options.%s: %L is no jsonpath', o.key, left(path, 60)), 'A path begins with $, such as $.data.orders.');
				END;
			END LOOP;
		ELSIF most ? o.key AND NOT (o.value::numeric BETWEEN (low ->> o.key)::numeric AND (most ->> o.key)::numeric AND o.value::numeric % 1 = 0) THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is %s', o.key, left(o.value::text, 60)), format('It is a whole number from %s to %s.', low ->> o.key, most ->> o.key));
		END IF;
	END LOOP;
	IF NOT ecstats.timezone_valid(coalesce(s.options ->> 'timezone', 'UTC')) THEN
		PERFORM ecstats.source_wrong(s.name, format('options.timezone is %L', left(s.options ->> 'timezone', 60)), 'Use an IANA name such as Asia/Shanghai.');
	ELSIF s.options ->> 'secret_header' !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.secret_header is no name of a header', 'Such as X-Api-Key.');
	ELSIF s.options ? 'replace_empty' AND (s.options -> 'replace') IS DISTINCT FROM 'true' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.replace_empty without options.replace', 'It says what replace does on a day without rows.');
	ELSIF s.kind = 'query' AND s.target = 'events' AND s.options -> 'replace' = 'true' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.replace is for orders', 'Events are append-only.');
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.source_options_check(ecstats.sources) IS 'Raises 22023 for an option that the source''s kind does not know, or of a wrong type.';

-- ecstats.source_check: everything that a CHECK cannot say clearly.
CREATE OR REPLACE FUNCTION ecstats.source_check(s ecstats.sources) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	PERFORM ecstats.source_check_query(s.query), ecstats.source_check_query(s.watermark_query);
	IF s.kind = 'http' AND s.url IS NOT NULL THEN
		bad := (SELECT m[1] FROM regexp_matches(s.url, '\{\{(.*?)\}\}', 'g') m WHERE m[1] NOT IN ('date', 'page', 'from', 'to') LIMIT 1);
		IF bad IS NOT NULL THEN
			PERFORM ecstats.source_wrong(s.name, format('the URL has {{%s}}', left(bad, 60)), 'It knows {{date}}, {{from}}, {{to}} and {{page}}.');
		ELSIF substring(s.url FROM '^https?://([^/?#]*)') ~ '\{\{' THEN
			PERFORM ecstats.source_wrong(s.name, 'the URL''s host has a placeholder', 'Put placeholders into path and query.');
		ELSIF substring(s.url FROM '^https?://([^/?#]*)') ~ '\\' THEN
			PERFORM ecstats.source_wrong(s.name, 'the URL''s host has a backslash', 'Write https://host/path.');
		END IF;
	END IF;
	bad := (SELECT h FROM unnest(s.headers) h WHERE (h !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+: [^[:cntrl:]]*$') IS NOT FALSE OR octet_length(h) > 8000 LIMIT 1);
	IF bad IS NOT NULL OR array_position(s.headers, NULL) IS NOT NULL THEN
		PERFORM ecstats.source_wrong(s.name, format('the header %L is no header', left(split_part(bad, ':', 1), 60)), 'Write "Name: value" in one line.');
	END IF;
	PERFORM ecstats.source_options_check(s);
END
$$;
COMMENT ON FUNCTION ecstats.source_check(ecstats.sources) IS
	'Raises when a source''s query (42601, 22023), URL, headers or options (22023) are wrong.';

-- ecstats.source_problem: why nothing may be fetched for a source: one that was not written through its checks, as by a
-- restore, fails alone and does not stop the others. Result: NULL when all is well.
CREATE OR REPLACE FUNCTION ecstats.source_problem(s ecstats.sources) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	what text;
	more text;
BEGIN
	IF s.kind <> 'http' THEN
		RETURN format('the source is of kind %s', s.kind);
	ELSIF s.url ~ '[[:cntrl:]]' OR s.secret ~ '[[:cntrl:]]' THEN
		RETURN 'url or secret has a control character';
	END IF;
	PERFORM ecstats.source_check(s);
	RETURN NULL;
EXCEPTION WHEN data_exception OR syntax_error OR program_limit_exceeded THEN
	GET STACKED DIAGNOSTICS what = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(': ', what, nullif(more, ''));
END
$$;
COMMENT ON FUNCTION ecstats.source_problem(ecstats.sources) IS 'What is wrong with the settings of an HTTP source, as source_check says it; NULL when nothing is.';

-- ecstats.source_number: an option that is a number, or what holds without it.
CREATE OR REPLACE FUNCTION ecstats.source_number(options jsonb, name text, otherwise integer) RETURNS integer
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN jsonb_typeof(options -> name) = 'number' AND abs((options ->> name)::numeric) < 2e9
				THEN trunc((options ->> name)::numeric)::integer ELSE otherwise END $$;
COMMENT ON FUNCTION ecstats.source_number(jsonb, text, integer) IS 'A numeric option of a source, otherwise where it is missing or no number. Never raises.';

-- A broken CHECK or NOT NULL prints its row, to the client and into the server's log, credentials included: so what the
-- table says is asked here before, of a row that has some.
CREATE OR REPLACE FUNCTION ecstats.source_shape() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text := (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = 'ecstats.sources'::regclass AND a.attnotnull AND a.attnum > 0
				   AND (SELECT count(*) FROM jsonb_each(to_jsonb(NEW)) e WHERE e.key = a.attname AND e.value <> 'null') = 0 ORDER BY a.attnum LIMIT 1);
	hidden text := 'The row is not shown: url, headers and secret are credentials.';
BEGIN
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'null value in column "%" of relation "sources" violates not-null constraint', wrong
			USING ERRCODE = 'not_null_violation', SCHEMA = 'ecstats', TABLE = 'sources', COLUMN = wrong, DETAIL = hidden, HINT = 'Give it a value.';
	END IF;
	EXECUTE (SELECT format('SELECT c.rule FROM (SELECT ($1).*) AS s, LATERAL (VALUES %s) c(rule, holds) WHERE NOT c.holds ORDER BY c.rule LIMIT 1',
						   string_agg(format('(%L, %s)', c.conname, pg_get_expr(c.conbin, c.conrelid)), ', '))
			   FROM pg_constraint c WHERE c.conrelid = 'ecstats.sources'::regclass AND c.contype = 'c') INTO wrong USING NEW;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'new row for relation "sources" violates check constraint "%"', wrong
			USING ERRCODE = 'check_violation', SCHEMA = 'ecstats', TABLE = 'sources', CONSTRAINT = wrong, DETAIL = hidden,
				  HINT = 'The name of the constraint says what holds.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.source_shape() IS
	'Trigger of ecstats.sources: the table''s CHECKs (23514) and NOT NULLs (23502) for a row with credentials, without showing it.';
CREATE TRIGGER source_shape BEFORE INSERT OR UPDATE ON ecstats.sources
	FOR EACH ROW WHEN (NEW.url IS NOT NULL OR NEW.secret IS NOT NULL OR NEW.headers <> '{}') EXECUTE FUNCTION ecstats.source_shape();
