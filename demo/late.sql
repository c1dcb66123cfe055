-- What comes after its day was closed, and what is wrong: the next close takes the late rows in, and the
-- bad one of a thousand waits in ecstats.rejects.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- A warehouse was off the net: two days of its orders arrive late, with the visits that led to them.
SELECT ecstats_order((SELECT jsonb_agg(jsonb_build_object('order_id', 'W' || d || lpad(n::text, 4, '0'),
		'order_time', to_jsonb(ecstats.day_start(ecstats_day() - d) + interval '15 hours' + n * interval '7 minutes'),
		'paid_time', to_jsonb(ecstats.day_start(ecstats_day() - d) + interval '15 hours 3 minutes' + n * interval '7 minutes'),
		'user_id', 'u' || lpad((n * 7)::text, 6, '0'), 'region', '新疆', 'channel', '微信小程序', 'status', 'paid',
		'items', '[{"product_id": "坚果礼盒 礼盒装 米白", "quantity": 2, "amount": 198.00}]'::jsonb))
	FROM generate_series(4, 5) AS d, generate_series(1, 30) AS n)) AS "late order lines";

SELECT ecstats_track((SELECT jsonb_agg(jsonb_build_object('event', 'purchase',
		'timestamp', to_jsonb(ecstats.day_start(ecstats_day() - d) + interval '15 hours' + n * interval '7 minutes'),
		'user_id', 'u' || lpad((n * 7)::text, 6, '0')))
	FROM generate_series(4, 5) AS d, generate_series(1, 30) AS n)) AS "late events";

-- A client sends a thousand events in one call; the 500th has no valid name.
SELECT ecstats_track((SELECT jsonb_agg(jsonb_build_object('event', CASE n WHEN 500 THEN 'Not a name!' ELSE 'click' END,
		'timestamp', to_jsonb(ecstats.day_start(ecstats_day() - 1) + interval '20 hours' + n * interval '1 second'),
		'user_id', 'u' || lpad(n::text, 6, '0'), 'extra', jsonb_build_object('button', 'btn-coupon')))
	FROM generate_series(1, 1000) AS n), 'quarantine') AS "stored of 1000";
