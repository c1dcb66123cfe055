-- bench/twins.sql
-- What ecstats.events is measured against: tables with the same columns, day partitions and unique index.
CREATE SCHEMA bench;

-- kind: 'plain' (no rules), 'trigger' and 'trigger_named' (the rules in a PL/pgSQL row trigger), 'checks' (the rules
-- as SQL CHECKs).
CREATE PROCEDURE bench.twin(kind text, from_day date, to_day date) LANGUAGE plpgsql AS $$
DECLARE
	d date;
	part text;
BEGIN
	EXECUTE format('CREATE TABLE bench.%I (event_time timestamptz NOT NULL DEFAULT now(), user_id text COLLATE "C" NOT NULL,
		event text COLLATE "C" NOT NULL, event_id uuid, page_url text, extra jsonb NOT NULL DEFAULT ''{}'')
		PARTITION BY RANGE (event_time)', kind);
	FOR d IN SELECT generate_series(from_day, to_day, '1 day') LOOP
		part := kind || '_' || to_char(d, 'YYYYMMDD');
		EXECUTE format('CREATE TABLE bench.%I PARTITION OF bench.%I FOR VALUES FROM (%L) TO (%L)',
					   part, kind, ecstats.day_start(d), ecstats.day_start(d + 1));
		EXECUTE format('CREATE UNIQUE INDEX ON bench.%I (event_time, user_id, event_id)', part);
	END LOOP;
	EXECUTE format('CREATE TABLE bench.%I PARTITION OF bench.%I DEFAULT', kind || '_default', kind);
	EXECUTE format('CREATE UNIQUE INDEX ON bench.%I (event_time, user_id, event_id)', kind || '_default');
END
$$;

-- The same rules in PL/pgSQL, as few conditions as possible: an error says only the column.
CREATE FUNCTION bench.rules() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.event_time < '2000-01-01 00:00:00+00' OR NEW.event_time > clock_timestamp() + interval '1 day' THEN
		RAISE check_violation USING COLUMN = 'event_time', DETAIL = NEW.event_time;
	ELSIF octet_length(NEW.user_id) NOT BETWEEN 1 AND 128 OR NEW.user_id ~ '[[:cntrl:]]' THEN
		RAISE check_violation USING COLUMN = 'user_id', DETAIL = left(NEW.user_id, 60);
	ELSIF NEW.event !~ '^[a-z][a-z0-9_.:-]{0,63}$' THEN
		RAISE check_violation USING COLUMN = 'event', DETAIL = left(NEW.event, 60);
	ELSIF octet_length(NEW.page_url) > 2048 OR NEW.page_url ~ '[[:cntrl:]]' THEN
		RAISE check_violation USING COLUMN = 'page_url', DETAIL = left(NEW.page_url, 60);
	ELSIF jsonb_typeof(NEW.extra) <> 'object' OR octet_length(NEW.extra::text) > 16384 THEN
		RAISE check_violation USING COLUMN = 'extra';
	ELSIF (SELECT count(*) FROM jsonb_object_keys(NEW.extra)) > 64 THEN
		RAISE check_violation USING COLUMN = 'extra';
	END IF;
	RETURN NEW;
END
$$;

-- The same rules in PL/pgSQL, with what the C rules say: an error names the rule, the value and the cure.
CREATE FUNCTION bench.rules_named() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	bytes integer;
BEGIN
	IF NEW.event_time < '2000-01-01 00:00:00+00' THEN
		RAISE check_violation USING MESSAGE = 'event_time is before 2000-01-01', COLUMN = 'event_time', DETAIL = NEW.event_time, HINT = 'Check the unit.';
	END IF;
	IF NEW.event_time > clock_timestamp() + interval '1 day' THEN
		RAISE check_violation USING MESSAGE = 'event_time is ahead of the clock', COLUMN = 'event_time', DETAIL = NEW.event_time, HINT = 'Check the clock.';
	END IF;
	bytes := octet_length(NEW.user_id);
	IF bytes = 0 THEN
		RAISE check_violation USING MESSAGE = 'user_id is empty', COLUMN = 'user_id', HINT = 'Send a value.';
	END IF;
	IF bytes > 128 THEN
		RAISE check_violation USING MESSAGE = 'user_id is too long', COLUMN = 'user_id', DETAIL = left(NEW.user_id, 60), HINT = 'Shorten it.';
	END IF;
	IF NEW.user_id ~ '[[:cntrl:]]' THEN
		RAISE check_violation USING MESSAGE = 'user_id has a control character', COLUMN = 'user_id', DETAIL = left(NEW.user_id, 60), HINT = 'Remove it.';
	END IF;
	bytes := octet_length(NEW.event);
	IF bytes = 0 THEN
		RAISE check_violation USING MESSAGE = 'event is empty', COLUMN = 'event', HINT = 'Send a value.';
	END IF;
	IF bytes > 64 THEN
		RAISE check_violation USING MESSAGE = 'event is too long', COLUMN = 'event', DETAIL = left(NEW.event, 60), HINT = 'Shorten it.';
	END IF;
	IF NEW.event !~ '^[a-z][a-z0-9_.:-]*$' THEN
		RAISE check_violation USING MESSAGE = 'event is no name', COLUMN = 'event', DETAIL = left(NEW.event, 60), HINT = 'Lower-case letters and digits.';
	END IF;
	IF octet_length(NEW.page_url) > 2048 THEN
		RAISE check_violation USING MESSAGE = 'page_url is too long', COLUMN = 'page_url', DETAIL = left(NEW.page_url, 60), HINT = 'Shorten it.';
	END IF;
	IF NEW.page_url ~ '[[:cntrl:]]' THEN
		RAISE check_violation USING MESSAGE = 'page_url has a control character', COLUMN = 'page_url', DETAIL = left(NEW.page_url, 60), HINT = 'Remove it.';
	END IF;
	IF jsonb_typeof(NEW.extra) <> 'object' THEN
		RAISE check_violation USING MESSAGE = 'extra is no object', COLUMN = 'extra', HINT = 'Send an object.';
	END IF;
	IF (SELECT count(*) FROM jsonb_object_keys(NEW.extra)) > 64 THEN
		RAISE check_violation USING MESSAGE = 'extra has too many members', COLUMN = 'extra', HINT = 'Leave some out.';
	END IF;
	IF octet_length(NEW.extra::text) > 16384 THEN
		RAISE check_violation USING MESSAGE = 'extra is too large', COLUMN = 'extra', HINT = 'Keep large values elsewhere.';
	END IF;
	RETURN NEW;
END
$$;

-- An expression that a CHECK may hold: sub-selects are not allowed there.
CREATE FUNCTION bench.members(extra jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS
	$$ SELECT count(*) FROM jsonb_object_keys(extra) $$;

CREATE PROCEDURE bench.twins(from_day date, to_day date) LANGUAGE plpgsql AS $$
BEGIN
	CALL bench.twin('plain', from_day, to_day);
	CALL bench.twin('trigger', from_day, to_day);
	CREATE TRIGGER rules BEFORE INSERT ON bench.trigger FOR EACH ROW EXECUTE FUNCTION bench.rules();
	CALL bench.twin('trigger_named', from_day, to_day);
	CREATE TRIGGER rules BEFORE INSERT ON bench.trigger_named FOR EACH ROW EXECUTE FUNCTION bench.rules_named();
	CALL bench.twin('checks', from_day, to_day);
	ALTER TABLE bench.checks
		ADD CHECK (event_time >= '2000-01-01 00:00:00+00' AND event_time <= clock_timestamp() + interval '1 day'),
		ADD CHECK (octet_length(user_id) BETWEEN 1 AND 128 AND user_id !~ '[[:cntrl:]]'),
		ADD CHECK (event ~ '^[a-z][a-z0-9_.:-]{0,63}$'),
		ADD CHECK (octet_length(page_url) <= 2048 AND page_url !~ '[[:cntrl:]]'),
		ADD CHECK (jsonb_typeof(extra) = 'object' AND octet_length(extra::text) <= 16384),
		ADD CHECK (bench.members(extra) <= 64);
END
$$;

-- n events of the days before the current one, in the order in which a shop's servers send them: by time,
-- a little mixed up; 100,000 users, a few of them busy; ids by the clients.
CREATE FUNCTION bench.events(n bigint, days integer) RETURNS TABLE (event_time timestamptz, user_id text, event text,
	event_id uuid, page_url text, extra jsonb) LANGUAGE sql AS $$
	SELECT ecstats.day_start(ecstats.day_of(now()) - days) + (i::float8 / n * days) * interval '86399 seconds'
			 + random() * interval '1 second',
		   'u' || (100000 * random() * random())::int,
		   ('{view_item,view_item,view_item,view_item,page_view,page_view,search,add_to_cart,click,begin_checkout,purchase,login}'::text[])[1 + (i * 7919) % 12],
		   gen_random_uuid(),
		   '/item/' || (5000 * random())::int || '?from=list&page=' || (i % 40),
		   jsonb_build_object('product_id', 'p' || (5000 * random())::int, 'price', round((900 * random())::numeric, 2),
							  'category', 'c' || i % 80)
	  FROM generate_series(0, n - 1) i $$;
