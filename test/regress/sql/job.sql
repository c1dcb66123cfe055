-- The ledger without workers: what a job may be, whose it is, what a tick would claim.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
DROP ROLE IF EXISTS regress_job_ann;
DROP ROLE IF EXISTS regress_job_bob;
DROP ROLE IF EXISTS regress_job_boss;
CREATE ROLE regress_job_boss SUPERUSER LOGIN;
SET SESSION AUTHORIZATION regress_job_boss;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
DELETE FROM ecstats.jobs;
SELECT nextval('ecstats.jobs_job_id_seq') > 0 AS numbered;

-- What the operator profile may do with jobs.
CREATE ROLE regress_job_ann LOGIN;
CREATE ROLE regress_job_bob LOGIN;
CREATE FUNCTION pg_temp.as_operator(role name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA ecstats TO %I', role);
	EXECUTE format('GRANT SELECT, DELETE ON ecstats.jobs TO %I', role);
	EXECUTE format('GRANT INSERT (name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled), UPDATE (name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled) ON ecstats.jobs TO %I', role);
	EXECUTE format('GRANT SELECT, INSERT (job_id, due_at) ON ecstats.job_runs TO %I', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION ecstats_schedule(text, text, text, text, int, text, text, interval), ecstats_unschedule(text), ecstats_run_job(text), ecstats_replay_job(bigint) TO %I', role);
END $$;
SELECT pg_temp.as_operator('regress_job_ann'), pg_temp.as_operator('regress_job_bob');

-- The clock of a job without a zone is config's.
SELECT ecstats_schedule('sums', '30 2 * * *', 'SELECT 1') IS NOT NULL AS made;
SELECT name, owner, schedule, timezone, max_attempts, overlap, catch_up, timeout, enabled, shipped,
	to_char(next_run_at AT TIME ZONE 'Asia/Shanghai', 'HH24:MI:SS') AS next_there,
	next_run_at > now() AND next_run_at <= now() + interval '1 day' AS soon
FROM ecstats.jobs;
-- Again: the same job. Unchanged, it keeps its due time, even one that has come.
UPDATE ecstats.jobs SET next_run_at = '2024-01-01 00:00+00' WHERE name = 'sums';
SELECT (SELECT ecstats_schedule('sums', '30 2 * * *', 'SELECT 2')) = job_id AS same FROM ecstats.jobs WHERE name = 'sums';
SELECT command, next_run_at FROM ecstats.jobs;
SELECT ecstats_schedule('sums', '31 2 * * *', 'SELECT 2', timezone => 'Europe/London') IS NOT NULL AS made;
SELECT to_char(next_run_at AT TIME ZONE 'Europe/London', 'HH24:MI:SS') AS next_there, next_run_at > now() AS later FROM ecstats.jobs;
-- The zone of config moves those that follow it.
SELECT ecstats_schedule('follows', '0 6 * * *', 'SELECT 1') IS NOT NULL AS made;
UPDATE ecstats.config SET timezone = 'America/New_York';
SELECT ecstats.job_timezone_changed();
SELECT name, to_char(next_run_at AT TIME ZONE 'America/New_York', 'HH24:MI:SS') AS new_york FROM ecstats.jobs WHERE name = 'follows';
UPDATE ecstats.config SET timezone = 'UTC';
SELECT ecstats.job_timezone_changed();

-- Refused, and nothing stored.
SELECT ecstats_schedule('bad', '61 2 * * *', 'SELECT 1');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', timezone => 'Mars/Olympus');
SELECT ecstats_schedule('bad', '* * * * *', 'SELEC 1');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1; SELECT (');
SELECT ecstats_schedule('bad', '* * * * *', ' ; ');
SELECT ecstats_schedule('bad', '* * * * *', 'COPY t FROM stdin');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', max_attempts => 0);
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', overlap => 'both');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', catch_up => 'some');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', timeout => '0');
SELECT ecstats_schedule('bad', '* * * * *', 'SELECT 1', timeout => '1 year');
SELECT ecstats_schedule('', '* * * * *', 'SELECT 1');
SELECT ecstats_schedule(NULL, '* * * * *', 'SELECT 1');
SELECT count(*) FROM ecstats.jobs WHERE name NOT IN ('sums', 'follows');

-- Whose it is: the current user's, whatever is written.
SET ROLE regress_job_ann;
SELECT ecstats_schedule('ann', '* * * * *', 'SELECT 1') IS NOT NULL AS made;
INSERT INTO ecstats.jobs (name, owner, schedule, command) VALUES ('ann2', 'regress_job_boss', '0 0 * * *', 'SELECT 1') RETURNING name, owner = current_user AS forced;
UPDATE ecstats.jobs SET owner = 'regress_job_boss' WHERE name = 'ann2' RETURNING name, owner = current_user AS forced;
UPDATE ecstats.jobs SET next_run_at = now() WHERE name = 'ann2';
SELECT ecstats_schedule('sums', '* * * * *', 'SELECT 1');
SELECT ecstats_unschedule('sums');
SELECT ecstats_run_job('sums');
UPDATE ecstats.jobs SET command = 'SELECT 3' WHERE name = 'sums';
DELETE FROM ecstats.jobs WHERE name = 'sums';
-- A restore's way in is none for a thief.
SET check_function_bodies = off;
INSERT INTO ecstats.jobs (name, schedule, command) VALUES ('sums', '* * * * *', 'SELECT 3');
RESET check_function_bodies;
-- Nor is the ledger.
INSERT INTO ecstats.job_runs (job_id, due_at) SELECT job_id, now() FROM ecstats.jobs WHERE name = 'sums';
UPDATE ecstats.job_runs SET status = 'succeeded';
INSERT INTO ecstats.job_runs (job_id, due_at, status) SELECT job_id, now(), 'running' FROM ecstats.jobs WHERE name = 'ann';
RESET ROLE;
-- Inside another's SECURITY DEFINER function it is that one's.
SET ROLE regress_job_bob;
SELECT ecstats_unschedule('ann');
RESET ROLE;
CREATE FUNCTION public.regress_job_by_bob() RETURNS bigint LANGUAGE sql SECURITY DEFINER
	AS $$ SELECT public.ecstats_schedule('bob', '* * * * *', 'SELECT 1') $$;
ALTER FUNCTION public.regress_job_by_bob() OWNER TO regress_job_bob;
SELECT public.regress_job_by_bob() IS NOT NULL AS made;
SELECT name, owner FROM ecstats.jobs ORDER BY name;
DROP FUNCTION public.regress_job_by_bob();
-- A superuser may give a job away, not take one over by accident.
SELECT ecstats_schedule('bob', '* * * * *', 'SELECT 1');
UPDATE ecstats.jobs SET owner = 'regress_job_bob' WHERE name = 'ann2' RETURNING owner;
UPDATE ecstats.jobs SET owner = 'regress_job_nobody' WHERE name = 'ann2';
SELECT ecstats_unschedule('ann2'), ecstats_unschedule('ann2') AS again;

-- A job that came with the extension is disabled, not dropped, and takes a negative id.
SELECT ecstats.job_put('shipped', 'regress_job_ann', '0 2 * * *', 'SELECT 1') < 0 AS negative;
SELECT ecstats.job_put('shipped', 'regress_job_ann', '0 3 * * *', 'SELECT 1') IS NULL AS taken;
SELECT ecstats.job_reschedule('shipped', '0 4 * * *'), ecstats.job_reschedule('shipped', '0 4 * * *') AS again;
SELECT ecstats_unschedule('shipped');
SELECT name, schedule, enabled, next_run_at, shipped FROM ecstats.jobs WHERE shipped AND name = 'shipped';

-- What a tick claims. Due times and now are given; nothing is launched.
DELETE FROM ecstats.jobs;
TRUNCATE ecstats.job_runs;
CREATE FUNCTION pg_temp.due(name text, at timestamptz) RETURNS void LANGUAGE sql
	AS $$ UPDATE ecstats.jobs j SET next_run_at = $2 WHERE j.name = $1 $$;
SELECT ecstats_schedule(c || '-' || o, '0 * * * *', 'SELECT 1', timezone => 'UTC', catch_up => c, overlap => o) IS NOT NULL AS made
	FROM unnest(ARRAY['last', 'all', 'none']) c, unnest(ARRAY['skip', 'queue']) o;
UPDATE ecstats.jobs SET next_run_at = '2024-03-01 10:00+00';
SELECT ecstats.job_claim('2024-03-01 09:59:59+00') AS none_yet;
SELECT ecstats.job_claim('2024-03-01 13:30+00') AS jobs, ecstats.job_claim('2024-03-01 13:30+00') AS again;
SELECT job_name, due_at, status, error FROM ecstats.job_runs ORDER BY job_name, due_at;
SELECT DISTINCT next_run_at FROM ecstats.jobs;
-- The next due time comes while the last one still waits for a place; then while it runs.
SELECT ecstats.job_claim('2024-03-01 14:00+00') AS jobs;
SELECT job_name, due_at, status, error IS NOT NULL AS said_why FROM ecstats.job_runs WHERE due_at = '2024-03-01 14:00+00' ORDER BY job_name;
-- A place each, one run of a job at a time, oldest first, no more than there are places.
UPDATE ecstats.config SET max_running_jobs = 4;
SELECT count(ecstats.job_take('2024-03-01 14:00+00')) AS taken FROM generate_series(1, 9);
SELECT job_name, due_at, status FROM ecstats.job_runs WHERE status = 'claimed' ORDER BY job_name, due_at;
UPDATE ecstats.config SET max_running_jobs = 100;
SELECT count(ecstats.job_take('2024-03-01 14:00+00')) AS taken FROM generate_series(1, 9);
SELECT job_name, count(*) FROM ecstats.job_runs WHERE status = 'claimed' GROUP BY 1 ORDER BY 1;
-- Nobody launched them: they are found after a minute, and tried again after their back-off.
SELECT ecstats.job_reap('2024-03-01 14:00+00') AS too_early;
UPDATE ecstats.job_runs SET claimed_at = claimed_at - interval '2 minutes' WHERE status = 'claimed';
SELECT ecstats.job_reap('2024-03-01 14:05+00') AS dead;
SELECT job_name, due_at, attempt, status, launch_after, error, sqlstate FROM ecstats.job_runs
	WHERE job_name = 'none-queue' ORDER BY due_at, attempt;
-- A far outage of a job that is due each second is found by halving.
SELECT ecstats_schedule('second', '* * * * * ?', 'SELECT 1', timezone => 'UTC') IS NOT NULL AS made;
SELECT pg_temp.due('second', '2014-01-01 00:00+00');
SELECT ecstats.job_claim('2024-03-01 14:05:07.5+00') AS jobs;
SELECT due_at, status FROM ecstats.job_runs WHERE job_name = 'second';
SELECT next_run_at FROM ecstats.jobs WHERE name = 'second';
-- All of them, a thousand at a time.
SELECT ecstats_schedule('second', '* * * * * ?', 'SELECT 1', timezone => 'UTC', catch_up => 'all') IS NOT NULL AS made;
TRUNCATE ecstats.job_runs;
SELECT ecstats.job_claim('2024-03-01 14:30+00') AS jobs;
SELECT count(*), min(due_at), max(due_at) FROM ecstats.job_runs WHERE job_name = 'second';
SELECT next_run_at FROM ecstats.jobs WHERE name = 'second';
-- Claimed twice, recorded once.
SELECT pg_temp.due('second', '2024-03-01 14:10+00');
SELECT ecstats.job_claim('2024-03-01 14:10+00') AS jobs;
SELECT count(*) FROM ecstats.job_runs WHERE job_name = 'second' AND due_at = '2024-03-01 14:10+00';
-- What waits of a job that is dropped or disabled is cancelled.
UPDATE ecstats.jobs SET enabled = false WHERE name = 'second';
SELECT status, count(*) FROM ecstats.job_runs WHERE job_name = 'second' GROUP BY 1;
SELECT ecstats_unschedule('second');

-- Asked for.
SELECT ecstats_run_job('nothing');
SELECT ecstats_replay_job(-1);
TRUNCATE ecstats.job_runs;
SELECT ecstats_run_job('last-skip') AS run \gset
SELECT job_name, replay, attempt, status, launch_after FROM ecstats.job_runs WHERE run_id = :run;
SELECT ecstats_replay_job(:run) IS NOT NULL;
-- It does not count as going on while it waits.
SELECT pg_temp.due('last-skip', '2024-03-02 10:00+00');
SELECT ecstats.job_claim('2024-03-02 10:00+00') >= 1 AS claimed;
SELECT due_at, status FROM ecstats.job_runs WHERE job_name = 'last-skip' AND run_id <> :run;
-- Illegal steps.
UPDATE ecstats.job_runs SET status = 'succeeded' WHERE run_id = :run;
UPDATE ecstats.job_runs SET status = 'lost' WHERE run_id = :run;

-- Only READ COMMITTED sees what it must.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats.job_take('2024-03-01 14:00+00');
ROLLBACK;
BEGIN;
CALL ecstats_tick();
ROLLBACK;

-- The last attempt's failure is told; somebody who cannot be told is a warning.
TRUNCATE ecstats.job_runs;
CREATE TABLE public.regress_job_told (name text, run bigint, attempt int, error text);
CREATE OR REPLACE FUNCTION ecstats.job_failed(job text, run_id bigint, attempt int, error text) RETURNS void
	LANGUAGE sql AS $$ INSERT INTO public.regress_job_told VALUES ($1, $2, $3, $4) $$;
SELECT ecstats_schedule('fails', '0 0 * * *', 'SELECT 1', max_attempts => 2) IS NOT NULL AS made;
SELECT pg_temp.due('fails', '2024-05-01 00:00+00');
SELECT ecstats.job_claim('2024-05-01 00:00+00') >= 1 AS claimed;
SELECT ecstats.job_run_move(run_id, 'claimed', now()) FROM ecstats.job_runs WHERE job_name = 'fails';
SELECT ecstats.job_run_end(run_id, '2024-05-01 00:00+00', 0, 'one', 'XX000', NULL, NULL) FROM ecstats.job_runs WHERE job_name = 'fails' AND attempt = 1;
SELECT count(*) AS told FROM public.regress_job_told;
SELECT ecstats.job_run_move(run_id, 'claimed', now()) FROM ecstats.job_runs WHERE job_name = 'fails' AND attempt = 2;
SELECT ecstats.job_run_end(run_id, '2024-05-01 00:01+00', 0, 'two', 'XX000', NULL, NULL) FROM ecstats.job_runs WHERE job_name = 'fails' AND attempt = 2;
SELECT name, attempt, error FROM public.regress_job_told;
SELECT status, attempt, error, launch_after FROM ecstats.job_runs WHERE job_name = 'fails' ORDER BY attempt;
-- A replay has all its attempts.
SELECT ecstats_replay_job(run_id) IS NOT NULL FROM ecstats.job_runs WHERE job_name = 'fails' AND status = 'failed';
SELECT ecstats_replay_job(run_id) FROM ecstats.job_runs WHERE job_name = 'fails' AND status = 'retry';
SELECT due_at, replay, attempt, status FROM ecstats.job_runs WHERE job_name = 'fails' ORDER BY replay, attempt;
SELECT ecstats.job_prune('infinity', 1), ecstats.job_prune('infinity') > 0, (SELECT count(*) FROM ecstats.job_runs WHERE finished_at IS NOT NULL);
SELECT component, status FROM ecstats.job_status('2100-01-01');

SET client_min_messages = warning;
RESET SESSION AUTHORIZATION;
DROP TABLE public.regress_job_told;
DROP EXTENSION ecstats CASCADE;
DROP OWNED BY regress_job_boss;
DROP ROLE regress_job_boss;
DROP ROLE regress_job_ann;
DROP ROLE regress_job_bob;
