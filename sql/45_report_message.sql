-- sql/45_report_message.sql
-- From facts to a neutral message, and what the doctor says about reports.

-- report_condition: whether a report's condition holds for the facts, and why not.
--   A condition decides about a message, so it never stops the report run: an error is a reason.
CREATE OR REPLACE FUNCTION ecstats.report_condition(condition jsonpath, facts jsonb,
													OUT holds boolean, OUT reason text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	shown text := left(condition::text, 200);
BEGIN
	holds := condition IS NULL;
	IF holds THEN
		RETURN;
	END IF;
	holds := jsonb_path_match(facts, condition);
	IF holds IS NULL THEN
		reason := format('condition is unknown for this day: %s', shown);
	ELSIF NOT holds THEN
		reason := format('condition is false: %s', shown);
	END IF;
	holds := coalesce(holds, false);
EXCEPTION
	WHEN data_exception THEN
		holds := false;
		reason := format('condition failed: %s: %s', SQLERRM, shown);
		IF SQLSTATE = '22038' THEN		-- no single true or false came out
			reason := reason || ' (write a predicate such as $.gmv > 10000)';
		END IF;
END
$$;
COMMENT ON FUNCTION ecstats.report_condition(jsonpath, jsonb) IS
	'whether a jsonpath predicate is true for the facts; reason says why not (false, unknown, error). NULL condition: true';

-- report_message: the message of a report for a day, and whether it is to be sent.
--   report: name in ecstats.reports; day: a business day; live: its figures where it is not closed.
-- Result: one row. The message is rendered also where it would not be sent, for previews; reason is
--   NULL exactly where would_send is true.
-- Errors: those of report_data; 42704 the template does not exist; 55000 no version of it is active.
-- Reads: reports, templates, rollups. Writes nothing.
CREATE OR REPLACE FUNCTION ecstats.report_message(report text, day date, live jsonb DEFAULT NULL)
	RETURNS TABLE (would_send boolean, reason text, template_version int, message jsonb, revision int)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	facts jsonb := ecstats.report_data(report, day, live);
	definition ecstats.reports := ecstats.report_row(report);
	body jsonb;
BEGIN
	SELECT t.version, t.body INTO template_version, body
	  FROM ecstats.templates t
	 WHERE t.name = definition.template AND t.active;
	IF NOT FOUND THEN
		IF EXISTS (SELECT FROM ecstats.templates t WHERE t.name = definition.template) THEN
			RAISE EXCEPTION 'template "%" of report "%" has no active version', definition.template, definition.name
				USING ERRCODE = 'object_not_in_prerequisite_state',
					  HINT = format('UPDATE ecstats.templates SET active = true WHERE name = %L AND version = ...;',
									definition.template);
		END IF;
		RAISE EXCEPTION 'template "%" of report "%" does not exist', definition.template, definition.name
			USING ERRCODE = 'undefined_object',
				  HINT = 'INSERT it into ecstats.templates, or set another one in ecstats.reports.';
	END IF;
	message := ecstats.template_render(body, facts);
	-- scores have no revisions: what is made of them goes out once a day
	revision := CASE definition.dataset WHEN 'activity' THEN 0 ELSE (facts -> 'revision')::int END;

	SELECT c.holds, c.reason INTO would_send, reason
	  FROM ecstats.report_condition(definition.condition, facts) c;
	IF NOT definition.enabled THEN
		would_send := false;
		reason := 'report is disabled';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.report_message(text, date, jsonb) IS
	'rendered neutral or native message of a report for a closed day, whether it would be sent, and why not';

-- report_status: what keeps reports from going out, for ecstats_status().
-- Result: one row a finding, or one row ok. Reads: reports, templates, channels, tag_rules.
CREATE OR REPLACE FUNCTION ecstats.report_status()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	WITH enabled AS (
		SELECT r.name, r.template, r.channels, r.audience FROM ecstats.reports r WHERE r.enabled
	), findings AS (
		SELECT 1 AS ord, e.name, 'error' AS status,
			   format('report %I: template %I %s', e.name, e.template,
					  CASE WHEN EXISTS (SELECT FROM ecstats.templates t WHERE t.name = e.template)
						   THEN 'has no active version' ELSE 'does not exist' END) AS detail,
			   'INSERT it into ecstats.templates, activate a version, or set enabled = false in ecstats.reports' AS hint
		  FROM enabled e
		 WHERE NOT EXISTS (SELECT FROM ecstats.templates t WHERE t.name = e.template AND t.active)
		UNION ALL
		SELECT 2, e.name, 'error',
			   format('report %I: no such channel: %s', e.name, string_agg(quote_ident(c.name), ', ' ORDER BY c.name)),
			   'INSERT the channel into ecstats.channels, or take it out of ecstats.reports.channels'
		  FROM enabled e, unnest(e.channels) c(name)
		 WHERE NOT EXISTS (SELECT FROM ecstats.channels h WHERE h.name = c.name)
		 GROUP BY e.name
		UNION ALL
		SELECT 3, e.name, CASE WHEN t.tag IS NULL THEN 'error' ELSE 'warn' END,
			   format('report %I: tag %I %s', e.name, e.audience, CASE WHEN t.tag IS NULL THEN 'does not exist' ELSE 'is disabled: nobody has it' END),
			   'INSERT or enable it in ecstats.tag_rules, or set another audience in ecstats.reports'
		  FROM enabled e
		  LEFT JOIN ecstats.tag_rules t ON t.tag = e.audience
		 WHERE e.audience IS NOT NULL AND t.enabled IS NOT TRUE
		   AND cardinality(e.channels) > 0		-- else nobody misses it
	)
	SELECT 'reports', f.status, f.detail, f.hint
	  FROM (SELECT ord, name, status, detail, hint FROM findings
			UNION ALL
			SELECT 4, NULL, 'ok',
				   format('%s enabled, %s with a channel', count(*), count(*) FILTER (WHERE cardinality(e.channels) > 0)),
				   CASE WHEN bool_and(cardinality(e.channels) = 0)
						THEN format('nothing is sent yet: UPDATE ecstats.reports SET channels = ''{my-channel}'' WHERE name = %L',
									min(e.name)) END
			  FROM enabled e
			HAVING NOT EXISTS (SELECT FROM findings)) f
	 ORDER BY f.ord, f.name
	$$;
COMMENT ON FUNCTION ecstats.report_status() IS
	'reports whose template, channels or audience are missing, one row each; one row ok where all is there';
