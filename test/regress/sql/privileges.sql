-- Who may do what: every function's privileges, search_path and volatility, and the four profiles in use.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
\set SHOW_CONTEXT never
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

-- every name of a profile is one of the extension
SELECT p.object FROM ecstats.profile_privileges() p
 WHERE p.kind = 'function' AND NOT EXISTS (SELECT FROM pg_proc c WHERE c.proname = p.object AND c.pronamespace IN ('ecstats'::regnamespace, 'public'::regnamespace))
	OR p.kind = 'relation' AND to_regclass('ecstats.' || p.object) IS NULL;

-- nothing to PUBLIC, everything with a comment, a pinned search_path wherever it is needed
CREATE TEMP VIEW members AS
	SELECT p.* FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'ecstats';
SELECT oid::regprocedure AS to_public FROM members WHERE proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) a WHERE a.grantee = 0) ORDER BY 1;
SELECT c.oid::regclass AS to_public FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'ecstats'::regnamespace AND a.grantee = 0 ORDER BY 1;
SELECT oid::regprocedure AS without_comment FROM members WHERE obj_description(oid, 'pg_proc') IS NULL ORDER BY 1;
SELECT c.oid::regclass AS without_comment FROM pg_class c WHERE c.relnamespace = 'ecstats'::regnamespace AND c.relkind IN ('r', 'p', 'v')
   AND obj_description(c.oid, 'pg_class') IS NULL AND NOT c.relispartition AND c.relname <> 'drop_guard' ORDER BY 1;
SELECT oid::regprocedure AS definer_without_search_path FROM members WHERE prosecdef
   AND NOT coalesce(proconfig @> '{"search_path=pg_catalog, pg_temp"}', false) ORDER BY 1;
SELECT oid::regprocedure AS plpgsql_without_search_path FROM members m
 WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql') AND prokind = 'f'
   AND NOT coalesce(proconfig @> '{"search_path=pg_catalog, pg_temp"}', false) ORDER BY 1;
SELECT oid::regprocedure AS callable, provolatile AS vol, proisstrict AS strict, prosecdef AS definer, proparallel AS par
  FROM members WHERE proname LIKE 'ecstats\_%' ORDER BY proname COLLATE "C", oid::regprocedure::text COLLATE "C";

-- the profiles
CREATE ROLE ecstats_w; CREATE ROLE ecstats_r; CREATE ROLE ecstats_o; CREATE ROLE ecstats_p; CREATE ROLE ecstats_n;
SELECT ecstats_grant('ecstats_w', 'writer'), ecstats_grant('ecstats_r', 'reader'), ecstats_grant('ecstats_o', 'operator'), ecstats_grant('ecstats_p', 'pusher');
SELECT ecstats_grant('ecstats_nobody', 'reader');
SELECT ecstats_grant('ecstats_n', 'admin');
SET ROLE ecstats_o;
SELECT ecstats_grant('ecstats_o', 'pusher');
RESET ROLE;

SET ROLE ecstats_n;
SELECT ecstats_today();
SELECT count(*) FROM ecstats.daily_kpi;
RESET ROLE;

SET ROLE ecstats_w;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2026-03-02 04:00+00', 'a', 'login');
SELECT ecstats_track('{"event":"click","timestamp":"2026-03-02T05:00:00Z","user_id":"b"}');
SELECT ecstats_track('{"event":"CLICK","timestamp":"2026-03-02T05:00:00Z","user_id":"b"}', 'quarantine');
SELECT ecstats_order('{"order_id":"o","timestamp":"2026-03-02T05:00:00Z","items":[{"product_id":"p","quantity":1,"amount":1}]}');
UPDATE ecstats.order_lines SET status = 'paid';
SELECT count(*) FROM ecstats.events;
SELECT ecstats_daily('2026-03-02');
SET ecstats.suppress_marks = on;
INSERT INTO ecstats.day_marks VALUES ('2026-03-02');
RESET ROLE;

SET ROLE ecstats_o;
INSERT INTO ecstats.channels (name, kind, url, secret) VALUES ('hook', 'webhook', 'https://shop.example/secret-path', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
UPDATE ecstats.reports SET channels = '{hook}' WHERE name = 'daily';
SELECT event_count, gmv FROM ecstats_daily('2026-03-02');
SELECT url FROM ecstats.channels;
SELECT secret FROM ecstats.channels;
SELECT name, kind FROM ecstats.channels;
SELECT count(*) FROM ecstats.events;
INSERT INTO ecstats.daily_kpi (day) VALUES ('2026-03-03');
UPDATE ecstats.deliveries SET status = 'sent';
SELECT ecstats_schedule('mine', '0 9 * * *', 'SELECT 1') > 0 AS scheduled;
SELECT delivery_id FROM ecstats.delivery_claim('me', 1);
RESET ROLE;

SET ROLE ecstats_r;
SELECT event_count, gmv FROM ecstats.daily_kpi;
SELECT day = ecstats_day() FROM ecstats_today();
SELECT channel, kind, would_send FROM ecstats_preview('daily', '2026-03-02');
SELECT ecstats_report_data('daily', '2026-03-02') ->> 'gmv' AS gmv;
SELECT count(*) > 5 AS has_status FROM ecstats_status();
SELECT * FROM ecstats.user_daily ORDER BY user_id;
SELECT url FROM ecstats.channels;
SELECT count(*) FROM ecstats.order_lines;
SELECT ecstats_daily('2026-03-02');
SELECT ecstats_push('hook', '{"text":"x"}');
RESET ROLE;

SET ROLE ecstats_p;
SELECT delivery_id, attempt, method, url FROM ecstats.delivery_claim('me', 10);
SELECT outcome FROM ecstats.delivery_settle('me', '[{"delivery_id":1,"attempt":1,"http_status":200,"request_sent":true,"response":"","headers":{},"elapsed_ms":1}]');
SELECT ecstats.pusher_beat('me') IS NULL AS nothing_due;
SELECT secret FROM ecstats.channels;
SELECT count(*) FROM ecstats.deliveries;
SELECT ecstats_push('hook', '{"text":"x"}');
RESET ROLE;

SELECT ecstats_revoke('ecstats_r', 'reader');
SET ROLE ecstats_r;
SELECT count(*) FROM ecstats.daily_kpi;
RESET ROLE;
SET client_min_messages = warning;
DROP OWNED BY ecstats_w, ecstats_r, ecstats_o, ecstats_p, ecstats_n;
DROP ROLE ecstats_w, ecstats_r, ecstats_o, ecstats_p, ecstats_n;
