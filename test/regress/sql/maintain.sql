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
