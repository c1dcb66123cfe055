-- Larger arrays of events are stored in bulk: with all that an INSERT would do, and as one.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';
\set SHOW_CONTEXT never

-- n events of a user, an hour apart from 2024-04-01 00:00 in Shanghai
CREATE FUNCTION pg_temp.many(who text, n int, patch jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('event', 'click', 'user_id', who, 'timestamp', 1711900800 + 3600 * i, 'i', i) || patch ORDER BY i)
	  FROM generate_series(0, n - 1) i $$;
-- how often each partition was written, in this transaction so far
CREATE VIEW pg_temp.written AS
	SELECT relname, n_tup_ins FROM pg_stat_xact_user_tables WHERE schemaname = 'ecstats' AND relname ~ '^events_' AND n_tup_ins > 0;

-- every row in its day, those of days without a partition in the default one; each ended day is marked
SELECT ecstats_prepare('2024-04-01', '2024-04-03');
SELECT ecstats_track(pg_temp.many('days', 100));
SELECT tableoid::regclass, count(*), min(event_time), max(event_time) FROM ecstats.events GROUP BY 1 ORDER BY 1;
SELECT day FROM ecstats.day_marks ORDER BY day;
-- the same content by INSERT
SELECT count(*) FROM ecstats.events e JOIN ecstats.event_parse(pg_temp.many('days', 100), true) p
	ON (e.event_time, e.user_id, e.event_id, e.event, e.extra) = (p.event_time, p.user_id, p.event_id, p.event, p.extra)
	AND e.page_url IS NOT DISTINCT FROM p.page_url;
SELECT ecstats_track(pg_temp.many('days', 100)) AS again, ecstats_track(pg_temp.many('days', 110)) AS ten_more;

-- large values, more than a batch of rows, and of bytes
SELECT ecstats_track(pg_temp.many('large', 2500, jsonb_build_object('page_url', repeat('/', 1000)))) AS urls,
	   ecstats_track(pg_temp.many('toast', 30, (SELECT jsonb_object_agg('k' || i, md5(i::text)) FROM generate_series(1, 60) i))) AS extras;
SELECT count(*), count(DISTINCT event_id), min(length(page_url)) FROM ecstats.events WHERE user_id = 'large';
SELECT count(*), min(extra ->> 'k60') = md5('60') AS whole FROM ecstats.events WHERE user_id = 'toast';

-- bad ones: an error, and nothing is stored; or rejects, and the others are
SELECT ecstats_track(pg_temp.many('bad', 40) || '[{"event": "No", "user_id": "bad", "timestamp": 1}]');
SELECT count(*) FROM ecstats.events WHERE user_id = 'bad';
SELECT ecstats_track(pg_temp.many('bad', 40) || '[{"event": "no", "user_id": "bad", "timestamp": 1}, 5, {"event": "click", "user_id": "bad", "timestamp": 1711900800, "i": 0}]', 'quarantine');
SELECT ecstats_track(pg_temp.many('worse', 30, '{"event": "No"}') || pg_temp.many('fine', 30), 'quarantine');
SELECT user_id, count(*) FROM ecstats.events WHERE user_id IN ('bad', 'worse', 'fine') GROUP BY 1 ORDER BY 1;
SELECT payload ->> 'user_id' AS user_id, sqlstate, left(reason, 40) AS reason, count(*) FROM ecstats.rejects GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
-- an element is judged by one clock
SELECT p.ord, p.sqlstate FROM ecstats.event_parse('[{"event":"a","user_id":"u","timestamp":"2024-04-02T00:00:00Z"},{"event":"a","user_id":"u","timestamp":"2024-04-02T00:00:01Z"}]', false, '2024-04-01 00:00:00+00') p;

-- many calls in one transaction, which has room for some undoable ones
BEGIN;
SELECT sum(ecstats_track(pg_temp.many('call' || c, 20))) FROM generate_series(1, 50) c;
SELECT ecstats_track(pg_temp.many('call7', 25)) AS five_more;
SAVEPOINT s;
SELECT ecstats_track(pg_temp.many('undone', 25));
ROLLBACK TO s;
SELECT sum(n_tup_ins) >= 1005 AS written FROM pg_temp.written;
COMMIT;
SELECT count(*), count(DISTINCT user_id) FROM ecstats.events WHERE user_id ~ '^call' OR user_id = 'undone';

-- nothing in a read-only transaction
BEGIN READ ONLY;
SELECT ecstats_track(pg_temp.many('readonly', 20));
ROLLBACK;

-- a constraint of the owner's
ALTER TABLE ecstats.events ADD CONSTRAINT not_banned CHECK (user_id <> 'banned');
SELECT ecstats_track(pg_temp.many('banned', 20));
ALTER TABLE ecstats.events DROP CONSTRAINT not_banned;
-- a rule that forbids what the intake allows, in place of ours
\set VERBOSITY terse
ALTER TABLE ecstats.events DROP CONSTRAINT events_valid, ADD CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, event, user_id, page_url, extra));
SELECT ecstats_track(pg_temp.many('NOT A NAME', 20));
\set VERBOSITY default
ALTER TABLE ecstats.events DROP CONSTRAINT events_valid, ADD CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, user_id, event, page_url, extra));
-- a unique index of the owner's
CREATE UNIQUE INDEX one_of_each ON ecstats.events_20240402 (user_id, (extra ->> 'i'));
SELECT ecstats_track(pg_temp.many('index', 40) || pg_temp.many('index', 40, '{"event": "view"}')) AS without_the_second_of_the_day;
DROP INDEX ecstats.one_of_each;

-- triggers of the owner's: of the table, of one partition, of the statement
CREATE FUNCTION pg_temp.upper() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.page_url := upper(coalesce(NEW.page_url, 'none')); RETURN NEW; END $$;
CREATE TABLE pg_temp.told (what text);
CREATE FUNCTION pg_temp.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO pg_temp.told VALUES (TG_LEVEL || ' of ' || TG_TABLE_NAME); RETURN NULL; END $$;
CREATE TRIGGER mine BEFORE INSERT ON ecstats.events FOR EACH ROW EXECUTE FUNCTION pg_temp.upper();
SELECT ecstats_track(pg_temp.many('trigger1', 60));
DROP TRIGGER mine ON ecstats.events;
CREATE TRIGGER mine BEFORE INSERT ON ecstats.events_20240402 FOR EACH ROW EXECUTE FUNCTION pg_temp.upper();
SELECT ecstats_track(pg_temp.many('trigger2', 60));
DROP TRIGGER mine ON ecstats.events_20240402;
SELECT user_id, tableoid::regclass, page_url, count(*) FROM ecstats.events WHERE user_id ~ '^trigger' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
CREATE TRIGGER mine AFTER INSERT ON ecstats.events FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.tell();
SELECT ecstats_track(pg_temp.many('trigger3', 60));
DROP TRIGGER mine ON ecstats.events;
CREATE TRIGGER mine AFTER INSERT ON ecstats.events_20240403 FOR EACH ROW EXECUTE FUNCTION pg_temp.tell();
SELECT ecstats_track(pg_temp.many('trigger4', 60));
DROP TRIGGER mine ON ecstats.events_20240403;
SELECT what, count(*) FROM pg_temp.told GROUP BY 1 ORDER BY 1;

-- a partition whose columns stand in another order
CREATE TABLE pg_temp_other (extra jsonb NOT NULL DEFAULT '{}', event_id uuid, event text COLLATE "C" NOT NULL, page_url text, user_id text COLLATE "C" NOT NULL, event_time timestamptz NOT NULL);
ALTER TABLE pg_temp_other ADD CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, user_id, event, page_url, extra));
ALTER TABLE ecstats.events ATTACH PARTITION pg_temp_other FOR VALUES FROM ('2022-01-01') TO ('2022-02-01');
SELECT ecstats_track(pg_temp.many('other', 20, '{"timestamp": "2022-01-05T00:00:00Z"}'));
SELECT tableoid::regclass, event_time, event, count(*), count(DISTINCT extra) FROM ecstats.events WHERE user_id = 'other' GROUP BY 1, 2, 3;
DROP TABLE pg_temp_other;
-- row security of the owner's, for the owner too
ALTER TABLE ecstats.events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT ecstats_track(pg_temp.many('secured', 20)) AS by_superuser;
ALTER TABLE ecstats.events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
-- Citus, of which the catalog is enough: its planner sees every row of a table that it may have distributed
BEGIN;
SELECT ecstats.event_store(pg_temp.many('shell1', 20), true, now()) AS in_bulk;
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
SELECT ecstats.event_store(pg_temp.many('shell2', 20), true, now()) IS NULL AS left_to_insert, ecstats_track(pg_temp.many('shell3', 20));
ROLLBACK;
-- a column of the owner's
ALTER TABLE ecstats.events ADD COLUMN host text DEFAULT 'web1';
SELECT ecstats_track(pg_temp.many('column', 20));
SELECT host, count(*) FROM ecstats.events WHERE user_id = 'column' GROUP BY 1;

-- a few elements are looked up by the index, however much is stored
BEGIN;
CREATE VIEW pg_temp.scans AS SELECT sum(seq_scan) AS seq, sum(idx_scan) AS idx FROM pg_stat_xact_user_tables WHERE schemaname = 'ecstats' AND relname ~ '^events_';
CREATE TEMP TABLE scanned AS TABLE pg_temp.scans;
SELECT c.ord FROM ecstats.event_conflicts('[{"event":"click","user_id":"days","timestamp":1711900800},{"event":"click","user_id":"days","timestamp":1711904400}]') c;
SELECT s.seq - b.seq AS seq_scans, s.idx - b.idx > 0 AS by_index FROM pg_temp.scans s, scanned b;
COMMIT;

-- a recent day: its partition is made by the first call; a table that has its name is let be
SELECT ecstats.event_days_wanted(jsonb_build_array(1, jsonb_build_object('timestamp', extract(epoch FROM now()))), now()) = ARRAY[ecstats_day()] AS wanted;
SELECT ecstats_track(jsonb_build_object('event', 'a', 'user_id', 'recent', 'timestamp', extract(epoch FROM now())));
SELECT ecstats.event_days_wanted(jsonb_build_array(1, jsonb_build_object('timestamp', extract(epoch FROM now()))), now()) IS NULL AS no_more;
DO $$ BEGIN EXECUTE format('ALTER TABLE ecstats.events DETACH PARTITION ecstats.%I', ecstats.day_partition_name(ecstats_day())); END $$;
SELECT ecstats.event_days_wanted(jsonb_build_object('timestamp', extract(epoch FROM now())), now()) IS NULL AS not_tried;
SELECT ecstats_track(jsonb_build_object('event', 'a', 'user_id', 'recent', 'timestamp', extract(epoch FROM now())));
SELECT tableoid::regclass, count(*) FROM ecstats.events WHERE user_id = 'recent' GROUP BY 1;
