-- sql/30_event_tables.sql
-- Events: append-only, partitioned by business day.

-- No key and no index here: a dump restores partitions that bring their own (an index of the parent
-- would be built twice). Whoever makes a partition makes its unique index.
CREATE TABLE ecstats.events (
	event_time	timestamptz NOT NULL DEFAULT now(),
	user_id		text COLLATE "C" NOT NULL,
	event		text COLLATE "C" NOT NULL,
	event_id	uuid,
	page_url	text,
	extra		jsonb NOT NULL DEFAULT '{}',
	CONSTRAINT events_valid CHECK (ecstats.event_check(event_time, user_id, event, page_url, extra))
) PARTITION BY RANGE (event_time);
COMMENT ON TABLE ecstats.events IS 'What users did; written by INSERT, COPY or ecstats_track; partitioned by business day';
COMMENT ON COLUMN ecstats.events.event_time IS 'When it happened; 2000-01-01 to one day ahead of the clock';
COMMENT ON COLUMN ecstats.events.user_id IS 'Who, 1 to 128 bytes';
COMMENT ON COLUMN ecstats.events.event IS 'What: a name of [a-z][a-z0-9_.:-]*, 1 to 64 bytes; its meaning is in ecstats.event_types';
COMMENT ON COLUMN ecstats.events.event_id IS 'Makes (event_time, user_id, event_id) unique; rows without one are not deduplicated';
COMMENT ON COLUMN ecstats.events.page_url IS 'Where, at most 2048 bytes';
COMMENT ON COLUMN ecstats.events.extra IS 'Everything else: an object of at most 16 kB and 64 members';

-- Rows of days that have no partition. They count in every figure at once.
CREATE TABLE ecstats.events_default PARTITION OF ecstats.events DEFAULT;
CREATE UNIQUE INDEX events_default_key ON ecstats.events_default (event_time, user_id, event_id);
COMMENT ON TABLE ecstats.events_default IS 'Events of days that have no partition yet; CALL ecstats_maintain() moves them';

CREATE TRIGGER changed AFTER DELETE OR UPDATE ON ecstats.events
	FOR EACH ROW EXECUTE FUNCTION ecstats.row_changed('event_time');
ALTER TABLE ecstats.events ENABLE ALWAYS TRIGGER changed;
-- TRUNCATE of the whole fires the trigger of each partition: the table itself needs none.
CREATE TRIGGER truncated AFTER TRUNCATE ON ecstats.events_default
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.rows_truncated();
ALTER TABLE ecstats.events_default ENABLE ALWAYS TRIGGER truncated;

-- The vocabulary. Unlisted events are accepted, counted and weigh 0.
CREATE TABLE ecstats.event_types (
	event			text COLLATE "C" PRIMARY KEY CHECK (event ~ '^[a-z][a-z0-9_.:-]{0,63}$'),
	weight			numeric NOT NULL DEFAULT 0,
	is_page_view	boolean NOT NULL DEFAULT false,
	funnel_step		integer UNIQUE CHECK (funnel_step BETWEEN 1 AND 100),
	description		text,
	CONSTRAINT event_types_weight_is_finite CHECK (weight BETWEEN -1e9 AND 1e9),
	CONSTRAINT event_types_weight_0_or_from_1e_18 CHECK (weight = 0 OR abs(weight) >= 1e-18)
);
COMMENT ON TABLE ecstats.event_types IS 'What event names mean; a change holds from a day''s next computation';
COMMENT ON COLUMN ecstats.event_types.event IS 'Event name';
COMMENT ON COLUMN ecstats.event_types.description IS 'What it means, for people';
COMMENT ON COLUMN ecstats.event_types.weight IS 'Points of one event in the activity score';
COMMENT ON COLUMN ecstats.event_types.is_page_view IS 'Counts in pv';
COMMENT ON COLUMN ecstats.event_types.funnel_step IS 'Position in the funnel, unique; NULL: not a step';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.event_types
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('event');

INSERT INTO ecstats.event_types (event, weight, is_page_view, funnel_step, description) VALUES
	('login',			1.0, false, NULL, 'Signed in'),
	('page_view',		0.3, true,	NULL, 'Opened a page'),
	('action_click',	0.5, false, NULL, 'Clicked something that does something'),
	('click',			0.5, false, NULL, 'Clicked'),
	('view_item',		0.3, true,	1,	  'Opened a product''s page'),
	('add_to_cart',		0.5, false, 2,	  'Put a product into the cart'),
	('begin_checkout',	0.8, false, 3,	  'Began to check out'),
	('purchase',		1.0, false, 4,	  'Bought'),
	('refund',			0,	 false, NULL, 'Got money back'),
	('remove_from_cart', 0,	 false, NULL, 'Took a product out of the cart'),
	('search',			0.3, false, NULL, 'Searched'),
	('sign_up',			1.0, false, NULL, 'Registered'),
	('share',			0.5, false, NULL, 'Shared a page or a product'),
	('favorite',		0,	 false, NULL, 'Put a product on the list of favourites');
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.event_types
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

