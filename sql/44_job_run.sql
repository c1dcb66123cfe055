-- sql/44_job_run.sql
-- One run, from the ledger's side: its states, its begin and end as its worker reports them, and runs
-- that somebody asks for.
--
--   queued ──► claimed ──► running ──► succeeded
--     │  ▲────────┤           ├──────► retry      (and the next attempt is queued)
--     │           ├───────────┴──────► failed     (and the operators are told)
--     └───────────┴──► cancelled                  skipped is written as such

CREATE OR REPLACE FUNCTION ecstats.job_run_step() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF OLD.status || '>' || NEW.status NOT IN ('queued>claimed', 'queued>cancelled', 'queued>failed',
		'claimed>running', 'claimed>queued', 'claimed>retry', 'claimed>failed', 'claimed>cancelled',
		'running>succeeded', 'running>retry', 'running>failed')
	THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('run %s cannot go from %s to %s', OLD.run_id, OLD.status, NEW.status);
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_step() IS
	'Trigger of ecstats.job_runs: refuses a step that is not in the diagram (55000).';

CREATE OR REPLACE FUNCTION ecstats.job_run_guard() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
		AND NOT EXISTS (SELECT FROM ecstats.jobs j
			WHERE j.job_id = NEW.job_id AND j.owner = current_user)
	THEN
		RAISE insufficient_privilege USING
			MESSAGE = format('job %s belongs to another role', NEW.job_id),
			HINT = 'Ask its owner or a superuser to run it.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_guard() IS
	'Trigger of ecstats.job_runs that runs as the writer: only a job''s owner may ask for a run (42501).';

-- Runs as the extension's owner. replay NULL: number it, with the job locked so that two get two.
CREATE OR REPLACE FUNCTION ecstats.job_run_settle() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NEW.replay IS NULL THEN
		PERFORM FROM ecstats.jobs j WHERE j.job_id = NEW.job_id FOR UPDATE;
		NEW.replay := (SELECT coalesce(max(r.replay) + 1, 0) FROM ecstats.job_runs r
			WHERE r.job_id = NEW.job_id AND r.due_at = NEW.due_at);
	END IF;
	IF NEW.job_name IS NULL THEN
		SELECT j.name, j.owner INTO NEW.job_name, NEW.owner FROM ecstats.jobs j WHERE j.job_id = NEW.job_id;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.job_run_settle() IS
	'Trigger of ecstats.job_runs: fills in the job''s name and owner, and numbers a replay.';

CREATE TRIGGER job_run_1_guard BEFORE INSERT ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_guard();
CREATE TRIGGER job_run_2_settle BEFORE INSERT ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_settle();
CREATE TRIGGER job_run_3_step BEFORE UPDATE OF status ON ecstats.job_runs
	FOR EACH ROW EXECUTE FUNCTION ecstats.job_run_step();

CREATE OR REPLACE FUNCTION ecstats.job_run_move(run_id bigint, to_status text, at timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.job_runs r SET status = $2,
		claimed_at = CASE $2 WHEN 'claimed' THEN $3 WHEN 'queued' THEN NULL ELSE r.claimed_at END,
		started_at = CASE $2 WHEN 'running' THEN $3 ELSE r.started_at END,
		finished_at = CASE WHEN $2 IN ('queued', 'claimed', 'running') THEN NULL ELSE $3 END
		WHERE r.run_id = $1
$$;
COMMENT ON FUNCTION ecstats.job_run_move(bigint, text, timestamptz) IS
	'The only writer of a run''s status, and of the time that goes with it.';

-- now: the ticker's time from which the back-off counts.
CREATE OR REPLACE FUNCTION ecstats.job_run_end(run_id bigint, now timestamptz, rows bigint, error text,
	sqlstate text, detail text, context text) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	attempts int;
	outcome text;
BEGIN
	SELECT * INTO STRICT r FROM ecstats.job_runs x WHERE x.run_id = $1 FOR UPDATE;
	SELECT j.max_attempts INTO attempts FROM ecstats.jobs j
		WHERE j.job_id = r.job_id AND (j.enabled OR r.replay > 0);
	outcome := CASE WHEN $4 IS NULL THEN 'succeeded' WHEN r.attempt < attempts THEN 'retry' ELSE 'failed' END;
	UPDATE ecstats.job_runs x SET rows = $3, error = $4, sqlstate = $5, detail = $6, context = $7
		WHERE x.run_id = $1;
	PERFORM ecstats.job_run_move($1, outcome, clock_timestamp());
	IF outcome = 'retry' THEN
		INSERT INTO ecstats.job_runs (job_id, due_at, replay, attempt, launch_after)
			VALUES (r.job_id, r.due_at, r.replay, r.attempt + 1,
				now + interval '1 minute' * 2 ^ (r.attempt - 1));
	ELSIF outcome = 'failed' THEN
		BEGIN
			PERFORM ecstats.job_failed(r.job_name, $1, r.attempt, $4);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'nobody was told that run % of job "%" failed: %', $1, r.job_name, SQLERRM;
		END;
	END IF;
	RETURN outcome;
END $$;
COMMENT ON FUNCTION ecstats.job_run_end(bigint, timestamptz, bigint, text, text, text, text) IS
	'Ends a run: succeeded without an error; else retry, with the next attempt queued after 2^(attempt-1) minutes; else failed, and ecstats.job_failed tells the operators. Returns the status.';

-- Called by the worker's C code as the extension's owner; session_user is whom it logged in as.
CREATE OR REPLACE FUNCTION ecstats.job_run_begin(run_id bigint, claimed_at timestamptz,
	worker_started timestamptz)
	RETURNS TABLE (name text, command text, due_at text, timeout_ms int)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT j.name, j.command,
			to_char(r.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
			greatest(extract(epoch FROM j.timeout) * 1000, 1)::int
		INTO name, command, due_at, timeout_ms
		FROM ecstats.job_runs r JOIN ecstats.jobs j USING (job_id)
		WHERE r.run_id = $1 AND r.status = 'claimed' AND r.claimed_at = $2 AND j.owner = session_user
		FOR UPDATE OF r;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE ecstats.job_runs r SET owner = session_user, worker_pid = pg_backend_pid(),
		worker_started = $3 WHERE r.run_id = $1;
	PERFORM ecstats.job_run_move($1, 'running', clock_timestamp());
	RETURN NEXT;
END $$;
COMMENT ON FUNCTION ecstats.job_run_begin(bigint, timestamptz, timestamptz) IS
	'What the worker of a claimed run is to do; no row unless the run is under this claim and its job belongs to the session''s user. The run is then running.';

CREATE OR REPLACE FUNCTION ecstats.job_run_finish(run_id bigint, rows bigint, error text, sqlstate text,
	detail text, context text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x
		WHERE x.run_id = $1 AND x.status = 'running' AND x.worker_pid = pg_backend_pid()
		FOR UPDATE;
	IF FOUND THEN
		PERFORM ecstats.job_run_end($1, r.tick_at + date_trunc('second', clock_timestamp() - r.started_at),
			$2, $3, $4, $5, $6);
	END IF;
END $$;
COMMENT ON FUNCTION ecstats.job_run_finish(bigint, bigint, text, text, text, text) IS
	'The report of a run''s own worker; anybody else''s is ignored.';

-- ecstats_run_job: asks for a run of a job now; the next tick launches it, after a run that goes on.
-- Arguments: the job's name. Result: the run's id. It is due at the time of the call.
-- Errors: 42704 no such job; 42501 another role's. Writes: ecstats.job_runs.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_run_job(name text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.job_runs AS r (job_id, due_at)
		SELECT j.job_id, clock_timestamp() FROM ecstats.jobs j WHERE j.name = $1
		RETURNING r.run_id INTO id;
	IF id IS NULL THEN
		RAISE undefined_object USING MESSAGE = format('job "%s" does not exist', $1),
			HINT = 'SELECT name FROM ecstats.jobs lists them.';
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_run_job(text) IS
	'Queues a run of a job, due now; the next tick launches it, never beside another run of the job. Returns the run''s id. Errors: 42704 no such job, 42501 another role''s.';

-- ecstats_replay_job: runs a due time again, under its own due_at, with all its attempts.
-- Arguments: a run that has ended for good. Result: the new run's id; the next tick launches it.
-- Errors: 42704 no such run or its job is gone; 55000 it has not ended; 42501 another role's.
-- Writes: ecstats.job_runs.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_replay_job(run_id bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	id bigint;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x WHERE x.run_id = $1;
	IF NOT FOUND THEN
		RAISE undefined_object USING MESSAGE = format('run %s does not exist', $1),
			HINT = 'ecstats.job_runs lists them.';
	ELSIF r.status NOT IN ('succeeded', 'failed', 'skipped', 'cancelled') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('run %s has not ended', $1),
			DETAIL = format('Its status is %s.', r.status),
			HINT = 'Replay the last attempt when it has failed.';
	ELSIF NOT EXISTS (SELECT FROM ecstats.jobs j WHERE j.job_id = r.job_id) THEN
		RAISE undefined_object USING MESSAGE = format('job "%s" of run %s does not exist any more', r.job_name, $1);
	END IF;
	INSERT INTO ecstats.job_runs AS x (job_id, due_at) VALUES (r.job_id, r.due_at)
		RETURNING x.run_id INTO id;
	RETURN id;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_replay_job(bigint) IS
	'Queues a due time once more, with attempts of its own; the next tick launches it. Returns the new run''s id. Errors: 42704, 55000 not ended, 42501 another role''s.';

CREATE OR REPLACE FUNCTION ecstats.job_prune(before timestamptz, max_rows int DEFAULT 10000) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH gone AS (DELETE FROM ecstats.job_runs r WHERE r.run_id IN (
			SELECT o.run_id FROM ecstats.job_runs o WHERE o.finished_at < $1
			ORDER BY o.finished_at LIMIT $2) RETURNING 1)
	SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION ecstats.job_prune(timestamptz, int) IS
	'Deletes at most max_rows runs that ended before an instant; returns how many.';
