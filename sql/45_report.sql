-- sql/45_report.sql
-- Rules of templates and reports, the facts of a report, and the message made of them. Rendering and
-- checking a template is C (24); queueing the message is the pipeline's (50).

-- While pg_dump's output is loaded a restored row replaces the shipped row of its key. pg_dump turns
-- check_function_bodies off, which is how it is told.

-- report_template_insert: trigger. Checks the template, numbers a new version, retires the active one.
-- Runs with the owner's rights, so that INSERT alone is enough to publish a new version. It reads the
-- table only to number a version that has none and to retire others, which holds in any restore order.
CREATE OR REPLACE FUNCTION ecstats.report_template_insert() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NEW.body IS NOT NULL THEN
		PERFORM ecstats.template_check(NEW.body);
	END IF;
	PERFORM pg_advisory_xact_lock(hashtextextended('ecstats.templates:' || NEW.name, 0));
	IF NEW.version IS NULL THEN
		SELECT coalesce(max(t.version), 0) + 1 INTO NEW.version
		  FROM ecstats.templates t WHERE t.name = NEW.name;
	ELSIF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		DELETE FROM ecstats.templates t WHERE t.name = NEW.name AND t.version = NEW.version;
	ELSIF EXISTS (SELECT FROM ecstats.templates t WHERE t.name = NEW.name AND t.version = NEW.version) THEN
		RETURN NEW;		-- the key refuses it, or ON CONFLICT decides; the active version stays
	END IF;
	IF NEW.active THEN
		UPDATE ecstats.templates t SET active = false WHERE t.name = NEW.name AND t.active;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_template_insert() IS
	'trigger of ecstats.templates: 22023 with the position for a wrong template; numbers and activates a new version';

-- report_template_update: trigger. A version is what was sent with it: only active and note may change.
CREATE OR REPLACE FUNCTION ecstats.report_template_update() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (NEW.name, NEW.version, NEW.body, NEW.created_at)
		IS DISTINCT FROM (OLD.name, OLD.version, OLD.body, OLD.created_at) THEN
		RAISE EXCEPTION 'version % of template "%" cannot be changed', OLD.version, OLD.name
			USING ERRCODE = 'object_not_in_prerequisite_state', COLUMN = 'body',
				  DETAIL = 'Only active and note of a stored version may be updated.',
				  HINT = 'INSERT the template without a version: it becomes the next one and is active at once.';
	END IF;
	IF NEW.active AND NOT OLD.active THEN
		PERFORM pg_advisory_xact_lock(hashtextextended('ecstats.templates:' || NEW.name, 0));
		UPDATE ecstats.templates t SET active = false WHERE t.name = NEW.name AND t.active;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_template_update() IS
	'trigger of ecstats.templates: bodies are immutable (55000); activating a version retires the other one';

CREATE OR REPLACE TRIGGER template_insert BEFORE INSERT ON ecstats.templates
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_template_insert();
CREATE OR REPLACE TRIGGER template_update BEFORE UPDATE ON ecstats.templates
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_template_update();

-- report_write: trigger. Forces the owner, refuses what this version does not serve. Runs with the
-- writer's rights: it asks who that is.
CREATE OR REPLACE FUNCTION ecstats.report_write() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	is_super boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
	IF TG_OP = 'INSERT' THEN
		IF NOT is_super OR NEW.owner IS NULL THEN
			NEW.owner := current_user;
		END IF;
		IF (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
			DELETE FROM ecstats.reports r WHERE r.name = NEW.name;
		END IF;
	ELSIF NEW.owner IS DISTINCT FROM OLD.owner AND NOT is_super THEN
		RAISE EXCEPTION 'permission denied to change the owner of report "%"', OLD.name
			USING ERRCODE = 'insufficient_privilege', HINT = 'A superuser may set another owner.';
	END IF;

	IF NEW.dataset IN ('weekly', 'monthly', 'custom') THEN
		RAISE EXCEPTION 'reports of dataset "%" are not supported yet', NEW.dataset
			USING ERRCODE = 'feature_not_supported', COLUMN = 'dataset', HINT = 'Use dataset daily or activity.';
	END IF;
	IF NEW.schedule IS NOT NULL THEN
		RAISE EXCEPTION 'a schedule of a report''s own is not supported yet'
			USING ERRCODE = 'feature_not_supported', COLUMN = 'schedule',
				  HINT = 'Leave schedule NULL: the report goes out when its day is closed, at the time of job daily.';
	END IF;

	-- array_append of a channel that is there already changes nothing
	IF cardinality(NEW.channels) > 1 THEN
		NEW.channels := ARRAY(SELECT c.name FROM unnest(NEW.channels) WITH ORDINALITY c(name, n)
							   GROUP BY c.name ORDER BY min(c.n));
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION ecstats.report_write() IS
	'trigger of ecstats.reports: owner is the writer, unserved datasets and schedules are 0A000, channels are listed once';

CREATE OR REPLACE TRIGGER report_write BEFORE INSERT OR UPDATE ON ecstats.reports
	FOR EACH ROW EXECUTE FUNCTION ecstats.report_write();

-- report_row: the definition of a report, or 42704 with what there is.
CREATE OR REPLACE FUNCTION ecstats.report_row(report text) RETURNS ecstats.reports
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	definition ecstats.reports;
BEGIN
	SELECT * INTO definition FROM ecstats.reports r WHERE r.name = report_row.report;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'report "%" does not exist', left(report, 64)
			USING ERRCODE = 'undefined_object',
				  DETAIL = format('Stored: %s.', coalesce(
					(SELECT string_agg(quote_ident(r.name), ', ' ORDER BY r.name) FROM ecstats.reports r), 'none')),
				  HINT = 'Reports are the rows of ecstats.reports.';
	END IF;
	RETURN definition;
END
$$;
COMMENT ON FUNCTION ecstats.report_row(text) IS 'row of ecstats.reports by name; 42704 where there is none';

-- report_data: what a template and a condition see of one day.
--   report: name in ecstats.reports; day: a business day; live: its figures where it is not closed.
-- Result: a JSON object (interface: "Template and report"; members in doc/report.md).
-- Errors: 42704 unknown report, P0002 no stored row of the day, 22004 an argument is NULL.
-- Reads: reports, config, daily_kpi, daily_sales, daily_funnel, restatements, targets, activity_state, user_activity.
CREATE OR REPLACE FUNCTION ecstats.report_data(report text, day date, live jsonb DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	definition ecstats.reports;
	zone text := (SELECT c.timezone FROM ecstats.config c);
	facts jsonb;
	yesterday jsonb;
	last_week jsonb;
	last_year jsonb;
	products jsonb;
	restated jsonb;
BEGIN
	IF report IS NULL OR day IS NULL THEN
		RAISE EXCEPTION 'report and day must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	definition := ecstats.report_row(report);
	IF definition.dataset = 'activity' THEN
		RETURN ecstats.report_activity(definition, day);
	END IF;
	facts := coalesce(ecstats.report_kpi(day, zone), live -> 'kpi' || jsonb_build_object(
		'refund_rate', (live -> 'kpi' ->> 'refund_amount')::numeric / nullif((live -> 'kpi' ->> 'paid_amount')::numeric, 0)));
	IF facts IS NULL THEN
		RAISE EXCEPTION 'there are no figures of this day yet'
			USING ERRCODE = 'no_data_found', DETAIL = format('Day %s has not begun.', to_char(day, 'YYYY-MM-DD')),
				  HINT = 'Give a day up to the running one.';
	END IF;
	yesterday := ecstats.report_kpi(day - 1, zone);
	last_week := ecstats.report_kpi(day - 7, zone);
	last_year := ecstats.report_kpi((day - interval '1 year')::date, zone);

	restated := ecstats.report_restated(day, zone);
	products := ecstats.report_products(day, day - 1, (facts -> 'gmv')::numeric, live);

	RETURN facts
		|| ecstats.report_split(day, day - 1, (facts -> 'gmv')::numeric, live)
		|| ecstats.report_targets(day)
		|| ecstats.report_day(definition, day)
		|| jsonb_build_object(
			'top_products', products, 'has_sales', products <> '[]',
			'data_as_of', coalesce(restated -> 'at', nullif(facts -> 'closed_at', 'null'), live -> 'at'),
			'previous', yesterday, 'last_week', last_week, 'last_year', last_year,
			'dod', ecstats.report_change(facts, yesterday),
			'wow', ecstats.report_change(facts, last_week),
			'yoy', ecstats.report_change(facts, last_year),
			'dod_points', ecstats.report_points(facts, yesterday),
			'wow_points', ecstats.report_points(facts, last_week),
			'yoy_points', ecstats.report_points(facts, last_year),
			'funnel', ecstats.report_funnel(day, live),
			'restated', restated,
			-- known of the latest scored day alone
			'levels', CASE WHEN day = (SELECT s.as_of FROM ecstats.activity_state s)
						   THEN ecstats.report_levels() -> 'levels' ELSE '[]' END,
			'alerts', '[]'::jsonb);
END
$$;
COMMENT ON FUNCTION ecstats.report_data(text, date, jsonb) IS
	'facts of a day as JSON for a report''s template and condition; live is {kpi, sales, funnel, at} of a day that is not closed, NULL of one that is';
