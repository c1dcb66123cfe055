-- sql/42_source.sql
-- Sources: who may write which, what is accepted, how far each has come.

-- The guard runs as the writer: current_user in a plain trigger cannot be claimed by a caller.
CREATE OR REPLACE FUNCTION ecstats.source_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	super boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
	me oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
	-- Anybody may set the switch that dumps set: only a session that began as superuser is believed.
	restoring boolean := (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user));
	private boolean := NEW.options -> 'allow_private' = 'true';		-- NULL of a deleted row
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
		NEW.owner_id := CASE WHEN NOT restoring THEN (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.owner) END;
	ELSIF NOT super THEN
		NEW.owner_id := OLD.owner_id;
	END IF;
	IF NOT restoring AND (TG_OP = 'INSERT' OR (NEW.name, NEW.kind, NEW.target, NEW.url) IS DISTINCT FROM (OLD.name, OLD.kind, OLD.target, OLD.url)) THEN
		NEW.asks_since := clock_timestamp();
	END IF;
	-- What may ask the machine's own network is not chosen by whoever may write sources.
	IF private AND NOT super AND NOT restoring
	   AND (TG_OP = 'INSERT' OR (NEW.kind, NEW.url, NEW.headers, NEW.options -> 'allow_private', NEW.options -> 'secret_header')
			IS DISTINCT FROM (OLD.kind, OLD.url, OLD.headers, OLD.options -> 'allow_private', OLD.options -> 'secret_header'))
	   AND NOT pg_has_role(current_user, (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'ecstats'), 'MEMBER') THEN
		RAISE EXCEPTION 'source "%" may not be made to ask private addresses', NEW.name
			USING ERRCODE = 'insufficient_privilege', DETAIL = 'Its options have allow_private.',
				  HINT = 'Leave allow_private out, or ask a superuser or the extension''s owner to write url, headers and allow_private.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.source_guard() IS
	'Trigger of ecstats.sources that runs as the writer: forces the owner; refuses another role''s source, and private addresses but of the extension''s owner (42501).';

-- Runs as the extension's owner: a writer of sources need not be able to call the checks.
CREATE OR REPLACE FUNCTION ecstats.source_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = NEW.owner) THEN
			RAISE EXCEPTION 'role "%" of source "%" does not exist', NEW.owner, NEW.name USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE first.';
		END IF;
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

-- ecstats.source_pin: writes down who the owner is, where a restore left that open: a role made later under the
-- same name is another one. 0 where a source that needs no role has an owner that is not there.
CREATE OR REPLACE FUNCTION ecstats.source_pin(s ecstats.sources) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.sources t SET owner_id = coalesce((SELECT r.oid FROM pg_roles r WHERE r.rolname = t.owner), 0)
	 WHERE t.name = s.name AND t.owner_id IS NULL $$;
COMMENT ON FUNCTION ecstats.source_pin(ecstats.sources) IS 'Pins the owner of a source that was restored to the role that has its name now; at its first run.';

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
			|| CASE WHEN s.last_run_at IS NULL THEN ', never run'
					WHEN s.last_error IS NOT NULL THEN format(', last run %s for %s', s.last_run_at, s.last_day)
					ELSE format(', last run %s took %s rows of %s', s.last_run_at, s.last_rows, s.last_day) END;
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
