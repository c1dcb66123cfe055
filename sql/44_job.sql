-- sql/44_job.sql
-- Jobs: who may write which, what is accepted, and the functions to do it with.
--
-- Who writes is decided by a trigger that runs as the writer, not by a function that runs as the
-- extension's owner and is told: current_user in a plain trigger cannot be claimed by a caller, and
-- inside somebody's SECURITY DEFINER function it is that function's owner, as it should be.

CREATE OR REPLACE FUNCTION ecstats.job_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	super boolean := (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);
	me oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user);
BEGIN
	IF TG_OP <> 'INSERT' AND NOT super AND (OLD.owner <> current_user OR coalesce(OLD.owner_id, me) <> me) THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job "%s" belongs to another role', OLD.name),
			DETAIL = format('Its owner is "%s".', OLD.owner),
			HINT = 'Take another name, or ask its owner or a superuser.';
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	IF TG_OP = 'UPDATE' THEN
		NEW.job_id := OLD.job_id;
	END IF;
	IF NOT super OR NEW.owner IS NULL THEN
		NEW.owner := current_user;
	END IF;
	-- The tick moves next_run_at alone, which says nothing about the owner.
	IF TG_OP = 'INSERT' OR (NEW.owner, NEW.schedule, NEW.command) IS DISTINCT FROM (OLD.owner, OLD.schedule, OLD.command) THEN
		NEW.owner_id := CASE WHEN NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user))
							 THEN (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = NEW.owner) END;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_guard() IS
	'Trigger of ecstats.jobs that runs as the writer: forces the owner, refuses another role''s job (42501).';

CREATE OR REPLACE FUNCTION ecstats.job_check(j ecstats.jobs) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text;
	hint text;
BEGIN
	IF j.name IS NULL OR octet_length(j.name) NOT BETWEEN 1 AND 128 OR j.name ~ '[[:cntrl:]]' THEN
		wrong := format('the name is %L', left(j.name, 60));
		hint := 'A name has 1 to 128 bytes and no control character.';
	ELSIF j.max_attempts NOT BETWEEN 1 AND 20 THEN
		wrong := format('max_attempts is %s', j.max_attempts);
		hint := 'It counts the first try as well: 1 to 20.';
	ELSIF j.overlap NOT IN ('skip', 'queue') THEN
		wrong := format('overlap is "%s"', left(j.overlap, 60));
		hint := 'Use skip or queue.';
	ELSIF j.catch_up NOT IN ('last', 'all', 'none') THEN
		wrong := format('catch_up is "%s"', left(j.catch_up, 60));
		hint := 'Use last, all or none.';
	ELSIF j.timeout < '1 millisecond' OR j.timeout > '20 days' THEN
		wrong := format('timeout is %s', j.timeout);
		hint := 'Use 1 millisecond to 20 days.';
	END IF;
	IF wrong IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('invalid setting of job "%s"', j.name), DETAIL = wrong || '.', HINT = hint;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = j.owner) THEN
		RAISE undefined_object USING MESSAGE = format('role "%s" of job "%s" does not exist', j.owner, j.name);
	END IF;
	PERFORM ecstats.cron_check(j.schedule);
	PERFORM ecstats.job_check_command(j.command);
END $$;
COMMENT ON FUNCTION ecstats.job_check(ecstats.jobs) IS
	'Raises when a job''s settings (22023), owner (42704), schedule (22023) or command (42601) is wrong.';

CREATE OR REPLACE FUNCTION ecstats.job_next(j ecstats.jobs, after timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN ecstats.cron_next(j.schedule, after,
		coalesce(j.timezone, (SELECT c.timezone FROM ecstats.config c)));
END $$;
COMMENT ON FUNCTION ecstats.job_next(ecstats.jobs, timestamptz) IS
	'First due time of a job after an instant, in the job''s zone or config''s; NULL: never again.';

-- Runs as the extension's owner: it reads config, which a writer of jobs need not be able to.
CREATE OR REPLACE FUNCTION ecstats.job_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	moved boolean := true;
BEGIN
	-- A restore: what was accepted once is not asked about again, and keeps its due time.
	IF TG_OP = 'INSERT' AND (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		RETURN NEW;
	END IF;
	PERFORM ecstats.job_check(NEW);
	IF TG_OP = 'UPDATE' THEN
		NEW.updated_at := clock_timestamp();
		moved := (NEW.schedule, NEW.timezone, NEW.enabled)
			IS DISTINCT FROM (OLD.schedule, OLD.timezone, OLD.enabled);
	END IF;
	IF NOT NEW.enabled THEN
		PERFORM ecstats.job_next(NEW, clock_timestamp());	-- raises for an unknown zone
		NEW.next_run_at := NULL;
	ELSIF moved THEN
		NEW.next_run_at := ecstats.job_next(NEW, clock_timestamp());
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_settle() IS
	'Trigger of ecstats.jobs: checks the row, and computes next_run_at anew where schedule, zone or enabled changed; a job that is replaced by the same keeps its due time.';

CREATE OR REPLACE FUNCTION ecstats.job_dropped() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'DELETE' OR NOT NEW.enabled THEN
		PERFORM ecstats.job_run_move(r.run_id, 'cancelled', clock_timestamp())
			FROM ecstats.job_runs r
			WHERE r.job_id = OLD.job_id
				AND (r.status = 'queued' OR (r.status = 'claimed' AND TG_OP = 'DELETE'));
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.job_dropped() IS
	'Trigger of ecstats.jobs: what still waits of a job that was dropped or disabled is cancelled.';

-- In the order of their names. The guard runs as the writer.
CREATE TRIGGER job_0_restore_replace BEFORE INSERT ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('name');
CREATE TRIGGER job_1_guard BEFORE INSERT OR UPDATE OR DELETE ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_guard();
CREATE TRIGGER job_2_settle BEFORE INSERT
	OR UPDATE OF name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled
	ON ecstats.jobs FOR EACH ROW EXECUTE FUNCTION ecstats.job_settle();
CREATE TRIGGER job_3_dropped AFTER DELETE OR UPDATE OF enabled ON ecstats.jobs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_dropped();

-- ecstats_schedule: makes a job, or replaces one's own of that name, and enables it.
-- Arguments: as the columns of ecstats.jobs; timezone NULL follows config.timezone.
-- Result: the job's id. A job whose schedule and zone stay the same keeps its next due time.
-- Errors: 22023 schedule, zone or setting; 42601 command; 42501 the name is another role's.
-- Writes: ecstats.jobs.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_schedule(name text, schedule text, command text,
	timezone text DEFAULT NULL, max_attempts int DEFAULT 3, overlap text DEFAULT 'skip',
	catch_up text DEFAULT 'last', timeout interval DEFAULT '1 hour') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.jobs AS j (name, schedule, command, timezone, max_attempts, overlap, catch_up,
			timeout)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT ON CONSTRAINT jobs_name_key DO UPDATE SET schedule = excluded.schedule,
			command = excluded.command, timezone = excluded.timezone,
			max_attempts = excluded.max_attempts, overlap = excluded.overlap,
			catch_up = excluded.catch_up, timeout = excluded.timeout, enabled = true
			WHERE j.owner = current_user
		RETURNING j.job_id INTO id;
	IF id IS NULL THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job "%s" belongs to another role', $1),
			HINT = 'Take another name, or ask its owner.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_schedule(text, text, text, text, int, text, text, interval) IS
	'Makes the job name, or replaces one''s own: cron expression, command (run as the current user), zone (NULL: config''s), attempts in all, overlap skip|queue, catch_up last|all|none, time-out of an attempt. Returns its id. Errors: 22023, 42601, 42501.';

-- ecstats_unschedule: drops a job; one that came with the extension is disabled instead.
-- Arguments: the job's name. Result: whether something changed.
-- Errors: 42501 another role's job. What has run stays in ecstats.job_runs; what waits is cancelled.
-- Writes: ecstats.jobs, ecstats.job_runs.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_unschedule(name text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM ecstats.jobs j WHERE j.name = $1 AND NOT j.shipped;
	IF NOT FOUND THEN
		UPDATE ecstats.jobs j SET enabled = false WHERE j.name = $1 AND j.enabled;
	END IF;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_unschedule(text) IS
	'Drops a job (disables it if it came with the extension); false if there was none. A run that is going on ends by itself. Errors: 42501 another role''s job.';

CREATE OR REPLACE FUNCTION ecstats.job_put(name text, owner text, schedule text, command text,
	timezone text DEFAULT NULL, max_attempts int DEFAULT 3, overlap text DEFAULT 'skip',
	catch_up text DEFAULT 'last', timeout interval DEFAULT '1 hour') RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO ecstats.jobs (job_id, name, owner, schedule, command, timezone, max_attempts, overlap,
			catch_up, timeout, shipped)
		OVERRIDING SYSTEM VALUE
		SELECT least(min(j.job_id), 0) - 1, $1, $2, $3, $4, $5, $6, $7, $8, $9, true
		FROM ecstats.jobs j
		ON CONFLICT ON CONSTRAINT jobs_name_key DO NOTHING
		RETURNING job_id
$$;
COMMENT ON FUNCTION ecstats.job_put(text, text, text, text, text, int, text, text, interval) IS
	'Adds a job that comes with the extension; NULL if the name is taken. Its id is negative: users'' jobs of a dump never meet one that a newer version brings.';

CREATE OR REPLACE FUNCTION ecstats.job_reschedule(name text, schedule text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE ecstats.jobs j SET schedule = $2 WHERE j.name = $1 AND j.shipped AND j.schedule <> $2;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION ecstats.job_reschedule(text, text) IS
	'Gives a job that came with the extension another schedule; whether it changed.';

CREATE OR REPLACE FUNCTION ecstats.job_timezone_changed() RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.jobs j SET next_run_at = ecstats.job_next(j, clock_timestamp())
		WHERE j.timezone IS NULL AND j.enabled
$$;
COMMENT ON FUNCTION ecstats.job_timezone_changed() IS
	'Computes next_run_at anew for the jobs that follow config.timezone; called when that changes.';
