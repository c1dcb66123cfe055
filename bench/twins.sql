-- bench/twins.sql
-- What ecstats.events is measured against: tables with the same columns, day partitions and unique index.
CREATE SCHEMA bench;

-- kind: 'plain' (no rules), 'trigger' (the rules in a PL/pgSQL row trigger), 'checks' (the rules as SQL CHECKs).
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

-- The same rules, as one would write them in PL/pgSQL.
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

-- An expression that a CHECK may hold: sub-selects are not allowed there.
CREATE FUNCTION bench.members(extra jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS
	$$ SELECT count(*) FROM jsonb_object_keys(extra) $$;

CREATE PROCEDURE bench.twins(from_day date, to_day date) LANGUAGE plpgsql AS $$
BEGIN
	CALL bench.twin('plain', from_day, to_day);
	CALL bench.twin('trigger', from_day, to_day);
	CREATE TRIGGER rules BEFORE INSERT ON bench.trigger FOR EACH ROW EXECUTE FUNCTION bench.rules();
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
