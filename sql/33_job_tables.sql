-- sql/33_job_tables.sql
-- The ledger: what is to run and when, and every run there was.

CREATE TABLE ecstats.jobs (
	job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE
		CHECK (octet_length(name) BETWEEN 1 AND 128 AND name !~ '[[:cntrl:]]'),
	owner text NOT NULL DEFAULT current_user,
	owner_id oid,
	schedule text NOT NULL CHECK (octet_length(schedule) BETWEEN 1 AND 1000),
	command text NOT NULL CHECK (octet_length(command) BETWEEN 1 AND 1000000),
	timezone text,
	max_attempts int NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 20),
	overlap text NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'queue')),
	catch_up text NOT NULL DEFAULT 'last' CHECK (catch_up IN ('last', 'all', 'none')),
	timeout interval NOT NULL DEFAULT '1 hour'
		CHECK (timeout >= '1 millisecond' AND timeout <= '20 days'),
	enabled boolean NOT NULL DEFAULT true,
	next_run_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	shipped boolean NOT NULL DEFAULT false
);
CREATE INDEX jobs_due ON ecstats.jobs (next_run_at) WHERE enabled;
COMMENT ON TABLE ecstats.jobs IS 'What is run on a schedule. Written by ecstats_schedule and ecstats_unschedule, or directly; the owner is the current user, whatever is written (a superuser may set another).';
COMMENT ON COLUMN ecstats.jobs.job_id IS 'Number of the job';
COMMENT ON COLUMN ecstats.jobs.name IS 'Name, unique';
COMMENT ON COLUMN ecstats.jobs.command IS 'What is run';
COMMENT ON COLUMN ecstats.jobs.enabled IS 'false: no due time is claimed';
COMMENT ON COLUMN ecstats.jobs.created_at IS 'When it was made';
COMMENT ON COLUMN ecstats.jobs.updated_at IS 'When it was changed last';
COMMENT ON COLUMN ecstats.jobs.owner IS 'The role that runs of this job log in as, by name.';
COMMENT ON COLUMN ecstats.jobs.owner_id IS 'Which role that name was when the job was written: a role made later under the same name inherits no jobs. NULL after a restore, until the next tick.';
COMMENT ON COLUMN ecstats.jobs.schedule IS 'Cron expression: five fields unix, six or seven Quartz.';
COMMENT ON COLUMN ecstats.jobs.timezone IS 'IANA zone of the schedule; NULL follows config.timezone.';
COMMENT ON COLUMN ecstats.jobs.max_attempts IS 'Attempts in all, at each due time.';
COMMENT ON COLUMN ecstats.jobs.overlap IS 'A due time while a run of the job is going on: skip it, or queue it until that run has ended.';
COMMENT ON COLUMN ecstats.jobs.catch_up IS 'Due times missed while nobody ticked: run the last one, all of them, or none.';
COMMENT ON COLUMN ecstats.jobs.timeout IS 'How long one attempt may take before it is canceled.';
COMMENT ON COLUMN ecstats.jobs.next_run_at IS 'The next due time that no tick has claimed; NULL: never again, or not enabled.';
COMMENT ON COLUMN ecstats.jobs.shipped IS 'Came with the extension: ecstats_unschedule disables it, since a dropped one would be back after a restore.';

CREATE TABLE ecstats.job_runs (
	run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	job_id bigint NOT NULL,
	job_name text,
	owner text,
	due_at timestamptz NOT NULL,
	replay int NOT NULL CHECK (replay >= 0),
	attempt int NOT NULL DEFAULT 1 CHECK (attempt >= 1),
	status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'claimed', 'running',
		'succeeded', 'retry', 'failed', 'skipped', 'cancelled')),
	launch_after timestamptz NOT NULL DEFAULT '-infinity',
	tick_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	claimed_at timestamptz,
	started_at timestamptz,
	finished_at timestamptz,
	duration interval GENERATED ALWAYS AS (finished_at - started_at) STORED,
	worker_pid int,
	worker_started timestamptz,
	rows bigint,
	error text,
	sqlstate text,
	detail text,
	context text,
	UNIQUE (job_id, due_at, replay, attempt)
);
CREATE INDEX job_runs_queued ON ecstats.job_runs (launch_after, due_at, run_id) WHERE status = 'queued';
CREATE INDEX job_runs_active ON ecstats.job_runs (job_id) WHERE status IN ('claimed', 'running');
CREATE INDEX job_runs_finished ON ecstats.job_runs (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE ecstats.job_runs IS 'Every attempt at every due time: one row an attempt, so that what went wrong before it went well stays visible. Outlives its job; pruned by config.log_retention.';
COMMENT ON COLUMN ecstats.job_runs.run_id IS 'Number of the attempt';
COMMENT ON COLUMN ecstats.job_runs.job_id IS 'Number in ecstats.jobs, also of a job that is gone';
COMMENT ON COLUMN ecstats.job_runs.job_name IS 'Name of the job';
COMMENT ON COLUMN ecstats.job_runs.owner IS 'Role that the command ran as';
COMMENT ON COLUMN ecstats.job_runs.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN ecstats.job_runs.created_at IS 'When the row was made';
COMMENT ON COLUMN ecstats.job_runs.claimed_at IS 'When a tick claimed it';
COMMENT ON COLUMN ecstats.job_runs.started_at IS 'When the worker began';
COMMENT ON COLUMN ecstats.job_runs.finished_at IS 'When it ended';
COMMENT ON COLUMN ecstats.job_runs.duration IS 'finished_at - started_at';
COMMENT ON COLUMN ecstats.job_runs.worker_pid IS 'Process of the worker';
COMMENT ON COLUMN ecstats.job_runs.error IS 'Message of the failure';
COMMENT ON COLUMN ecstats.job_runs.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN ecstats.job_runs.detail IS 'Detail of the failure';
COMMENT ON COLUMN ecstats.job_runs.context IS 'Context of the failure';
COMMENT ON COLUMN ecstats.job_runs.due_at IS 'The due time that the run is for; it sees it as current_setting(''ecstats.due_at'').';
COMMENT ON COLUMN ecstats.job_runs.replay IS '0: the run of the due time; n: its n-th replay, with attempts of its own.';
COMMENT ON COLUMN ecstats.job_runs.status IS 'queued (waits for its turn), claimed (a worker is being launched), running, succeeded, retry (this attempt failed, the next one is a row of its own), failed (the last attempt failed), skipped (overlap or catch_up said so), cancelled (the job was disabled or unscheduled).';
COMMENT ON COLUMN ecstats.job_runs.launch_after IS 'Not launched by a tick of an earlier time: the due time, or the end of the back-off; -infinity: by the next tick.';
COMMENT ON COLUMN ecstats.job_runs.tick_at IS 'The time of the tick that claimed it.';
COMMENT ON COLUMN ecstats.job_runs.worker_started IS 'backend_start of the worker: with worker_pid it is the worker, in this or any other cluster.';
COMMENT ON COLUMN ecstats.job_runs.rows IS 'Rows processed by the command''s statements in all, returned ones too.';

-- One row. Locking it is what makes takers of places queue up; a beat of the ticker is written to it.
CREATE TABLE ecstats.job_ticker (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	last_tick_at timestamptz,
	ticked_for timestamptz,
	no_worker_at timestamptz
);
INSERT INTO ecstats.job_ticker DEFAULT VALUES;
COMMENT ON TABLE ecstats.job_ticker IS 'When ecstats_tick last ran, by the clock, which time it went by, and when it last found no free background worker.';
