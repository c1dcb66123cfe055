-- sql/44_job_claim.sql
-- The ticker's first half: find the runs whose worker is gone, record what is due.
--
-- These functions look before and after they lock, so they want READ COMMITTED, where each statement
-- sees what has been committed; ecstats_tick sets it whatever the session's default is.

-- Called with runs whose workers are known to have ended; others that never began get a minute.
CREATE OR REPLACE FUNCTION ecstats.job_reap(now timestamptz, ended bigint[] DEFAULT '{}') RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	n int := 0;
BEGIN
	-- The list of backends is read after the rows: a worker commits its report before it goes.
	PERFORM pg_stat_clear_snapshot();
	FOR r IN SELECT * FROM ecstats.job_runs x
		WHERE x.status IN ('claimed', 'running') AND CASE x.status
			WHEN 'claimed' THEN x.run_id = ANY (ended)
				OR x.claimed_at < clock_timestamp() - interval '1 minute'
			ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
				WHERE a.pid = x.worker_pid AND a.backend_start = x.worker_started) END
		ORDER BY x.run_id FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM ecstats.job_run_end(r.run_id, now, NULL,
			CASE r.status WHEN 'claimed' THEN 'the worker ended before it began'
				ELSE 'the worker ended without a report' END, '57P01',
			'It was terminated, crashed or could not log in; the server''s log says more.', NULL);
		n := n + 1;
	END LOOP;
	-- The worker cancels itself in time; this is for one that cannot.
	PERFORM pg_terminate_backend(a.pid)
		FROM ecstats.job_runs x JOIN ecstats.jobs j USING (job_id)
			JOIN pg_catalog.pg_stat_activity a ON a.pid = x.worker_pid AND a.backend_start = x.worker_started
		WHERE x.status = 'running' AND x.started_at + j.timeout < clock_timestamp() - interval '1 minute';
	RETURN n;
END $$;
COMMENT ON FUNCTION ecstats.job_reap(timestamptz, bigint[]) IS
	'Ends the runs whose worker is gone (retry or failed) and terminates workers a minute past their time-out; returns how many it ended.';

-- By halving, so that an outage of a year costs a job that is due each second no more than another.
CREATE OR REPLACE FUNCTION ecstats.job_last_due(j ecstats.jobs, now timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	due timestamptz := j.next_run_at;		-- a due time, not after now
	later timestamptz := now;				-- none after this one and not after now is left
	middle timestamptz;
	next timestamptz;
BEGIN
	LOOP
		next := ecstats.job_next(j, due);
		EXIT WHEN next IS NULL OR next > now;
		due := next;
		CONTINUE WHEN due >= later;
		middle := due + (later - due) / 2;
		next := ecstats.job_next(j, middle);
		IF next IS NULL OR next > now THEN
			later := middle;
		ELSE
			due := next;
		END IF;
	END LOOP;
	RETURN due;
END $$;
COMMENT ON FUNCTION ecstats.job_last_due(ecstats.jobs, timestamptz) IS
	'The last due time of a job that is not after now, where next_run_at is one.';

CREATE OR REPLACE FUNCTION ecstats.job_queue(j ecstats.jobs, due timestamptz, now timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	reason text;
	other bigint;
BEGIN
	IF j.catch_up = 'none' AND due < now - interval '2 minutes' THEN
		reason := 'missed, and catch_up is none';
	ELSIF j.overlap = 'skip' THEN
		SELECT min(r.run_id) INTO other FROM ecstats.job_runs r
			WHERE r.job_id = j.job_id AND (r.status IN ('claimed', 'running')
				-- One that only waits for a place; not a retry, nor one that somebody asked for.
				OR (r.status = 'queued' AND r.attempt = 1 AND j.catch_up <> 'all'
					AND r.launch_after > '-infinity' AND r.launch_after <= now));
		reason := format('run %s of the job had not ended', other);
		IF other IS NULL THEN
			reason := NULL;
		END IF;
	END IF;
	INSERT INTO ecstats.job_runs (job_id, due_at, replay, launch_after, tick_at, status, error, finished_at)
		VALUES (j.job_id, due, 0, due, now, CASE WHEN reason IS NULL THEN 'queued' ELSE 'skipped' END,
			reason, CASE WHEN reason IS NOT NULL THEN clock_timestamp() END)
		ON CONFLICT ON CONSTRAINT job_runs_job_id_due_at_replay_attempt_key DO NOTHING;
END $$;
COMMENT ON FUNCTION ecstats.job_queue(ecstats.jobs, timestamptz, timestamptz) IS
	'Records a due time of a job, as queued or, by overlap and catch_up, as skipped; once.';

CREATE OR REPLACE FUNCTION ecstats.job_claim(now timestamptz, max_jobs int DEFAULT 100) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	j ecstats.jobs;
	due timestamptz;
	n int := 0;
	catches int;
BEGIN
	IF now > clock_timestamp() + interval '1 minute'
		AND NOT coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user), false)
	THEN
		RAISE invalid_parameter_value USING MESSAGE = 'only a superuser ticks ahead of the clock',
			DETAIL = format('now is %s.', now), HINT = 'Leave the argument now out.';
	END IF;
	FOR j IN SELECT * FROM ecstats.jobs x WHERE x.enabled AND x.next_run_at <= now
		ORDER BY x.next_run_at LIMIT max_jobs FOR UPDATE SKIP LOCKED
	LOOP
		n := n + 1;
		BEGIN
			due := CASE j.catch_up WHEN 'all' THEN j.next_run_at ELSE ecstats.job_last_due(j, now) END;
			catches := 0;
			-- More than that many missed times are left to the next round.
			WHILE due <= now AND catches < 1000 LOOP
				PERFORM ecstats.job_queue(j, due, now);
				due := ecstats.job_next(j, due);
				catches := catches + 1;
			END LOOP;
			UPDATE ecstats.jobs x SET next_run_at = due,
					owner_id = coalesce(x.owner_id, (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = x.owner))
				WHERE x.job_id = j.job_id;
		EXCEPTION WHEN OTHERS THEN
			-- One job's trouble (a zone that an update of the zone data took away) is not the others'.
			UPDATE ecstats.jobs x SET next_run_at = NULL WHERE x.job_id = j.job_id;
			PERFORM ecstats.job_claim_failed(j, SQLERRM, SQLSTATE);
		END;
	END LOOP;
	RETURN n;
END $$;
COMMENT ON FUNCTION ecstats.job_claim(timestamptz, int) IS
	'Records the due times of at most max_jobs jobs and moves their next_run_at on; returns how many jobs it took. Jobs that another ticker has locked are left to that one.';

CREATE OR REPLACE FUNCTION ecstats.job_claim_failed(j ecstats.jobs, error text, sqlstate text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO ecstats.job_runs AS r (job_id, due_at, error, sqlstate, detail)
		VALUES (j.job_id, j.next_run_at, $2, $3, 'The job has no next due time until it is scheduled again.')
		RETURNING r.run_id INTO id;
	PERFORM ecstats.job_run_move(id, 'failed', clock_timestamp());
	PERFORM ecstats.job_failed(j.name, id, 1, error);
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'due time % of job "%" could not be claimed: %', j.next_run_at, j.name, error;
END $$;
COMMENT ON FUNCTION ecstats.job_claim_failed(ecstats.jobs, text, text) IS
	'Records that a due time of a job could not be claimed.';
