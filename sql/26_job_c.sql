-- sql/26_job_c.sql
-- What the job area has in C: a look at the command, the worker of a run, the wait for it.

CREATE FUNCTION ecstats.job_check_command(command text) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_job_check_command';
COMMENT ON FUNCTION ecstats.job_check_command(text) IS
	'Raises when a job''s command does not parse (42601), is empty (22023) or copies from or to a client (0A000). Names are not looked up.';

CREATE FUNCTION ecstats.job_start_worker(run_id bigint, claimed_at timestamptz, role oid, name text,
	keep boolean, chain boolean) RETURNS boolean
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_job_start_worker';
COMMENT ON FUNCTION ecstats.job_start_worker(bigint, timestamptz, oid, text, boolean, boolean) IS
	'Launches the background worker of a claimed run, logged in as role; false: no worker slot is free. keep: job_wait waits for it. chain: it launches a waiting run when it ends. Superusers only: use job_launch.';

CREATE FUNCTION ecstats.job_wait(milliseconds int) RETURNS int
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_job_wait';
COMMENT ON FUNCTION ecstats.job_wait(int) IS
	'Waits until a worker that this session launched with keep ends, at most that many milliseconds; returns how many are still going.';
