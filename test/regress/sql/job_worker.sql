-- Runs in background workers: what a command can do, what it cannot, and what the ledger says of it.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP SCHEMA IF EXISTS regress_job CASCADE;
DROP ROLE IF EXISTS regress_job_ann;
DROP ROLE IF EXISTS regress_job_ticker;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'UTC';
DELETE FROM ecstats.jobs;

-- Ann may schedule. The internals are nobody's, as 90_grants.sql has it.
CREATE ROLE regress_job_ann LOGIN;
CREATE SCHEMA regress_job AUTHORIZATION regress_job_ann;
GRANT USAGE ON SCHEMA ecstats TO regress_job_ann;
GRANT SELECT, DELETE, INSERT (name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled),
	UPDATE (name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled) ON ecstats.jobs TO regress_job_ann;
GRANT SELECT ON ecstats.job_runs TO regress_job_ann;
GRANT EXECUTE ON FUNCTION ecstats_schedule(text, text, text, text, int, text, text, interval) TO regress_job_ann;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA ecstats FROM PUBLIC;
CREATE TABLE regress_job.told (name text, attempt int, error text);
-- The pipeline's function writes to the operators' channel; here it leaves a note.
CREATE OR REPLACE FUNCTION ecstats.job_failed(job text, run_id bigint, attempt int, error text) RETURNS void
	LANGUAGE sql AS $$ INSERT INTO regress_job.told VALUES ($1, $3, $4) $$;
SET ROLE regress_job_ann;
CREATE TABLE regress_job.log (id int GENERATED ALWAYS AS IDENTITY, what text, by_session text DEFAULT session_user, by_user text DEFAULT current_user,
	due text DEFAULT current_setting('ecstats.due_at', true));
CREATE PROCEDURE regress_job.commits() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_job.log (what) VALUES ('kept');
	COMMIT;
	INSERT INTO regress_job.log (what) VALUES ('rolled back');
	ROLLBACK;
	INSERT INTO regress_job.log (what) VALUES ('kept too');
END $$;
-- A deferred trigger fires when the command's transaction ends.
CREATE FUNCTION regress_job.later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_job.log (what) VALUES ('deferred');
	RETURN NULL;
END $$;
CREATE TABLE regress_job.trap (x int);
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON regress_job.trap DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION regress_job.later();
RESET ROLE;

-- Makes a job of Ann's that is due at noon, and runs it.
CREATE PROCEDURE regress_job.run(name text, command text, attempts int DEFAULT 1, timeout interval DEFAULT '1 minute')
	LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM ecstats.jobs;
	SET ROLE regress_job_ann;
	PERFORM public.ecstats_schedule(name, '0 12 * * *', command, max_attempts => attempts, timeout => timeout);
	RESET ROLE;
	UPDATE ecstats.jobs SET next_run_at = '2024-03-01 12:00+00';
	COMMIT;
	CALL public.ecstats_tick('2024-03-01 12:00+00');
END $$;
CREATE VIEW regress_job.runs AS
	SELECT job_name, owner, due_at, attempt, status, rows, sqlstate, error, detail, split_part(context, E'\n', 1) AS context
	FROM ecstats.job_runs ORDER BY run_id;

\x on
CALL regress_job.run('plain', 'INSERT INTO regress_job.log (what) VALUES (current_setting(''application_name'')); SELECT generate_series(1, 4)');
SELECT * FROM regress_job.runs;
SELECT started_at <= finished_at AND duration < '1 minute' AND worker_pid <> pg_backend_pid() AS sane FROM ecstats.job_runs;
CALL regress_job.run('procedure', 'CALL regress_job.commits()');
CALL regress_job.run('block', 'BEGIN; INSERT INTO regress_job.log (what) VALUES (''never''); ROLLBACK; BEGIN; INSERT INTO regress_job.log (what) VALUES (''block''); COMMIT; VACUUM regress_job.log');
TRUNCATE ecstats.job_runs;

-- Errors: what was committed before stays; where it went wrong is said.
CALL regress_job.run('error', 'INSERT INTO regress_job.log (what) VALUES (''before''); SELECT 1 / 0; SELECT 2');
CALL regress_job.run('missing', 'SELECT * FROM regress_job.nowhere');
CALL regress_job.run('open', 'BEGIN; INSERT INTO regress_job.log (what) VALUES (''never'')');
CALL regress_job.run('slow', 'SELECT pg_sleep(30)', 1, '50 milliseconds');
CALL regress_job.run('slow-all', 'SELECT pg_sleep(0.03); SELECT pg_sleep(30)', 1, '60 milliseconds');
CALL regress_job.run('own-limit', 'SET statement_timeout = 20; SELECT pg_sleep(30)', 1);
SELECT * FROM regress_job.runs;
TRUNCATE ecstats.job_runs;

-- Nobody else: not by role, session, trigger, nor by the ledger's own functions.
CALL regress_job.run('reset', 'RESET ROLE; RESET SESSION AUTHORIZATION; INSERT INTO regress_job.log (what) VALUES (''reset''); RESET ALL; INSERT INTO regress_job.log (what) VALUES (''reset all'')');
CALL regress_job.run('superuser', 'DO $d$ BEGIN EXECUTE format(''SET SESSION AUTHORIZATION %I'', (SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY oid LIMIT 1)); END $d$');
CALL regress_job.run('deferred', 'INSERT INTO regress_job.trap VALUES (1)');
CALL regress_job.run('forge', 'SELECT ecstats.job_run_finish(run_id, 0, NULL, NULL, NULL, NULL) FROM ecstats.job_runs');
CALL regress_job.run('forge-begin', 'SELECT ecstats.job_run_begin(1, now(), now())');
CALL regress_job.run('forge-row', 'UPDATE ecstats.job_runs SET status = ''succeeded''');
CALL regress_job.run('launch', 'SELECT ecstats.job_start_worker(1, now(), 10, ''x'', true, true)');
SELECT job_name, status, sqlstate, error FROM regress_job.runs WHERE job_name <> 'superuser';
SELECT status, sqlstate FROM regress_job.runs WHERE job_name = 'superuser';
TRUNCATE ecstats.job_runs;
\x off
SELECT what, by_session, by_user, due FROM regress_job.log ORDER BY id;
-- A superuser who launches a worker for a run that is not claimed gets nothing.
SELECT ecstats.job_start_worker(4711, now(), 'regress_job_ann'::regrole, 'none', true, false);
SELECT ecstats.job_wait(10000);

-- What a role or a command sets does not keep the report from being written.
ALTER ROLE regress_job_ann SET default_transaction_read_only = on;
ALTER ROLE regress_job_ann SET default_transaction_isolation = 'serializable';
ALTER ROLE regress_job_ann SET lock_timeout = '7s';
CALL regress_job.run('settings', 'SET search_path = regress_job; SET default_transaction_read_only = off; INSERT INTO log (what) VALUES (current_setting(''lock_timeout''))');
ALTER ROLE regress_job_ann RESET ALL;
SELECT job_name, status, error FROM regress_job.runs;
SELECT what FROM regress_job.log ORDER BY id DESC LIMIT 1;
TRUNCATE ecstats.job_runs;

-- A worker that dies is found, and its run tried again; at last the operators are told, once.
TRUNCATE regress_job.told;
CALL regress_job.run('dies', 'SELECT pg_terminate_backend(pg_backend_pid())', 2);
SELECT attempt, status, sqlstate, error, launch_after FROM ecstats.job_runs ORDER BY run_id;
CALL ecstats_tick('2024-03-01 12:00:59+00');
CALL ecstats_tick('2024-03-01 12:01:00+00');
CALL ecstats_tick('2024-03-01 12:30:00+00');
SELECT attempt, status, sqlstate, error, launch_after FROM ecstats.job_runs ORDER BY run_id;
SELECT * FROM regress_job.told;
TRUNCATE ecstats.job_runs;
-- A running run of another cluster, or of before a crash, is no worker of this one.
INSERT INTO ecstats.job_runs (job_id, due_at, status, worker_pid, worker_started, started_at)
	SELECT job_id, '2024-03-01 11:00+00', 'running', pg_backend_pid(), '2020-01-01', '2020-01-01' FROM ecstats.jobs;
CALL ecstats_tick('2024-03-01 12:30:00+00');
SELECT due_at, attempt, status, launch_after FROM ecstats.job_runs ORDER BY run_id;
TRUNCATE ecstats.job_runs;

-- An owner who cannot log in.
ALTER ROLE regress_job_ann NOLOGIN;
CALL regress_job.run('nologin', 'SELECT 1');
SELECT status, sqlstate, error, detail FROM ecstats.job_runs ORDER BY run_id;
ALTER ROLE regress_job_ann LOGIN;
TRUNCATE ecstats.job_runs;

-- More runs than places: a waiting ticker sees them all through; so do the runs themselves.
DELETE FROM ecstats.jobs;
UPDATE ecstats.config SET max_running_jobs = 2;
SELECT count(ecstats_schedule('many' || i, '0 12 * * *', 'SELECT pg_sleep(0.02)')) FROM generate_series(1, 7) i;
UPDATE ecstats.jobs SET next_run_at = '2024-03-01 12:00+00';
CALL ecstats_tick('2024-03-01 12:00+00', wait => true);
SELECT status, count(*), count(DISTINCT job_id) AS jobs FROM ecstats.job_runs GROUP BY 1;
CREATE PROCEDURE regress_job.until(query text) LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '20 seconds';
	done boolean;
BEGIN
	LOOP
		EXECUTE query INTO done;
		EXIT WHEN done;
		IF clock_timestamp() > deadline THEN
			RAISE 'waited too long for: %', query;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CALL ecstats_tick('2024-03-02 12:00+00', wait => false);
CALL regress_job.until('SELECT count(*) = 14 FROM ecstats.job_runs WHERE status = ''succeeded''');
CALL regress_job.until('SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = ''ecstats job''');
-- Queued runs of one job, one after another.
DELETE FROM ecstats.jobs;
TRUNCATE ecstats.job_runs;
UPDATE ecstats.config SET max_running_jobs = 10;
SELECT ecstats_schedule('each', '0 * * * *', 'SELECT pg_sleep(0.01)', catch_up => 'all', overlap => 'queue') IS NOT NULL AS made;
UPDATE ecstats.jobs SET next_run_at = '2024-03-01 08:00+00';
CALL ecstats_tick('2024-03-01 12:00+00');
SELECT due_at, status, lag(finished_at) OVER (ORDER BY due_at) <= started_at AS after_the_last FROM ecstats.job_runs ORDER BY due_at;
-- Again, by hand.
SELECT count(ecstats_replay_job(run_id)) FROM ecstats.job_runs WHERE due_at = '2024-03-01 09:00+00';
SELECT ecstats_run_job('each') IS NOT NULL AS asked;
CALL ecstats_tick('2024-03-01 12:00+00');
SELECT replay, status, due_at >= '2024-03-01 12:30+00' AS now FROM ecstats.job_runs WHERE due_at = '2024-03-01 09:00+00' OR due_at > '2024-03-01 12:30+00' ORDER BY run_id;
SELECT component, status FROM ecstats.job_status();
-- A ticker is no superuser, and what it launches is not the ticker's.
DELETE FROM ecstats.jobs;
CREATE ROLE regress_job_ticker;
GRANT USAGE ON SCHEMA ecstats TO regress_job_ticker;
GRANT EXECUTE ON PROCEDURE ecstats_tick(timestamptz, boolean) TO regress_job_ticker;
GRANT EXECUTE ON FUNCTION ecstats.job_beat(timestamptz), ecstats.job_reap(timestamptz, bigint[]), ecstats.job_claim(timestamptz, int),
	ecstats.job_take(timestamptz), ecstats.job_launch(bigint, boolean, boolean), ecstats.job_wait(int) TO regress_job_ticker;
TRUNCATE ecstats.job_runs;
SET ROLE regress_job_ann;
SELECT ecstats_schedule('of ann', '0 13 * * *', 'INSERT INTO regress_job.log (what) VALUES (''ticked by another'')') IS NOT NULL AS made;
RESET ROLE;
UPDATE ecstats.jobs SET next_run_at = '2024-03-01 13:00+00' WHERE name = 'of ann';
SET default_transaction_isolation = 'serializable';
SET ROLE regress_job_ticker;
CALL ecstats_tick('2024-03-01 13:00+00');
SELECT ecstats.job_start_worker(1, now(), 10, 'x', true, true);
RESET ROLE;
RESET default_transaction_isolation;
SELECT job_name, owner, status, error FROM ecstats.job_runs ORDER BY job_name;
SELECT what, by_session FROM regress_job.log ORDER BY id DESC LIMIT 1;

SET client_min_messages = warning;
DROP SCHEMA regress_job CASCADE;
DROP EXTENSION ecstats CASCADE;
DROP ROLE regress_job_ann;
DROP ROLE regress_job_ticker;

-- a procedure that commits keeps the plan that runs it: the shipped job maintain among them
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
INSERT INTO ecstats.events (event_time, user_id, event) SELECT '2026-01-01'::timestamptz + i * interval '1 day', 'u', 'e' FROM generate_series(1, 20) i;
CREATE PROCEDURE public.commits() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 10 LOOP
		CREATE TABLE public.commits_t (a int);
		DROP TABLE public.commits_t;
		COMMIT;
	END LOOP;
END $$;
SELECT ecstats_schedule('commits', '0 0 1 1 *', 'CALL public.commits()') > 0 AS scheduled;
SELECT ecstats_run_job('commits') > 0 AS asked, ecstats_run_job('maintain') > 0 AS asked;
CALL ecstats_tick();
SELECT job_name, attempt, status, error FROM ecstats.job_runs ORDER BY 1, 2;
SELECT count(*) FROM ecstats.events_default;
DROP PROCEDURE public.commits();

-- a role that is made later under a job's owner's name inherits no job
CREATE ROLE ecstats_job_reused LOGIN;
SELECT ecstats_grant('ecstats_job_reused', 'operator');
SET SESSION AUTHORIZATION ecstats_job_reused;
SELECT ecstats_schedule('trap', '0 0 1 1 *', 'SELECT 1') > 0 AS scheduled;
RESET SESSION AUTHORIZATION;
DROP OWNED BY ecstats_job_reused;
DROP ROLE ecstats_job_reused;
CREATE ROLE ecstats_job_reused LOGIN SUPERUSER;
SELECT ecstats_run_job('trap') > 0 AS asked;
CALL ecstats_tick();
SELECT status, sqlstate, error FROM ecstats.job_runs WHERE job_name = 'trap' ORDER BY run_id;
DROP ROLE ecstats_job_reused;

-- only a superuser ticks ahead of the clock
CREATE ROLE ecstats_job_ticks LOGIN;
SELECT ecstats_grant('ecstats_job_ticks', 'pusher');
SET SESSION AUTHORIZATION ecstats_job_ticks;
\set VERBOSITY terse
CALL ecstats_tick('2100-01-01 00:00+00');
\set VERBOSITY default
RESET SESSION AUTHORIZATION;
DROP OWNED BY ecstats_job_ticks;
DROP ROLE ecstats_job_ticks;
