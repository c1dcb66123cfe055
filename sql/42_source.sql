-- sql/42_source.sql
-- Sources: who may write which, what is accepted, how far each has come.

-- The guard runs as the writer: current_user in a plain trigger cannot be claimed by a caller.
CREATE OR REPLACE FUNCTION ecstats.source_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	super boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
	me oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
	IF TG_OP <> 'INSERT' AND NOT super AND (OLD.owner <> current_user OR coalesce(OLD.owner_id, me) <> me) THEN
		RAISE EXCEPTION 'source "%" belongs to another role', OLD.name
			USING ERRCODE = 'insufficient_privilege', DETAIL = format('Its owner is "%s".', OLD.owner),
				  HINT = 'Take another name, or ask its owner or a superuser.';
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	IF NOT super OR NEW.owner IS NULL THEN
		NEW.owner := current_user;
	END IF;
	IF TG_OP = 'INSERT' OR (NEW.owner, NEW.query, NEW.watermark_query) IS DISTINCT FROM (OLD.owner, OLD.query, OLD.watermark_query) THEN
		NEW.owner_id := CASE WHEN current_setting('check_function_bodies')::boolean
							 THEN (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.owner) END;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.source_guard() IS
	'Trigger of ecstats.sources that runs as the writer: forces the owner, refuses another role''s source (42501).';

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
	known jsonb := CASE s.kind WHEN 'query' THEN '{"replace": "boolean"}'
		ELSE '{"items": "jsonpath", "next": "jsonpath", "fields": "jsonpaths", "item_fields": "jsonpaths", "first_page": "number", "max_pages": "number",
			   "max_bytes": "number", "max_retries": "number", "timezone": "string", "secret_header": "string", "allow_private": "boolean"}' END::jsonb;
	most jsonb := '{"max_pages": 100000, "max_bytes": 100000000, "max_retries": 20}';
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
		ELSIF most ? o.key AND NOT (o.value::numeric BETWEEN 0 AND (most ->> o.key)::numeric AND o.value::numeric % 1 = 0) THEN
			PERFORM ecstats.source_wrong(s.name, format('options.%s is %s', o.key, left(o.value::text, 60)), format('It is a whole number up to %s.', most ->> o.key));
		END IF;
	END LOOP;
	IF NOT ecstats.timezone_valid(coalesce(s.options ->> 'timezone', 'UTC')) THEN
		PERFORM ecstats.source_wrong(s.name, format('options.timezone is %L', left(s.options ->> 'timezone', 60)), 'Use an IANA name such as Asia/Shanghai.');
	ELSIF s.options ->> 'secret_header' !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' THEN
		PERFORM ecstats.source_wrong(s.name, 'options.secret_header is no name of a header', 'Such as X-Api-Key.');
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
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = s.owner) THEN
		RAISE EXCEPTION 'role "%" of source "%" does not exist', s.owner, s.name USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE first.';
	END IF;
	PERFORM ecstats.source_check_query(s.query), ecstats.source_check_query(s.watermark_query);
	IF s.kind = 'http' AND s.url IS NOT NULL THEN
		bad := (SELECT m[1] FROM regexp_matches(s.url, '\{\{(.*?)\}\}', 'g') m WHERE m[1] NOT IN ('date', 'page', 'from', 'to') LIMIT 1);
		IF bad IS NOT NULL THEN
			PERFORM ecstats.source_wrong(s.name, format('the URL has {{%s}}', left(bad, 60)), 'It knows {{date}}, {{from}}, {{to}} and {{page}}.');
		ELSIF split_part(regexp_replace(s.url, '^https?://', ''), '/', 1) ~ '\{\{' THEN
			PERFORM ecstats.source_wrong(s.name, 'the URL''s host has a placeholder', 'Put placeholders into path and query.');
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
	'Raises when a source''s owner (42704), query (42601, 22023), URL, headers or options (22023) are wrong.';

-- Runs as the extension's owner: a writer of sources need not be able to call the checks.
CREATE OR REPLACE FUNCTION ecstats.source_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF current_setting('check_function_bodies')::boolean THEN		-- not a restore
		PERFORM ecstats.source_check(NEW);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.source_settle() IS 'Trigger of ecstats.sources: checks the row, after its CHECKs.';

CREATE TRIGGER source_guard BEFORE INSERT OR UPDATE OR DELETE ON ecstats.sources
	FOR EACH ROW EXECUTE FUNCTION ecstats.source_guard();
CREATE TRIGGER source_settle AFTER INSERT OR UPDATE OF name, kind, target, owner, query, watermark_query, url, headers, options ON ecstats.sources
	FOR EACH ROW EXECUTE FUNCTION ecstats.source_settle();

-- ecstats.source_lock: the source, locked: its runs come one after another.
CREATE OR REPLACE FUNCTION ecstats.source_lock(source text) RETURNS ecstats.sources
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s ecstats.sources;
BEGIN
	SELECT * INTO s FROM ecstats.sources r WHERE r.name = source FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist', source USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM ecstats.sources lists them.';
	ELSIF NOT s.enabled THEN
		RAISE EXCEPTION 'source "%" is disabled', source USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'UPDATE ecstats.sources SET enabled = true WHERE name = ...';
	END IF;
	RETURN s;
END
$$;
COMMENT ON FUNCTION ecstats.source_lock(text) IS 'The source, locked until the transaction ends: 42704 where there is none, 55000 where it is disabled.';

-- ecstats.source_role: whom the query is run as. A role that was made later under the owner's name is another one.
CREATE OR REPLACE FUNCTION ecstats.source_role(s ecstats.sources) RETURNS oid
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = s.owner);
BEGIN
	IF role IS NULL OR role <> coalesce(s.owner_id, role) THEN
		RAISE EXCEPTION 'the owner of source "%" is gone', s.name USING ERRCODE = 'undefined_object',
			DETAIL = format('Its owner was a role "%s".', s.owner), HINT = 'Delete the source and make it again as the role that its query is to run as.';
	END IF;
	RETURN role;
END
$$;
COMMENT ON FUNCTION ecstats.source_role(ecstats.sources) IS 'The role that a source''s query runs as; 42704 when it is gone, or another role has its name by now.';

-- ecstats.source_watermark: how far a source has come after a run for a day that read what was there at an instant.
-- A run over a gap does not move it: the days between were not taken.
CREATE OR REPLACE FUNCTION ecstats.source_watermark(s ecstats.sources, day date, at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF s.watermark < ecstats.day_start(day) THEN
		RETURN s.watermark;
	END IF;
	RETURN greatest(s.watermark, least(ecstats.day_start(day + 1), at));
END
$$;
COMMENT ON FUNCTION ecstats.source_watermark(ecstats.sources, date, timestamptz) IS
	'Watermark after a run for a day that began to read at an instant: the day''s end, or that instant if it is earlier; unchanged where the day does not join on.';

-- ecstats.source_ran: notes a run that succeeded.
CREATE OR REPLACE FUNCTION ecstats.source_ran(source text, day date, rows bigint, watermark timestamptz, at timestamptz) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.sources s SET watermark = $4, last_run_at = $5, last_day = $2, last_rows = $3, last_error = NULL WHERE s.name = $1 $$;
COMMENT ON FUNCTION ecstats.source_ran(text, date, bigint, timestamptz, timestamptz) IS 'Notes a run of a source that succeeded.';

-- ecstats.source_behind: the enabled sources that have not come as far as an instant.
CREATE OR REPLACE FUNCTION ecstats.source_behind(at timestamptz) RETURNS SETOF text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.name FROM ecstats.sources s WHERE s.enabled AND (s.watermark >= at) IS NOT TRUE ORDER BY s.name $$;
COMMENT ON FUNCTION ecstats.source_behind(timestamptz) IS 'Enabled sources whose watermark has not reached an instant: a day that ends then is not complete.';

-- ecstats.source_status: part of ecstats_status, a row a source.
CREATE OR REPLACE FUNCTION ecstats.source_status(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	today date := ecstats.day_of(at);
	s ecstats.sources;
	f ecstats.source_fetches;
	late boolean;
BEGIN
	FOR s IN SELECT * FROM ecstats.sources r ORDER BY r.name LOOP
		component := 'source ' || s.name;
		status := 'ok';
		hint := NULL;
		detail := format('%s of kind %s, watermark %s', s.target, s.kind, coalesce(s.watermark::text, 'none'))
			|| coalesce(format(', last run %s took %s rows of %s', s.last_run_at, s.last_rows, s.last_day), '');
		SELECT * INTO f FROM ecstats.source_fetches t WHERE t.source = s.name AND t.state IN ('pending', 'fetching') ORDER BY t.fetch_id LIMIT 1;
		IF FOUND THEN
			detail := detail || format(', fetching %s, page %s', f.day, f.page) || coalesce(': ' || f.error, '');
		END IF;
		-- yesterday's run comes with the daily job, two hours after the day's start
		late := (s.watermark >= ecstats.day_start(today - 1)) IS NOT TRUE
			OR s.watermark < ecstats.day_start(today) AND at > ecstats.day_start(today) + interval '3 hours';
		IF NOT s.enabled THEN
			detail := detail || ', disabled';
		ELSIF s.last_error IS NOT NULL THEN
			status := 'error';
			detail := detail || ', last error: ' || s.last_error;
			hint := format('Cure it, then SELECT ecstats_collect(%L, %L)', s.name, coalesce(s.last_day, today - 1));
		ELSIF late THEN
			status := 'warn';
			detail := detail || ', behind: days from there on are not complete';
			hint := format('SELECT ecstats_collect(%L, %L), and a job that does so every day', s.name, coalesce(ecstats.day_of(s.watermark), today - 1));
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.source_status(timestamptz) IS 'Part of ecstats_status: how far each source has come, and its last error.';

CREATE OR REPLACE FUNCTION ecstats.source_prune(before timestamptz, max_rows integer) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n bigint;
BEGIN
	DELETE FROM ecstats.source_fetches f
	 WHERE f.fetch_id IN (SELECT o.fetch_id FROM ecstats.source_fetches o WHERE o.finished_at < before ORDER BY o.finished_at LIMIT max_rows);
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
COMMENT ON FUNCTION ecstats.source_prune(timestamptz, integer) IS 'Drops at most max_rows fetches that finished before an instant; how many.';
