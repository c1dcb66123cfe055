-- sql/52_pipeline_report.sql
-- From a message to deliveries: where reports, channels and the queue meet.

-- ecstats.pipeline_enqueue: one report to one of its channels. NULL where it is queued already.
CREATE OR REPLACE FUNCTION ecstats.pipeline_enqueue(definition ecstats.reports, day date, channel text, message jsonb) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_enqueue(definition.name, day,
									coalesce((SELECT k.revision FROM ecstats.daily_kpi k WHERE k.day = pipeline_enqueue.day), 0),
									'', channel, definition.priority, definition.ttl,
									ecstats.channel_envelope(channel, message), NULL) $$;
COMMENT ON FUNCTION ecstats.pipeline_enqueue(ecstats.reports, date, text, jsonb) IS
	'Queues a report''s message for one channel at the day''s revision; NULL if that is queued already.';

-- ecstats_report: makes a report of a day and queues it.
-- Arguments: report, a name in ecstats.reports; day, closed (default yesterday). Result: ids of the deliveries
-- that were queued: none where the condition does not hold, the report is disabled, has no channel, or was
-- queued for this revision before. Errors: 42704 report, template or channel unknown, P0002 day without
-- figures, 22001 message too long for a channel, 22023 channel disabled; then nothing is queued.
-- Touches ecstats.deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_report(report text, day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day) m;
	IF made.would_send THEN
		RETURN QUERY
		SELECT q.id FROM (SELECT ecstats.pipeline_enqueue(definition, day, c, made.message) AS id FROM unnest(definition.channels) c) q
		 WHERE q.id IS NOT NULL;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_report(text, date) IS
	'Evaluates a report''s condition for a closed day, renders it and queues a delivery a channel; returns their ids, none if the condition does not hold or it is queued already. 42704, P0002, 22001, 22023.';

-- ecstats_preview: what ecstats_report would do. Arguments and errors: as there.
-- Result: a row a channel (one row with channel NULL for a report without any): the body as it would be sent,
-- its bytes, whether it would be sent and why not. Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_preview(report text, day date DEFAULT @extschema@.ecstats_day() - 1)
	RETURNS TABLE (channel text, kind text, body jsonb, bytes integer, would_send boolean, reason text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
	enabled boolean;
	queued bigint;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day) m;
	FOREACH channel IN ARRAY CASE definition.channels WHEN '{}' THEN '{NULL}' ELSE definition.channels END LOOP
		body := made.message;
		would_send := made.would_send;
		reason := made.reason;
		SELECT c.kind, c.enabled INTO kind, enabled FROM ecstats.channels c WHERE c.name = ecstats_preview.channel;
		IF channel IS NULL OR kind IS NULL THEN
			would_send := false;
			reason := coalesce(reason, CASE WHEN channel IS NULL THEN 'the report has no channel' ELSE 'there is no such channel' END);
		ELSE
			body := ecstats.channel_envelope(channel, made.message);
			SELECT d.id INTO queued FROM ecstats.deliveries d JOIN ecstats.daily_kpi k ON k.day = d.day AND k.revision = d.revision
			 WHERE d.report = definition.name AND d.day = ecstats_preview.day AND d.occasion = '' AND d.channel = ecstats_preview.channel;
			reason := coalesce(reason, CASE WHEN NOT enabled THEN 'the channel is disabled' END,
							   ecstats.channel_oversize(channel, body),
							   format('it is queued already: delivery %s', queued));
			reason := CASE WHEN made.would_send AND enabled AND queued IS NULL AND ecstats.channel_oversize(channel, body) IS NULL
						   THEN NULL ELSE reason END;
			would_send := reason IS NULL;
		END IF;
		bytes := octet_length(convert_to(body::text, 'UTF8'));
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_preview(text, date) IS
	'What ecstats_report(report, day) would queue, a row a channel: body, bytes, would_send and the reason if not. Writes nothing. 42704, P0002.';

-- ecstats.pipeline_report_failed: a failed report is recorded and told.
CREATE OR REPLACE FUNCTION ecstats.pipeline_report_failed(report text, day date, channel text, code text, message text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO ecstats.report_failures (report, day, channel, sqlstate, reason) VALUES (report, day, channel, code, message);
	PERFORM ecstats.delivery_tell_operators('report:' || report, concat_ws('/', day, channel),
		format('Report %s of %s was not queued', report, day), concat_ws(': ', 'channel ' || channel, message));
	RAISE WARNING 'report "%" of % was not queued: %', report, day, message;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_report_failed(text, date, text, text, text) IS
	'Records in report_failures that a report could not be queued, and tells the operators.';

-- ecstats.pipeline_queue_reports: the reports that hang on the first close of a day. One that fails does not
-- stop the others nor the close; a channel that fails does not stop the report's others.
CREATE OR REPLACE FUNCTION ecstats.pipeline_queue_reports(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports;
	made record;
	channel text;
BEGIN
	FOR definition IN SELECT * FROM ecstats.reports r
					   WHERE r.enabled AND r.dataset = 'daily' AND r.schedule IS NULL AND r.channels <> '{}'
					   ORDER BY r.priority, r.name LOOP
		channel := NULL;
		BEGIN
			SELECT * INTO made FROM ecstats.report_message(definition.name, day) m;
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, NULL, SQLSTATE, SQLERRM);
			CONTINUE;
		END;
		CONTINUE WHEN NOT made.would_send;
		FOREACH channel IN ARRAY definition.channels LOOP
			BEGIN
				PERFORM ecstats.pipeline_enqueue(definition, day, channel, made.message);
			EXCEPTION WHEN OTHERS THEN
				PERFORM ecstats.pipeline_report_failed(definition.name, day, channel, SQLSTATE, SQLERRM);
			END;
		END LOOP;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_reports(date) IS
	'Queues the enabled daily reports without a schedule of their own for a day; failures are recorded and told, never raised.';

