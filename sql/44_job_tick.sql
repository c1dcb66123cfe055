-- sql/44_job_tick.sql
-- The ticker's second half: give places to runs that wait, launch them, and the procedure itself.

CREATE OR REPLACE FUNCTION ecstats.job_take(now timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id bigint;
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE invalid_transaction_state USING MESSAGE = 'places of jobs are taken under READ COMMITTED only';
	END IF;
	PERFORM FROM ecstats.job_ticker FOR UPDATE;		-- one taker at a time, until it commits
	IF (SELECT count(*) FROM ecstats.job_runs r WHERE r.status IN ('claimed', 'running'))
		>= (SELECT c.max_running_jobs FROM ecstats.config c)
	THEN
		RETURN NULL;
	END IF;
	SELECT r.run_id INTO id FROM ecstats.job_runs r
		WHERE r.status = 'queued' AND r.launch_after <= now
			AND NOT EXISTS (SELECT FROM ecstats.job_runs a
				WHERE a.job_id = r.job_id AND a.status IN ('claimed', 'running'))
		ORDER BY r.launch_after, r.due_at, r.run_id LIMIT 1 FOR UPDATE OF r SKIP LOCKED;
	IF id IS NOT NULL THEN
		UPDATE ecstats.job_runs r SET tick_at = now WHERE r.run_id = id;
		PERFORM ecstats.job_run_move(id, 'claimed', clock_timestamp());
	END IF;
	RETURN id;
END $$;
COMMENT ON FUNCTION ecstats.job_take(timestamptz) IS
	'Takes a place for the next run that waits and returns the run, claimed; NULL: none waits, its job has one going on, or all places (config.max_running_jobs) are taken. Commit, then job_launch.';

CREATE OR REPLACE FUNCTION ecstats.job_launch(run_id bigint, keep boolean, chain boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r ecstats.job_runs;
	j ecstats.jobs;
	role record;
	refused text;
BEGIN
	SELECT * INTO r FROM ecstats.job_runs x WHERE x.run_id = $1 AND x.status = 'claimed';
	SELECT * INTO j FROM ecstats.jobs x WHERE x.job_id = r.job_id;
	IF NOT FOUND THEN
		RETURN 'gone';
	END IF;
	SELECT a.oid, a.rolcanlogin INTO role FROM pg_catalog.pg_roles a WHERE a.rolname = j.owner;
	IF NOT FOUND THEN
		refused := format('role "%s" does not exist', j.owner);
	ELSIF j.owner_id <> role.oid THEN
		refused := format('role "%s" is not the one that wrote the job; it was made later under that name', j.owner);
	ELSIF NOT role.rolcanlogin AND current_setting('server_version_num')::int < 170000 THEN
		refused := format('role "%s" is not permitted to log in', j.owner);
	ELSIF NOT has_database_privilege(role.oid, current_database(), 'CONNECT') THEN
		refused := format('role "%s" may not connect to this database', j.owner);
	END IF;
	IF refused IS NOT NULL THEN
		PERFORM ecstats.job_run_end($1, r.tick_at, NULL, refused, '28000',
			'A run logs in as its job''s owner, who needs LOGIN and CONNECT.', NULL);
		RETURN 'refused';
	END IF;
	IF NOT ecstats.job_start_worker($1, r.claimed_at, role.oid, j.name, keep, chain) THEN
		PERFORM ecstats.job_run_move($1, 'queued', clock_timestamp());
		UPDATE ecstats.job_ticker SET no_worker_at = clock_timestamp();
		RETURN 'no worker';
	END IF;
	RETURN 'launched';
END $$;
COMMENT ON FUNCTION ecstats.job_launch(bigint, boolean, boolean) IS
	'Launches the worker of a claimed run whose claim is committed: launched, refused (the owner cannot log in; the attempt has failed), no worker (no slot is free; the run waits on), gone.';

CREATE OR REPLACE FUNCTION ecstats.job_beat(now timestamptz) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	UPDATE ecstats.job_ticker SET last_tick_at = clock_timestamp(), ticked_for = $1
$$;
COMMENT ON FUNCTION ecstats.job_beat(timestamptz) IS 'Notes that a tick goes on, and the time it goes by.';

-- ecstats_tick: claims what is due and launches it; what a minute's ticker calls.
-- Arguments: now, the time to go by; wait: return when the runs have ended, launching those that wait
--   for a place on the way. Without wait, a run that ends hands its place on.
-- Result: none; see ecstats.job_runs. Any number of tickers may run at once.
-- Errors: 2D000 within a transaction block: it commits on the way.
-- Writes: ecstats.jobs, ecstats.job_runs, ecstats.job_ticker.
CREATE OR REPLACE PROCEDURE @extschema@.ecstats_tick(now timestamptz DEFAULT now(), wait boolean DEFAULT true)
	LANGUAGE plpgsql AS $$
DECLARE
	run bigint;
	mine bigint[] := '{}';
	going int := 0;
	outcome pg_catalog.text;
BEGIN
	COMMIT;
	SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
	PERFORM ecstats.job_beat(now);
	PERFORM ecstats.job_reap(now);
	LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		EXIT WHEN ecstats.job_claim(now, 100) OPERATOR(pg_catalog.<) 100;
	END LOOP;
	LOOP
		LOOP
			COMMIT;
			SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
			run := ecstats.job_take(now);
			EXIT WHEN run IS NULL;
			COMMIT;
			SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
			outcome := ecstats.job_launch(run, wait, NOT wait);
			IF wait AND outcome OPERATOR(pg_catalog.=) 'launched' THEN
				mine := pg_catalog.array_append(mine, run);
				going := going OPERATOR(pg_catalog.+) 1;
			END IF;
			EXIT WHEN outcome OPERATOR(pg_catalog.=) 'no worker';
		END LOOP;
		EXIT WHEN NOT wait OR going OPERATOR(pg_catalog.=) 0;
		COMMIT;
		going := ecstats.job_wait(1000);
	END LOOP;
	IF wait THEN
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		PERFORM ecstats.job_reap(now, mine);
	END IF;
END $$;
COMMENT ON PROCEDURE @extschema@.ecstats_tick(timestamptz, boolean) IS
	'Claims the jobs that are due at now and launches each run as a background worker of the job''s owner, each due time once however many tick; wait: returns when they have ended. Commits on the way: CALL it outside a transaction block.';
