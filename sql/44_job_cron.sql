-- sql/44_job_cron.sql
-- Who ticks: the registration with pg_cron, which may be absent, so its names appear in dynamic SQL
-- alone; and how the schedule is doing, for ecstats_status.

-- Its setting is shown to superusers alone; where it lives is no secret to who may install a ticker.
CREATE OR REPLACE FUNCTION ecstats.job_cron_home() RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$ SELECT current_setting('cron.database_name', true) $$;
COMMENT ON FUNCTION ecstats.job_cron_home() IS 'The database that pg_cron lives in; NULL where it is not loaded.';

-- ecstats_install_cron: has pg_cron call ecstats_tick every minute in this database.
-- Result: pg_cron's job id; NULL when pg_cron is not in this database, with a notice of the exact
--   statement to run where it is. A second call changes nothing.
-- Errors: pg_cron's own. Writes: cron.job, through cron.schedule.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_install_cron() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- pg_cron wants exactly one CALL: with a second statement the procedure could not commit.
	command constant text := 'CALL @extschema@.ecstats_tick(wait => false)';
	home text;
	id bigint;
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_cron') THEN
		EXECUTE 'SELECT min(jobid) FROM cron.job WHERE active AND database = current_database()
			AND command = $1 AND schedule = ''* * * * *''' INTO id USING command;
		IF id IS NULL THEN
			EXECUTE 'SELECT cron.schedule(''ecstats_tick'', ''* * * * *'', $1)' INTO id USING command;
		END IF;
		RETURN id;
	END IF;
	home := ecstats.job_cron_home();
	IF home IS NULL THEN
		RAISE NOTICE 'pg_cron is not loaded in this server: nothing was registered' USING
			HINT = 'Add pg_cron to shared_preload_libraries and restart, then CREATE EXTENSION pg_cron here; or let ecstats-pusher --tick do it.';
	ELSIF home = current_database() THEN
		RAISE NOTICE 'pg_cron is not installed in this database yet: nothing was registered' USING
			HINT = 'CREATE EXTENSION pg_cron; SELECT @extschema@.ecstats_install_cron();';
	ELSE
		RAISE NOTICE 'pg_cron lives in database "%": run this line there: %', home,
			format('SELECT cron.schedule_in_database(%L, %L, %L, %L);',
				'ecstats_tick_' || current_database(), '* * * * *', command, current_database());
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_install_cron() IS
	'Registers the ticker with pg_cron, once, and returns pg_cron''s job id; NULL and a notice of what to run, and where, when pg_cron is not in this database.';

-- ecstats_uninstall_cron: takes the ticker of this database out of pg_cron.
-- Result: whether there was one. Writes: cron.job, through cron.unschedule.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_uninstall_cron() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	there boolean;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_cron') THEN
		RETURN false;
	END IF;
	EXECUTE 'SELECT coalesce(bool_or(cron.unschedule(jobid)), false) FROM cron.job
		WHERE database = current_database() AND command = $1'
		INTO there USING 'CALL @extschema@.ecstats_tick(wait => false)';
	RETURN there;
END $$;
COMMENT ON FUNCTION @extschema@.ecstats_uninstall_cron() IS
	'Takes the ticker of this database out of pg_cron; false if it was not there.';

CREATE OR REPLACE FUNCTION ecstats.job_status(now timestamptz DEFAULT clock_timestamp())
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	t ecstats.job_ticker;
	names text;
BEGIN
	SELECT * INTO t FROM ecstats.job_ticker;
	component := 'ticker';
	status := CASE WHEN t.last_tick_at IS NULL THEN 'warn'
		WHEN t.last_tick_at < now - interval '5 minutes' THEN 'error' ELSE 'ok' END;
	detail := coalesce('last tick at ' || t.last_tick_at::text, 'nobody has ticked yet');
	hint := CASE WHEN status <> 'ok' THEN 'SELECT ecstats_install_cron(); or run ecstats-pusher --tick.' END;
	RETURN NEXT;

	component := 'jobs';
	SELECT string_agg(format('%s (%s)', j.name, f.error), '; ' ORDER BY j.name) INTO names
		FROM ecstats.jobs j CROSS JOIN LATERAL (
			SELECT r.status, left(r.error, 80) AS error FROM ecstats.job_runs r
			WHERE r.job_id = j.job_id AND r.status IN ('succeeded', 'failed')
			ORDER BY r.due_at DESC, r.run_id DESC LIMIT 1) f
		WHERE f.status = 'failed' AND j.enabled;
	status := CASE WHEN names IS NULL THEN 'ok' ELSE 'error' END;
	detail := coalesce('last run failed: ' || names, (SELECT format('%s enabled, %s runs going on, %s waiting',
		(SELECT count(*) FROM ecstats.jobs j WHERE j.enabled),
		count(*) FILTER (WHERE r.status <> 'queued'), count(*) FILTER (WHERE r.status = 'queued'))
		FROM ecstats.job_runs r WHERE r.status IN ('queued', 'claimed', 'running')));
	hint := CASE WHEN names IS NOT NULL THEN 'See ecstats.job_runs; SELECT ecstats_replay_job(run_id) runs it again.' END;
	RETURN NEXT;

	component := 'job runs';
	SELECT string_agg(format('run %s of %s', r.run_id, r.job_name), ', ' ORDER BY r.run_id) INTO names
		FROM ecstats.job_runs r LEFT JOIN ecstats.jobs j USING (job_id)
		WHERE (r.status = 'running' AND (r.started_at + coalesce(j.timeout, '0') < now - interval '2 minutes'
				OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
					WHERE a.pid = r.worker_pid AND a.backend_start = r.worker_started)))
			OR (r.status = 'claimed' AND r.claimed_at < now - interval '2 minutes');
	status := CASE WHEN names IS NULL THEN 'ok' ELSE 'warn' END;
	detail := coalesce('without a worker or past the time-out: ' || names, 'none is stuck');
	hint := CASE WHEN names IS NOT NULL THEN 'The next tick finds them: CALL ecstats_tick(wait => false);' END;
	RETURN NEXT;

	component := 'job workers';
	status := CASE WHEN t.no_worker_at > now - interval '5 minutes' THEN 'warn' ELSE 'ok' END;
	detail := CASE WHEN status = 'ok' THEN 'a place was free whenever one was needed'
		ELSE format('no free background worker at %s: runs wait', t.no_worker_at) END;
	hint := CASE WHEN status <> 'ok' THEN 'Raise max_worker_processes and restart, or lower config.max_running_jobs.' END;
	RETURN NEXT;
END $$;
COMMENT ON FUNCTION ecstats.job_status(timestamptz) IS
	'The schedule''s rows of ecstats_status: ticker, jobs, job runs, job workers; now is by the clock.';
