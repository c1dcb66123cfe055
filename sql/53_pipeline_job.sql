-- sql/53_pipeline_job.sql
-- The jobs that come with the extension, what a failed one sets off, and what a change of clock means.

-- ecstats.job_failed: called by the schedule when a run has failed for good.
CREATE OR REPLACE FUNCTION ecstats.job_failed(job text, run_id bigint, attempt integer, error text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_tell_operators('job:' || job, run_id::text, format('Job %s failed', job),
										   format('Run %s, attempt %s: %s', run_id, attempt, error)) $$;
COMMENT ON FUNCTION ecstats.job_failed(text, bigint, integer, text) IS 'Tells the operators once that a run failed for good.';

-- ecstats.pipeline_daily_schedule: two hours after the business day begins, as a cron expression.
CREATE OR REPLACE FUNCTION ecstats.pipeline_daily_schedule(day_starts_at time) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN extract(second FROM t) = 0 THEN to_char(t, 'FMMI FMHH24') || ' * * *'
				ELSE to_char(t, 'FMSS FMMI FMHH24') || ' * * ?' END
	  FROM (SELECT ('2000-01-01'::date + day_starts_at + interval '2 hours') AS t) x $$;
COMMENT ON FUNCTION ecstats.pipeline_daily_schedule(time) IS 'Cron expression of the daily job: two hours after day_starts_at.';

SELECT ecstats.job_put('daily', current_user::text, ecstats.pipeline_daily_schedule(c.day_starts_at),
	'SELECT @extschema@.ecstats_daily(@extschema@.ecstats_day(current_setting(''ecstats.due_at'')::timestamptz) - 1)')
  FROM ecstats.config c;
SELECT ecstats.job_put('maintain', current_user::text, '17 * * * *', 'CALL @extschema@.ecstats_maintain()');
-- ecstats.pipeline_recall: the shipped recall reports of the latest day that was scored; nothing while no channel is named or
-- nobody was scored. One that fails is told and does not stop the other. Result: deliveries that were queued.
CREATE OR REPLACE FUNCTION ecstats.pipeline_recall() RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT d.name, s.as_of FROM ecstats.reports d CROSS JOIN ecstats.activity_state s
			  WHERE d.name IN ('recall', 'recall_en') AND d.enabled AND d.channels <> '{}' AND s.as_of IS NOT NULL ORDER BY d.name LOOP
		BEGIN
			RETURN QUERY SELECT @extschema@.ecstats_report(r.name, r.as_of);
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(r.name, r.as_of, NULL, SQLSTATE, SQLERRM);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_recall() IS
	'Queues the recall reports of the latest day that was scored, if they have channels, and returns the deliveries; failures are recorded and told, never raised.';
-- Mondays at nine.
SELECT ecstats.job_put('recall', current_user::text, '0 9 * * 1', 'SELECT ecstats.pipeline_recall()');

-- ecstats.pipeline_clock_guard: another time zone or day start would mis-date what is stored. Refused once days are
-- closed. Before that, partitions that were cut by the old clock are dissolved: their rows go to the default
-- partition, which belongs to no day, and maintenance deals them out anew.
CREATE OR REPLACE FUNCTION ecstats.pipeline_clock_guard() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
	IF (NEW.timezone, NEW.day_starts_at) = (OLD.timezone, OLD.day_starts_at) THEN
		RETURN NEW;
	END IF;
	PERFORM ecstats.must_be_read_committed('the shop''s clock changes');
	PERFORM ecstats.rollup_lock();
	IF EXISTS (SELECT FROM ecstats.daily_kpi) THEN
		RAISE EXCEPTION 'the shop''s clock cannot change: days are closed by the old one'
			USING ERRCODE = 'object_not_in_prerequisite_state', SCHEMA = 'ecstats', TABLE = 'config',
				  DETAIL = format('%s days are stored.', (SELECT count(*) FROM ecstats.daily_kpi)),
				  HINT = 'Set timezone and day_starts_at before the first close, or load the raw rows into a new database.';
	END IF;
	PERFORM ecstats.event_partitions_dissolve();
	-- Marks of open days mean nothing; they were dated by the old clock.
	DELETE FROM ecstats.day_marks;
	RETURN NEW;
EXCEPTION WHEN lock_not_available THEN
	RAISE EXCEPTION 'the shop''s clock cannot change now: ecstats.events is in use'
		USING ERRCODE = 'lock_not_available', SCHEMA = 'ecstats', TABLE = 'config',
			  DETAIL = 'A transaction that reads or writes events stayed open for 2 seconds.',
			  HINT = 'Try again when it is over; pg_stat_activity shows it.';
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_clock_guard() IS
	'Trigger on ecstats.config: 55000 once days are closed by the old timezone or day_starts_at; before that, day partitions are dissolved.';
CREATE TRIGGER clock_guard BEFORE UPDATE OF timezone, day_starts_at ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_clock_guard();

CREATE OR REPLACE FUNCTION ecstats.pipeline_clock_changed() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (NEW.timezone, NEW.day_starts_at) <> (OLD.timezone, OLD.day_starts_at) THEN
		PERFORM ecstats.job_reschedule('daily', ecstats.pipeline_daily_schedule(NEW.day_starts_at))
		  FROM ecstats.jobs j
		 WHERE j.name = 'daily' AND j.schedule = ecstats.pipeline_daily_schedule(OLD.day_starts_at);
		PERFORM ecstats.job_timezone_changed();
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_clock_changed() IS
	'Trigger on ecstats.config: the daily job follows day_starts_at unless somebody gave it another time, and jobs without a zone follow timezone.';
CREATE TRIGGER clock_changed AFTER UPDATE OF timezone, day_starts_at ON ecstats.config
	FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_clock_changed();

-- These rows are somebody's work: a plain DROP EXTENSION must not take them along. (Raw rows see to it themselves.)
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.channels
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.templates
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.targets
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.jobs
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.rejects
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();
CREATE TRIGGER guard_wanted AFTER INSERT ON ecstats.deliveries
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.guard_wanted();

