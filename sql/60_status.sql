-- sql/60_status.sql
-- One screen for psql: how every part is, and the cure where it is not well. Read-only.

-- ecstats.status_intake: the clock, the partitions, what was refused.
CREATE OR REPLACE FUNCTION ecstats.status_intake(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	zone text;
	starts time;
	today date := ecstats.day_of(at);
	n bigint;
	strays date[];
	lost date[];
BEGIN
	SELECT c.timezone, c.day_starts_at INTO zone, starts FROM ecstats.config c;
	component := 'clock';
	detail := format('%s, business day %s, days start at %s', zone, today, starts);
	IF zone IN ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT', 'Zulu', 'Universal', 'Etc/Universal', 'Etc/Zulu', 'UCT', 'Etc/UCT') THEN
		status := 'warn';
		hint := 'UPDATE ecstats.config SET timezone = ''Asia/Shanghai'' (the shop''s zone), before the first close';
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;

	component := 'events';
	SELECT coalesce(array_agg(d ORDER BY d) FILTER (WHERE NOT ecstats.day_partition_taken(d)), '{}'),
		   coalesce(array_agg(d ORDER BY d) FILTER (WHERE ecstats.day_partition_taken(d)), '{}')
	  INTO strays, lost
	  FROM ecstats.event_stray_days() d;
	n := (SELECT count(*) FROM pg_partition_tree('ecstats.events') p WHERE p.isleaf) - 1;
	detail := format('%s day partitions', n);
	status := 'ok';
	hint := NULL;
	IF cardinality(lost) > 0 THEN
		status := 'warn';
		detail := detail || format(', rows of %s days whose partition was detached wait in the default partition', cardinality(lost));
		hint := format('ALTER TABLE ecstats.events ATTACH PARTITION ecstats.%I ..., or rename or drop that table', ecstats.day_partition_name(lost[1]));
	ELSIF cardinality(strays) > 0 THEN
		status := 'warn';
		detail := detail || format(', rows of %s days in the default partition', cardinality(strays));
		hint := 'CALL ecstats_maintain() moves them; the job maintain does it every hour';
	ELSIF NOT (ecstats.day_partition_exists(today) AND ecstats.day_partition_exists(today + 1)) THEN
		status := 'warn';
		detail := detail || ', none for today or tomorrow';
		hint := 'CALL ecstats_maintain() makes them; the job maintain does it every hour';
	END IF;
	RETURN NEXT;

	component := 'rejects';
	n := (SELECT count(*) FROM ecstats.rejects);
	status := CASE WHEN n = 0 THEN 'ok' ELSE 'warn' END;
	detail := format('%s kept', n);
	hint := CASE WHEN n > 0 THEN 'SELECT source, day, reason, payload FROM ecstats.rejects; then SELECT ecstats_retry_rejects(), or ecstats_collect(source, day) for those of a source' END;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.status_intake(timestamptz) IS 'Part of ecstats_status: clock, events, rejects.';

-- ecstats.status_days: what is open, stale, not complete, frozen.
CREATE OR REPLACE FUNCTION ecstats.status_days(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	today date := ecstats.day_of(at);
	open_days date[] := array(SELECT ecstats.rollup_open_days(today));
	stale_days date[] := array(SELECT ecstats.rollup_stale_days());
	last date := (SELECT max(k.day) FROM ecstats.daily_kpi k);
	incomplete bigint := (SELECT count(*) FROM ecstats.daily_kpi k WHERE NOT k.complete);
	late date[] := array(SELECT DISTINCT m.day FROM ecstats.day_marks m JOIN ecstats.day_state s ON s.day = m.day AND s.frozen
						  UNION SELECT ecstats.rollup_late_events() ORDER BY 1);
	n integer := cardinality(open_days);
BEGIN
	component := 'days';
	detail := format('last closed: %s', coalesce(last::text, 'none'))
		|| CASE WHEN n > 0 THEN format('; %s ended and open, first %s', n, open_days[1]) ELSE '' END
		|| CASE WHEN cardinality(stale_days) > 0 THEN format('; %s changed since their close', cardinality(stale_days)) ELSE '' END
		|| CASE WHEN incomplete > 0 THEN format('; %s not complete', incomplete) ELSE '' END;
	-- yesterday is open until the daily job has run: two hours after the day's start, and some grace
	IF n > 1 OR (n = 1 AND (open_days[1] < today - 1 OR at > ecstats.day_start(today) + interval '3 hours')) THEN
		status := 'error';
		hint := 'SELECT * FROM ecstats_daily(); the job daily does it: see the rows ticker and jobs';
	ELSIF cardinality(stale_days) > 0 OR incomplete > 0 THEN
		status := 'warn';
		hint := 'SELECT * FROM ecstats_daily() computes changed days again and looks whether days are complete now';
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;

	IF cardinality(late) > 0 THEN
		component := 'frozen days';
		status := 'warn';
		detail := format('late rows for %s days whose raw rows were dropped: %s', cardinality(late), array_to_string(late[1:5], ', '));
		hint := 'These days keep their figures; raise config.event_retention and order_retention if rows come this late';
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.status_days(timestamptz) IS 'Part of ecstats_status: open, changed, incomplete and frozen days.';

-- ecstats.status_activity: are the scores those of the latest closed day?
CREATE OR REPLACE FUNCTION ecstats.status_activity()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last date := (SELECT max(k.day) FROM ecstats.daily_kpi k);
	state ecstats.activity_state := (SELECT s FROM ecstats.activity_state s);
BEGIN
	component := 'activity';
	detail := CASE WHEN state.as_of IS NULL THEN 'nothing scored yet' ELSE format('%s users scored as of %s', state.users, state.as_of) END
		|| CASE WHEN state.as_of < last THEN format(', last closed: %s', last) ELSE '' END
		|| CASE WHEN state.stale_from <= state.as_of THEN format('; users of %s and later changed since', state.stale_from) ELSE '' END;
	IF last > coalesce(state.as_of, '-infinity') OR state.stale_from IS NOT NULL THEN
		status := 'warn';
		hint := format('SELECT ecstats_score(%L); the next ecstats_daily does it too', greatest(last, state.as_of));
	ELSE
		status := 'ok';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ecstats.status_activity() IS 'Part of ecstats_status: whether the scores are those of the latest closed day.';

-- ecstats.status_deliveries: the queue, the channels, the pushers.
CREATE OR REPLACE FUNCTION ecstats.status_deliveries(at timestamptz)
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	pending bigint;
	sending bigint;
	dead bigint;
	failed bigint;
	oldest interval;
	operators text;
	fault text;
	beat timestamptz := (SELECT max(p.last_beat) FROM ecstats.pushers p);
	held text;
BEGIN
	SELECT count(*) FILTER (WHERE d.status = 'pending'), count(*) FILTER (WHERE d.status = 'sending'),
		   at - min(d.next_attempt_at) FILTER (WHERE d.status = 'pending' AND d.next_attempt_at <= at)
	  INTO pending, sending, oldest
	  FROM ecstats.deliveries d WHERE d.status IN ('pending', 'sending');
	SELECT count(*) INTO dead FROM ecstats.deliveries d
	 WHERE d.status IN ('dead', 'expired') AND d.settled_at > at - interval '7 days';
	SELECT count(*) INTO failed FROM ecstats.report_failures f WHERE f.at > status_deliveries.at - interval '7 days';

	component := 'deliveries';
	detail := format('%s pending, %s being sent, %s dead or expired in 7 days', pending, sending, dead)
		|| CASE WHEN failed > 0 THEN format(', %s not queued', failed) ELSE '' END;
	status := CASE WHEN dead > 0 OR failed > 0 OR oldest > interval '1 hour' THEN 'error'
				   WHEN oldest > interval '5 minutes' THEN 'warn' ELSE 'ok' END;
	hint := CASE WHEN dead > 0 THEN 'SELECT id, channel, last_error FROM ecstats.deliveries WHERE status IN (''dead'', ''expired''); cure it, then SELECT ecstats_replay(id)'
				 WHEN failed > 0 THEN 'SELECT * FROM ecstats.report_failures; cure it, then SELECT ecstats_report(report, day)'
				 WHEN oldest > interval '5 minutes' THEN format('the oldest waits for %s: see the rows pusher and channels', date_trunc('second', oldest)) END;
	RETURN NEXT;

	component := 'channels';
	SELECT string_agg(format('%s until %s', s.channel, greatest(s.paused_until, s.throttled_until)), ', ' ORDER BY s.channel) INTO held
	  FROM ecstats.channel_state s WHERE greatest(s.paused_until, s.throttled_until) > at;
	SELECT format('%s enabled of %s', count(*) FILTER (WHERE c.enabled), count(*)) INTO detail FROM ecstats.channels c;
	detail := detail || coalesce(', held: ' || held, '');
	status := CASE WHEN held IS NULL THEN 'ok' ELSE 'warn' END;
	hint := CASE WHEN held IS NOT NULL THEN 'SELECT channel, error, response FROM ecstats.delivery_attempts ORDER BY started_at DESC LIMIT 10 says why' END;
	RETURN NEXT;

	SELECT f.operators_channel, CASE WHEN c.name IS NULL THEN 'does not exist' WHEN NOT c.enabled THEN 'is disabled' END
	  INTO operators, fault
	  FROM ecstats.config f LEFT JOIN ecstats.channels c ON c.name = f.operators_channel;
	IF operators IS NULL OR fault IS NOT NULL THEN
		component := 'operators';
		status := CASE WHEN operators IS NULL THEN 'warn' ELSE 'error' END;
		detail := CASE WHEN operators IS NULL THEN 'nobody is told of failures'
					   ELSE format('the operators'' channel "%s" %s', operators, fault) END;
		hint := 'UPDATE ecstats.config SET operators_channel = a name in ecstats.channels';
		RETURN NEXT;
	END IF;

	component := 'pusher';
	detail := CASE WHEN beat IS NULL THEN 'never heard' ELSE format('last heard %s ago', date_trunc('second', at - beat)) END;
	status := CASE WHEN beat > at - interval '1 minute' THEN 'ok' WHEN pending > 0 THEN 'error' ELSE 'warn' END;
	hint := CASE WHEN status <> 'ok' THEN 'start ecstats-pusher -d DSN (or systemctl start ecstats-pusher) as a role with ecstats_grant(role, ''pusher'')' END;
	RETURN NEXT;

	IF NOT ecstats.delivery_is_home() THEN
		component := 'home';
		status := 'error';
		detail := 'this database is a copy of another one: nothing is delivered';
		hint := 'SELECT ecstats_adopt() if this copy is to deliver; cancel first what the original sends';
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.status_deliveries(timestamptz) IS 'Part of ecstats_status: deliveries, channels, pusher, and whether this is a copy.';

-- ecstats_status: every part, its state, and the cure.
-- Result: rows (component, status ok | warn | error, detail, hint). Writes nothing.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_status()
	RETURNS TABLE (component text, status text, detail text, hint text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at timestamptz := clock_timestamp();
	installed text := (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'ecstats');
	loaded text := @extschema@.ecstats_version();
BEGIN
	RETURN QUERY SELECT 'version', CASE WHEN installed = loaded THEN 'ok' ELSE 'error' END,
		format('%s, PostgreSQL %s', installed, current_setting('server_version')),
		CASE WHEN installed <> loaded THEN format('the library is %s: ALTER EXTENSION ecstats UPDATE', loaded) END;
	RETURN QUERY SELECT * FROM ecstats.status_intake(at);
	RETURN QUERY SELECT * FROM ecstats.source_status(at);
	RETURN QUERY SELECT * FROM ecstats.status_days(at);
	RETURN QUERY SELECT * FROM ecstats.status_activity();
	RETURN QUERY SELECT * FROM ecstats.report_status();
	RETURN QUERY SELECT * FROM ecstats.status_deliveries(at);
	RETURN QUERY SELECT * FROM ecstats.job_status(at);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_status() IS
	'How every part is: component, status (ok, warn, error), detail, and in hint the cure. Writes nothing.';

