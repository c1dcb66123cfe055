-- sql/52_pipeline_report.sql
-- From a message to deliveries: where reports, channels and the queue meet.

-- ecstats_report_data: the JSON that a report's template and condition see.
-- Arguments: report, a name in ecstats.reports; day, a business day; of one that is not closed, the figures so
-- far; for a report of dataset activity the latest day that was scored. Result: one object: figures of the day,
-- comparisons, splits, funnel, targets, or levels, tags, an audience (doc/report.md).
-- Errors: 42704 unknown report or tag, P0002 a day that has not begun or that users were not scored of, 22004 NULL. Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_report_data(report text, day date) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT ecstats.report_data(report, day, ecstats.pipeline_live(day)) $$;
COMMENT ON FUNCTION @extschema@.ecstats_report_data(text, date) IS
	'What a template sees. Arguments: report name, business day (of one that is not closed, the figures so far; for dataset activity the latest scored day). Result: JSON object of exact, unrounded numbers. Errors: 42704 unknown report or tag, P0002 day not begun or not the scored one, 22004 NULL argument';

-- ecstats.pipeline_enqueue: one report to one of its channels. NULL where it is queued already.
CREATE OR REPLACE FUNCTION ecstats.pipeline_enqueue(definition ecstats.reports, day date, revision integer, channel text, message jsonb) RETURNS bigint
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.delivery_enqueue(definition.name, day, revision, '', channel, definition.priority, definition.ttl,
									ecstats.channel_envelope(channel, message), NULL) $$;
COMMENT ON FUNCTION ecstats.pipeline_enqueue(ecstats.reports, date, integer, text, jsonb) IS
	'Queues a report''s message for one channel at the revision that it was made from; NULL if that is queued already.';

-- ecstats_preview: what ecstats_report would do. Arguments and errors: as there.
-- Result: a row a channel (one row with channel NULL for a report without any): the body as it would be sent,
-- its bytes, whether it would be sent and why not. Where the channel takes the report's audience, a second row shows
-- the first page, which says how many there are. Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_preview(report text, day date DEFAULT @extschema@.ecstats_day() - 1)
	RETURNS TABLE (channel text, kind text, body jsonb, bytes integer, would_send boolean, reason text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
	enabled boolean;
	queued bigint;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day, ecstats.pipeline_live(day)) m;
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
			SELECT d.id INTO queued FROM ecstats.deliveries d
			 WHERE d.report = definition.name AND d.day = ecstats_preview.day AND d.occasion = '' AND d.channel = ecstats_preview.channel
			   AND d.revision = made.revision;
			reason := coalesce(reason, CASE WHEN NOT enabled THEN 'the channel is disabled' END,
							   ecstats.channel_oversize(channel, body),
							   format('it is queued already: delivery %s', queued));
			reason := CASE WHEN made.would_send AND enabled AND queued IS NULL AND ecstats.channel_oversize(channel, body) IS NULL
						   THEN NULL ELSE reason END;
			would_send := reason IS NULL;
		END IF;
		bytes := octet_length(convert_to(body::text, 'UTF8'));
		RETURN NEXT;

		CONTINUE WHEN definition.audience IS NULL OR ecstats.channel_settings(channel) ->> 'audience_page' IS NULL;
		SELECT p.body INTO body FROM ecstats.pipeline_audience_pages(definition.name, definition.audience, ecstats_preview.channel, 1) p;
		SELECT min(d.id) INTO queued FROM ecstats.deliveries d
		 WHERE d.report = definition.name AND d.day = ecstats_preview.day AND d.occasion LIKE 'audience %' AND d.channel = ecstats_preview.channel;
		reason := CASE WHEN NOT made.would_send THEN made.reason WHEN NOT enabled THEN 'the channel is disabled'
					   WHEN queued IS NOT NULL THEN format('it is queued already: from delivery %s on', queued)
					   ELSE ecstats.channel_oversize(channel, body) END;
		would_send := reason IS NULL;
		bytes := octet_length(convert_to(body::text, 'UTF8'));
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_preview(text, date) IS
	'What ecstats_report(report, day) would queue, a row a channel: body, bytes, would_send and the reason if not; and a second row with the first page of an audience (its pages says how many) where the channel takes it. Writes nothing. 42704, P0002.';

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

-- ecstats.pipeline_queue_channels: a message, and the report's audience where the channel takes it, to each of a
-- report's channels. One that fails is recorded and told and does not stop the others.
CREATE OR REPLACE FUNCTION ecstats.pipeline_queue_channels(definition ecstats.reports, day date, revision integer, message jsonb) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	channel text;
	id bigint;
BEGIN
	FOREACH channel IN ARRAY definition.channels LOOP
		BEGIN
			id := ecstats.pipeline_enqueue(definition, day, revision, channel, message);
			IF id IS NOT NULL THEN
				RETURN NEXT id;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, channel, SQLSTATE, SQLERRM);
		END;
		CONTINUE WHEN definition.audience IS NULL;
		BEGIN
			RETURN QUERY SELECT ecstats.pipeline_queue_audience(definition.name, day, definition.audience, channel, definition.priority, definition.ttl);
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, channel, SQLSTATE, 'audience: ' || SQLERRM);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_channels(ecstats.reports, date, integer, jsonb) IS
	'Queues a message, and the audience where it is taken, for every channel of a report; ids of those that were queued. Failures are recorded, told and warned of.';

-- ecstats_report: makes a report of a day and queues it.
-- Arguments: report, a name in ecstats.reports; day (default yesterday); of one that is not closed, the figures so
-- far, at revision 0. Result: ids of the deliveries that were queued: none where the condition does not hold, the
-- report is disabled, has no channel, or was queued for this revision before. A channel that is disabled, unknown
-- or too small for the message is a warning and a row of ecstats.report_failures; the others get theirs.
-- A report of dataset activity is made of the latest scored day alone, once; its audience follows the message, in
-- pages, where a channel has the option audience_page.
-- Errors: 42704 report, template or audience unknown, P0002 day not begun or not the scored one. Touches ecstats.deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_report(report text, day date DEFAULT @extschema@.ecstats_day() - 1) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports := ecstats.report_row(report);
	made record;
BEGIN
	SELECT * INTO made FROM ecstats.report_message(report, day, ecstats.pipeline_live(day)) m;
	IF made.would_send THEN
		RETURN QUERY SELECT ecstats.pipeline_queue_channels(definition, day, made.revision, made.message);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_report(text, date) IS
	'Evaluates a report''s condition for a day, renders it and queues a delivery a channel; returns their ids, none if the condition does not hold or it is queued already. A channel that cannot take it is a warning. 42704, P0002.';

-- ecstats.pipeline_queue_reports: the reports that hang on the first close of a day. One that fails does not
-- stop the others nor the close.
CREATE OR REPLACE FUNCTION ecstats.pipeline_queue_reports(day date) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition ecstats.reports;
	made record;
BEGIN
	FOR definition IN SELECT * FROM ecstats.reports r
					   WHERE r.enabled AND r.dataset = 'daily' AND r.schedule IS NULL AND r.channels <> '{}'
					   ORDER BY r.priority, r.name LOOP
		BEGIN
			SELECT * INTO made FROM ecstats.report_message(definition.name, day, NULL) m;
		EXCEPTION WHEN OTHERS THEN
			PERFORM ecstats.pipeline_report_failed(definition.name, day, NULL, SQLSTATE, SQLERRM);
			CONTINUE;
		END;
		IF made.would_send THEN
			PERFORM ecstats.pipeline_queue_channels(definition, day, made.revision, made.message);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_reports(date) IS
	'Queues the enabled daily reports without a schedule of their own for a day; failures are recorded and told, never raised.';

-- ecstats.pipeline_caught_up: days were closed on the way to another one, after an outage or a back-fill: their
-- reports are not sent by themselves.
CREATE OR REPLACE FUNCTION ecstats.pipeline_caught_up(day date, days date[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE NOTICE 'earlier days were closed too: %, from % to %; their reports are not sent by themselves',
		cardinality(days), days[1], days[cardinality(days)]
		USING HINT = format('SELECT ecstats_report(''daily'', %L) sends one.', days[cardinality(days)]);
	PERFORM ecstats.delivery_tell_operators('daily', day::text, format('Earlier days were closed late: %s', cardinality(days)),
		format('%s to %s were open when %s was closed. Their reports were not sent; SELECT ecstats_report(report, day) sends one.',
			   days[1], days[cardinality(days)], day));
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_caught_up(date, date[]) IS 'Says, also to the operators, that days were closed late and that their reports were not sent.';

