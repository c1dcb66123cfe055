SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'Asia/Shanghai';
SET datestyle = 'ISO';
UPDATE ecstats.config SET timezone = 'Asia/Shanghai';

-- April 2025: the 28th is a Monday, its week ends on May 4. One event and one order on each of some days.
SELECT ecstats_prepare('2025-03-30', '2025-05-06') > 0 AS made;
INSERT INTO ecstats.events (event_time, user_id, event)
SELECT d + interval '10 hours', 'u' || extract(day FROM d), 'page_view'
  FROM unnest('{2025-03-31,2025-04-01,2025-04-15,2025-04-28,2025-04-30,2025-05-02,2025-05-05}'::timestamp[]) d;
SELECT ecstats_order('[
 {"order_id": "a", "order_time": "2025-04-01T12:00:00+08:00", "user_id": "b1", "paid_time": "2025-04-01T12:05:00+08:00", "items": [{"product_id": "p", "quantity": 1, "amount": 10}]},
 {"order_id": "b", "order_time": "2025-04-01T13:00:00+08:00", "user_id": "b2", "items": [{"product_id": "p", "quantity": 1, "amount": 20}]},
 {"order_id": "c", "order_time": "2025-04-01T14:00:00+08:00", "user_id": "b3", "paid_time": "2025-04-30T09:00:00+08:00", "items": [{"product_id": "p", "quantity": 1, "amount": 40}]},
 {"order_id": "d", "order_time": "2025-04-15T14:00:00+08:00", "user_id": "b3", "paid_time": "2025-05-05T09:00:00+08:00", "items": [{"product_id": "p", "quantity": 2, "amount": 80}]}]') AS lines;

-- no retention, no closed day: nothing may go
SELECT * FROM ecstats.maintain_droppable('2025-06-15 00:00+08');
UPDATE ecstats.config SET event_retention = '30 days';
SELECT * FROM ecstats.maintain_droppable('2025-06-15 00:00+08');
SELECT day, event_count, gmv, paid_amount FROM ecstats_daily('2025-04-30');
SELECT day, complete, revision FROM ecstats.daily_kpi ORDER BY day;
-- the week of the 28th to the 30th has an open day, May 2; March 31 shares its week with April
SELECT day FROM ecstats.maintain_droppable('2025-06-15 00:00+08');
SELECT day FROM ecstats_daily('2025-05-05');
SELECT * FROM ecstats.maintain_droppable('2025-06-15 00:00+08');
-- whole days: the last instant of April 15 must be 30 days old
SELECT day FROM ecstats.maintain_droppable('2025-05-15 23:59:59+08');
SELECT day FROM ecstats.maintain_droppable('2025-05-16 00:00+08');
-- neither month nor week has ended
UPDATE ecstats.config SET event_retention = '1 day';
SELECT day FROM ecstats.maintain_droppable('2025-04-30 23:59:59+08');
SELECT day FROM ecstats.maintain_droppable('2025-05-04 23:59:59+08');
SELECT day FROM ecstats.maintain_droppable('2025-05-05 00:00+08');
UPDATE ecstats.config SET event_retention = '30 days';

-- a changed day, and with it its week and month, waits until it is computed again
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-04-15 11:00+08', 'late', 'page_view');
SELECT day FROM ecstats.maintain_droppable('2025-06-15 00:00+08');
SELECT ecstats.maintain_drop('2025-04-01', '2025-06-15 00:00+08');
SELECT day FROM ecstats_daily('2025-05-05');
SELECT count(*) FROM ecstats.maintain_droppable('2025-06-15 00:00+08');

-- dropping: the stored figures stay; another day's partition is not touched
CREATE TEMP TABLE before AS SELECT * FROM ecstats.daily_kpi;
SELECT ecstats.maintain_drop('2025-04-01', '2025-05-01 00:00+08') AS too_early;
SELECT ecstats.maintain_drop('2025-04-01', '2025-06-15 00:00+08');
SELECT ecstats.maintain_drop('2025-04-01', '2025-06-15 00:00+08') AS again;
SELECT day, frozen, events_dropped, orders_dropped FROM ecstats.day_state ORDER BY day;
SELECT ecstats.day_partition_exists('2025-04-01'), ecstats.day_partition_exists('2025-04-15');
SELECT count(*) FROM ecstats.order_lines;
-- the rest, by the procedure and today's clock: May 2025 is over for long
CALL ecstats_maintain();
SELECT day, frozen, events_dropped, orders_dropped FROM ecstats.day_state ORDER BY day;
SELECT count(*) FROM ecstats.events;
SELECT day, event_count, revision FROM ecstats_daily('2025-05-05');
SELECT count(*) FROM (SELECT * FROM ecstats.daily_kpi EXCEPT SELECT * FROM before) changed;

-- late rows for a frozen day stay, the figures too, and status warns
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-04-15 12:00+08', 'late', 'page_view');
CALL ecstats_maintain();
SELECT day, event_count FROM ecstats_daily('2025-05-05');
CALL ecstats_maintain();
SELECT count(*), min(tableoid::regclass::text) AS partition FROM ecstats.events;
SELECT count(*) FROM (SELECT * FROM ecstats.daily_kpi EXCEPT SELECT * FROM before) changed;
SELECT component, status, detail FROM ecstats_status() WHERE component = 'frozen days';

-- order lines: one goes with the later of its two days. b was never paid, c was paid on a day that goes too,
-- d on May 5
UPDATE ecstats.config SET order_retention = '60 days';
SELECT day, events, orders FROM ecstats.maintain_droppable('2025-06-30 00:00+08');
SELECT ecstats.maintain_drop('2025-04-01', '2025-06-30 00:00+08');
SELECT order_id FROM ecstats.order_lines ORDER BY 1;
SELECT ecstats.maintain_drop('2025-04-15', '2025-06-30 00:00+08'), ecstats.maintain_drop('2025-04-30', '2025-06-30 00:00+08');
SELECT order_id FROM ecstats.order_lines ORDER BY 1;
SELECT count(*) FROM ecstats.day_marks WHERE day <> '2025-04-15';
CALL ecstats_maintain();
SELECT order_id FROM ecstats.order_lines ORDER BY 1;
SELECT count(*) FROM (SELECT * FROM ecstats.daily_kpi EXCEPT SELECT * FROM before) changed;
-- a late line of a frozen day stays
SELECT ecstats_order('{"order_id": "e", "order_time": "2025-04-01T15:00:00+08:00", "items": [{"product_id": "p", "quantity": 1, "amount": 5}]}') AS lines;
CALL ecstats_maintain();
SELECT order_id FROM ecstats.order_lines ORDER BY 1;

-- a lock that is busy is no failure, nor is a view of somebody's on a partition
SELECT ecstats_prepare('2025-01-01', '2025-01-02');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2025-01-01 12:00+08', 'x', 'page_view');
SELECT day FROM ecstats_daily('2025-01-01');
CREATE VIEW somebodys AS SELECT * FROM ecstats.events_20250101;
CALL ecstats_maintain();
SELECT day, frozen FROM ecstats.day_state WHERE day = '2025-01-01';
DROP VIEW somebodys;
CALL ecstats_maintain();
SELECT day, frozen FROM ecstats.day_state WHERE day = '2025-01-01';
SELECT ecstats.day_partition_exists('2025-01-01');

-- events are kept for a shorter time than order lines: a refund or a late payment still restates the orders of a day
-- whose events are gone, and what was counted from events stays
UPDATE ecstats.config SET event_retention = '30 days', order_retention = NULL;
SELECT ecstats_prepare('2024-06-03', '2024-06-04');
INSERT INTO ecstats.events (event_time, user_id, event) SELECT d + interval '10 hours', 'v' || i, 'view_item' FROM generate_series(1, 4) i, unnest('{2024-06-03,2024-06-04}'::timestamp[]) d;
SELECT ecstats_order('[
 {"order_id": "j1", "order_time": "2024-06-03T12:00:00+08:00", "user_id": "b1", "paid_time": "2024-06-03T12:05:00+08:00", "items": [{"product_id": "p", "quantity": 1, "amount": 10}]},
 {"order_id": "j2", "order_time": "2024-06-03T13:00:00+08:00", "user_id": "b2", "items": [{"product_id": "q", "quantity": 1, "amount": 20}]}]') AS lines;
SELECT day FROM ecstats_daily('2024-06-04');
CALL ecstats_maintain();
SELECT day, frozen, events_dropped, orders_dropped FROM ecstats.day_state WHERE day IN ('2024-06-03', '2024-06-04') ORDER BY day;
SELECT count(*) FROM ecstats.events WHERE event_time < '2024-12-31';
CREATE TEMP VIEW june AS
	SELECT day, revision, gmv, buyer_count, paid_amount, refund_amount, event_count, pv, uv, new_user_count, conversion_rate FROM ecstats.daily_kpi WHERE day IN ('2024-06-03', '2024-06-04') ORDER BY day;
SELECT * FROM june;
CREATE TEMP TABLE june_events AS
	SELECT 'e' AS what, day, event AS name, event_count || '/' || user_count AS n FROM ecstats.daily_events WHERE day < '2024-07-01'
	UNION ALL SELECT 'f', day, event, user_count::text FROM ecstats.daily_funnel WHERE day < '2024-07-01'
	UNION ALL SELECT 'u', day, user_id, event_count::text FROM ecstats.user_daily WHERE day < '2024-07-01';
SELECT count(*) FROM june_events;
UPDATE ecstats.order_lines SET status = 'refunded', paid_time = '2024-06-04 09:00+08' WHERE order_id = 'j2';
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('j3', 1, '2024-06-03 15:00+08', 'b3', 'p', 1, 5), ('j2', 1, '2024-06-04 15:00+08', 'b2', 'q', -1, -20);
-- at the same time an event comes: it stays, and is not counted alone
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-06-03 11:00+08', 'late', 'page_view');
CALL ecstats_maintain();
SELECT day FROM ecstats_daily('2024-06-04');
SELECT * FROM june;
SELECT day, revision, column_name, round(old, 4) AS old, round(new, 4) AS new FROM ecstats.restatements WHERE day IN ('2024-06-03', '2024-06-04') ORDER BY day, revision, column_name;
SELECT day, product_id, total_sold, total_revenue, refund_amount FROM ecstats.daily_sales WHERE day IN ('2024-06-03', '2024-06-04') ORDER BY 1, 2;
SELECT count(*) FROM (
	SELECT 'e' AS what, day, event AS name, event_count || '/' || user_count AS n FROM ecstats.daily_events WHERE day < '2024-07-01'
	UNION ALL SELECT 'f', day, event, user_count::text FROM ecstats.daily_funnel WHERE day < '2024-07-01'
	UNION ALL SELECT 'u', day, user_id, event_count::text FROM ecstats.user_daily WHERE day < '2024-07-01'
	INTERSECT TABLE june_events) same;
SELECT count(*) FROM ecstats.day_marks m WHERE m.day IN ('2024-06-03', '2024-06-04');
SELECT component, detail FROM ecstats_status() WHERE component = 'frozen days';
-- a user who turns up on an earlier day leaves a later one, but not one whose events are gone
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-06-02 11:00+08', 'v1', 'page_view');
SELECT day, new_user_count FROM ecstats_daily('2024-06-02');
SELECT new_user_count FROM june;
-- without its order lines a day is frozen
UPDATE ecstats.config SET order_retention = '60 days';
SELECT day FROM ecstats_daily('2024-06-04');
CALL ecstats_maintain();
SELECT frozen, events_dropped, orders_dropped FROM ecstats.day_state WHERE day IN ('2024-06-03', '2024-06-04') ORDER BY day;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('j4', 1, '2024-06-03 15:00+08', 'b3', 'p', 1, 5);
SELECT day FROM ecstats_daily('2024-06-04');
SELECT day, revision, gmv FROM june;

-- whoever looks before and after a lock must not look with an old snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ecstats.maintain_drop('2024-06-03', now());
ROLLBACK;
SET default_transaction_isolation = 'serializable';
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-07-01 11:00+08', 'w', 'page_view');
CALL ecstats_maintain();
RESET default_transaction_isolation;
SELECT tableoid::regclass FROM ecstats.events WHERE user_id = 'w';

-- a partition of somebody's, with the name of one day and the bounds of two, is not dropped, nor are its days called so
UPDATE ecstats.config SET order_retention = NULL;
SELECT ecstats_prepare('2024-08-01', '2024-08-01');
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20240801;
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.events_20240801 FOR VALUES FROM ('2024-08-01 00:00+08') TO ('2024-08-03 00:00+08');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-08-01 11:00+08', 'a1', 'page_view'), ('2024-08-02 11:00+08', 'a2', 'page_view');
SELECT day FROM ecstats_daily('2024-08-03');
SELECT p.* FROM ecstats.maintain_droppable(now()) p WHERE p.day > '2024-07-31';
SELECT ecstats.maintain_drop('2024-08-01', now()), ecstats.maintain_drop('2024-08-02', now());
CALL ecstats_maintain();
SELECT user_id FROM ecstats.events WHERE user_id IN ('a1', 'a2') ORDER BY 1;
SELECT day, frozen, events_dropped FROM ecstats.day_state WHERE day BETWEEN '2024-08-01' AND '2024-08-03' ORDER BY day;

-- a partition that somebody detached: its name is taken, which is no failure and no busy lock; back again, it is as before
SELECT ecstats_prepare('2024-09-02', '2024-09-03');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-02 11:00+08', 'd1', 'page_view'), ('2024-09-03 11:00+08', 'd2', 'page_view');
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20240902;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-02 12:00+08', 'd3', 'page_view');
SELECT count(*) FROM ecstats.maintain_days(now()) d WHERE d = '2024-09-02';
CALL ecstats_maintain();
SELECT ecstats_prepare('2024-09-02', '2024-09-02');
SELECT user_id, tableoid::regclass FROM ecstats.events WHERE user_id LIKE 'd_' ORDER BY 1;
DELETE FROM ecstats.events WHERE user_id = 'd3';
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.events_20240902 FOR VALUES FROM ('2024-09-02 00:00+08') TO ('2024-09-03 00:00+08');
SELECT event_count FROM ecstats_daily('2024-09-02');
SELECT event_count FROM ecstats_daily('2024-09-03');
-- detached after its close, events and orders come late: the orders count; attached again, so does the rest
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20240902;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-02 12:00+08', 'd3', 'page_view');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('s1', 1, '2024-09-02 15:00+08', 'b3', 'p', 1, 5);
SELECT event_count, uv, gmv, conversion_rate FROM ecstats_daily('2024-09-02');
UPDATE ecstats.order_lines SET amount = 6 WHERE order_id = 's1';
CALL ecstats_maintain();
SELECT event_count, uv, gmv FROM ecstats_daily('2024-09-02');
SELECT detail LIKE '%2024-09-02%' AS says_late FROM ecstats_status() WHERE component = 'frozen days';
BEGIN;
WITH strays AS (DELETE FROM ecstats.events WHERE user_id = 'd3' RETURNING *) INSERT INTO ecstats.events_20240902 SELECT * FROM strays;
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.events_20240902 FOR VALUES FROM ('2024-09-02 00:00+08') TO ('2024-09-03 00:00+08');
COMMIT;
SELECT event_count, uv, gmv FROM ecstats_daily('2024-09-02');
SELECT detail LIKE '%2024-09-02%' AS says_late FROM ecstats_status() WHERE component = 'frozen days';
-- dropped by hand after its close, and given a new one by a late row: what was counted stays
DROP TABLE ecstats.events_20240903;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-03 12:00+08', 'd4', 'page_view');
CALL ecstats_maintain();
SELECT user_id, tableoid::regclass FROM ecstats.events WHERE user_id = 'd4';
SELECT event_count, uv FROM ecstats_daily('2024-09-03');
-- the same, and the new one is there before anybody has looked
UPDATE ecstats.config SET event_retention = NULL;
SELECT ecstats_prepare('2024-09-04', '2024-09-05');
INSERT INTO ecstats.events (event_time, user_id, event) SELECT d + interval '11 hours', 'h' || i, 'page_view' FROM generate_series(1, 3) i, unnest('{2024-09-04,2024-09-05}'::timestamp[]) d;
SELECT day, event_count, uv FROM ecstats_daily('2024-09-05');
DROP TABLE ecstats.events_20240904;
SELECT ecstats_prepare('2024-09-04', '2024-09-04');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-04 12:00+08', 'h4', 'page_view');
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('h1', 1, '2024-09-04 15:00+08', 'b3', 'p', 1, 5);
SELECT event_count, uv, gmv FROM ecstats_daily('2024-09-04');
SELECT events_dropped FROM ecstats.day_state WHERE day = '2024-09-04';
SELECT detail LIKE '%2024-09-04%' AS says_late FROM ecstats_status() WHERE component = 'frozen days';
-- detached, renamed and kept: late rows get a new one and are not counted instead; back again, all is as before
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20240905;
ALTER TABLE ecstats.events_20240905 RENAME TO kept;
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-05 12:00+08', 'h4', 'page_view');
CALL ecstats_maintain();
SELECT event_count, uv FROM ecstats_daily('2024-09-05');
SELECT events_dropped FROM ecstats.day_state WHERE day = '2024-09-05';
SELECT detail LIKE '%2024-09-05%' AS says_late FROM ecstats_status() WHERE component = 'frozen days';
BEGIN;
ALTER TABLE ecstats.events DETACH PARTITION ecstats.events_20240905;
INSERT INTO ecstats.kept SELECT * FROM ecstats.events_20240905;
DROP TABLE ecstats.events_20240905;
ALTER TABLE ecstats.kept RENAME TO events_20240905;
ALTER TABLE ecstats.events ATTACH PARTITION ecstats.events_20240905 FOR VALUES FROM ('2024-09-05 00:00+08') TO ('2024-09-06 00:00+08');
COMMIT;
SELECT event_count, uv FROM ecstats_daily('2024-09-05');
-- closed out of the default partition and moved by maintenance: dropped before the next close, its figures stay too
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-09 12:00+08', 'h5', 'page_view');
SELECT event_count FROM ecstats_daily('2024-09-09');
CALL ecstats_maintain();
DROP TABLE ecstats.events_20240909;
INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, quantity, amount) VALUES ('h2', 1, '2024-09-09 15:00+08', 'b3', 'p', 1, 5);
SELECT event_count, gmv FROM ecstats_daily('2024-09-09');
-- a stored row that somebody deletes is made anew from what is there, also where a late event on an earlier day is of the same user
SELECT day FROM ecstats_daily('2024-09-05');
DELETE FROM ecstats.daily_kpi WHERE day IN ('2024-09-05', '2024-09-09');
INSERT INTO ecstats.events (event_time, user_id, event) VALUES ('2024-09-02 13:00+08', 'h1', 'page_view');
SELECT day, event_count FROM ecstats_daily('2024-09-09');
SELECT day, event_count, new_user_count, revision FROM ecstats.daily_kpi WHERE day BETWEEN '2024-09-02' AND '2024-09-09' ORDER BY day;
