-- What a scoring makes up for: failures, old orders, short half-lives; who may read and write its parts.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'UTC';
UPDATE ecstats.config SET timezone = 'UTC';
\set SHOW_CONTEXT never
\set VERBOSITY terse

-- ---------------------------------------------------------------- after failures, an earlier day is scored first
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT date '2026-08-01' + d + interval '1 hour', 'always', 'login' FROM generate_series(0, 11) d;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-08-03 01:00+00', 'once', 'login');
SELECT day FROM ecstats_daily('2026-08-01');
CREATE FUNCTION ecstats_regress_fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no room'; END$$;
CREATE TRIGGER ecstats_regress_fail BEFORE INSERT OR UPDATE ON ecstats.user_activity EXECUTE FUNCTION ecstats_regress_fail();
SELECT k.day FROM generate_series(2, 11) d, ecstats_daily(date '2026-07-31' + d) k ORDER BY 1;
DROP TRIGGER ecstats_regress_fail ON ecstats.user_activity;
DROP FUNCTION ecstats_regress_fail();
SELECT ecstats_score('2026-08-02');
SELECT as_of, stale_from FROM ecstats.activity_state;
SELECT day FROM ecstats_daily('2026-08-12');
SELECT as_of, stale_from FROM ecstats.activity_state;
SELECT user_id, last_active_day, first_seen FROM ecstats.user_activity ORDER BY user_id;
SELECT * FROM ecstats.cohorts WHERE cohort_day = '2026-08-03' ORDER BY age_days;

-- ---------------------------------------------------------------- orders that are older than a scan, without events
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount)
VALUES ('o1', 1, '2024-03-01 12:00+00', 'old_buyer', 'p', 1, 10);
SELECT day FROM ecstats_daily('2026-08-12');
SELECT user_id, order_count, last_order_day, days_silent, r, segment FROM ecstats.user_profile WHERE order_count > 0;

-- ---------------------------------------------------------------- explained where nothing is left
UPDATE ecstats.config SET score_half_life_days = 0.001;
SELECT ecstats_score('2026-08-12');
SELECT sum(points) = (SELECT score FROM ecstats.user_activity a WHERE a.user_id = 'always') AS same, count(*)
  FROM ecstats_explain_score('always', '2026-08-12');

-- ---------------------------------------------------------------- a template that no trial comes to
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('bad', '$.score > 1 && $.first_seen.datetime("YYYYxx") == $.as_of');
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('good', '$.score > 1 && $.first_seen.datetime("DD \"of\" MM") == $.as_of');

-- ---------------------------------------------------------------- readers and operators
CREATE ROLE regress_ecstats_again;
SELECT ecstats_grant('regress_ecstats_again', 'reader');
SET ROLE regress_ecstats_again;
SELECT * FROM ecstats_tag_audience('high_active');
SELECT tag, holds, since FROM ecstats_explain_tag('always', 'high_active');
SELECT ecstats_score('2026-08-12');
RESET ROLE;
SELECT ecstats_grant('regress_ecstats_again', 'operator');
SET ROLE regress_ecstats_again;
INSERT INTO ecstats.tag_rules (tag, rule) VALUES ('mine', '$.days_silent > 1');
SELECT ecstats_score('2026-08-12');
SELECT * FROM ecstats_tag_audience('mine');
RESET ROLE;
DROP OWNED BY regress_ecstats_again;
DROP ROLE regress_ecstats_again;
DROP EXTENSION ecstats CASCADE;
