-- sql/32_activity_tables.sql
-- Who is active: a row a user, what makes a level, and the view that people and rules read.

-- Levels: the strictest rule that holds gives it, the rest is low. Each has one kind of limit.
CREATE TABLE ecstats.activity_levels (
	level		text PRIMARY KEY CHECK (level IN ('high', 'mid')),
	top_share	numeric CHECK (top_share > 0 AND top_share <= 1),
	min_score	double precision CHECK (min_score > 0 AND min_score < 'Infinity'),
	CONSTRAINT activity_levels_one_limit CHECK (num_nonnulls(top_share, min_score) = 1)
);
COMMENT ON TABLE ecstats.activity_levels IS
	'What makes a user''s level: a share of the users with a score above 0, or a score. UPDATE ecstats.activity_levels SET top_share = NULL, min_score = CASE level WHEN ''high'' THEN 10 ELSE 3 END turns to fixed scores';
COMMENT ON COLUMN ecstats.activity_levels.level IS 'high or mid; whoever is neither is low, and so is a score of 0 or less';
COMMENT ON COLUMN ecstats.activity_levels.top_share IS
	'A user has the level if fewer than this share of the users with a score above 0 have a higher one; equal scores are never parted';
COMMENT ON COLUMN ecstats.activity_levels.min_score IS 'A user has the level from this score on';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.activity_levels
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('level');
INSERT INTO ecstats.activity_levels (level, top_share) VALUES ('high', 0.20), ('mid', 0.50);
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.activity_levels
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

-- A row changes where something in it does: a user who has been silent for long is not written every night. What
-- passes with time alone (days_silent and the like) is made by the view. Half of a page stays free, so that a new
-- version of a row finds room beside the old one and no index has to know.
CREATE TABLE ecstats.user_activity (
	user_id				text COLLATE "C" PRIMARY KEY,
	as_of				date NOT NULL,
	score				double precision NOT NULL DEFAULT 0,
	previous_score		double precision NOT NULL DEFAULT 0,
	level				text NOT NULL DEFAULT 'low' CHECK (level IN ('high', 'mid', 'low')),
	previous_level		text NOT NULL DEFAULT 'low' CHECK (previous_level IN ('high', 'mid', 'low')),
	last_active_day		date,
	active_days			integer NOT NULL DEFAULT 0,
	first_seen			date,
	last_high_day		date,
	order_count			bigint NOT NULL DEFAULT 0,
	paid_amount			numeric NOT NULL DEFAULT 0,
	last_order_day		date,
	favourite_channel	text COLLATE "C",
	favourite_region	text COLLATE "C"
) WITH (fillfactor = 50);
COMMENT ON TABLE ecstats.user_activity IS 'Activity of every user who was scored, one row a user; written by ecstats_score. Read it through ecstats.user_profile, which adds what passes with time';
COMMENT ON COLUMN ecstats.user_activity.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_activity.as_of IS 'Business day that the row was written for; a row in which nothing changed since stays as it is';
COMMENT ON COLUMN ecstats.user_activity.score IS 'Weighted events of the last config.score_window_days days, each counting half after config.score_half_life_days';
COMMENT ON COLUMN ecstats.user_activity.previous_score IS 'The score one day before';
COMMENT ON COLUMN ecstats.user_activity.level IS 'high, mid or low by ecstats.activity_levels';
COMMENT ON COLUMN ecstats.user_activity.previous_level IS 'The level one day before';
COMMENT ON COLUMN ecstats.user_activity.last_active_day IS 'Last business day with an event';
COMMENT ON COLUMN ecstats.user_activity.active_days IS 'Days of the window with an event';
COMMENT ON COLUMN ecstats.user_activity.first_seen IS 'First business day with an event';
COMMENT ON COLUMN ecstats.user_activity.last_high_day IS 'Last day of the last 15 (as_of included) on which the level was high; NULL: none';
COMMENT ON COLUMN ecstats.user_activity.order_count IS 'Orders in all';
COMMENT ON COLUMN ecstats.user_activity.paid_amount IS 'Amount of paid sale lines in all; refunds are not taken off';
COMMENT ON COLUMN ecstats.user_activity.last_order_day IS 'Business day of the last order; NULL: never ordered';
COMMENT ON COLUMN ecstats.user_activity.favourite_channel IS 'Channel of the most orders';
COMMENT ON COLUMN ecstats.user_activity.favourite_region IS 'Region of the most orders';

-- Quintiles of buyers are limits, so that nobody is rewritten because of what others bought.
CREATE TABLE ecstats.activity_state (
	singleton	boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	as_of		date,
	stale_from	date,
	scored_at	timestamptz,
	users		bigint,
	recency		date[] NOT NULL DEFAULT '{}',
	frequency	bigint[] NOT NULL DEFAULT '{}',
	monetary	numeric[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE ecstats.activity_state IS 'What the scores are of: one row';
COMMENT ON COLUMN ecstats.activity_state.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN ecstats.activity_state.as_of IS 'Latest business day that was scored; NULL: none yet';
COMMENT ON COLUMN ecstats.activity_state.stale_from IS 'First day whose users changed since; NULL: the scores are up to date';
COMMENT ON COLUMN ecstats.activity_state.scored_at IS 'When they were written';
COMMENT ON COLUMN ecstats.activity_state.users IS 'How many users there were';
COMMENT ON COLUMN ecstats.activity_state.recency IS 'Last order days at which quintiles 2 to 5 of buyers begin, without those that nobody is in';
COMMENT ON COLUMN ecstats.activity_state.frequency IS 'Numbers of orders at which quintiles 2 to 5 begin';
COMMENT ON COLUMN ecstats.activity_state.monetary IS 'Paid amounts at which quintiles 2 to 5 begin';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.activity_state
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('singleton');
INSERT INTO ecstats.activity_state DEFAULT VALUES;

CREATE TABLE ecstats.cohorts (
	cohort_day	date NOT NULL,
	age_days	integer NOT NULL,
	cohort_size	bigint NOT NULL,
	retained	bigint NOT NULL,
	PRIMARY KEY (cohort_day, age_days)
);
COMMENT ON TABLE ecstats.cohorts IS 'Retention: of the users first seen on a day, how many came back 1, 7 and 30 days later';
COMMENT ON COLUMN ecstats.cohorts.cohort_day IS 'Business day on which the users were first seen';
COMMENT ON COLUMN ecstats.cohorts.age_days IS '1, 7 or 30 days later';
COMMENT ON COLUMN ecstats.cohorts.cohort_size IS 'Users first seen on cohort_day';
COMMENT ON COLUMN ecstats.cohorts.retained IS 'Those of them with an event on cohort_day + age_days';

-- Everything that is known of a user, a column each: what tag rules see.
CREATE VIEW ecstats.user_profile AS
	SELECT p.*, CASE
			WHEN p.r IS NULL THEN NULL
			WHEN p.r >= 4 AND p.f >= 4 THEN 'champion'
			WHEN p.r >= 3 AND p.f >= 3 THEN 'loyal'
			WHEN p.r >= 4 THEN 'recent'
			WHEN p.r = 3 THEN 'promising'
			WHEN p.f >= 4 THEN 'cannot_lose'
			WHEN p.f = 3 THEN 'at_risk'
			ELSE 'hibernating' END AS segment
	  FROM (SELECT a.user_id, s.as_of, a.score, a.previous_score, a.level, a.previous_level,
				   a.last_active_day, s.as_of - a.last_active_day AS days_silent, a.active_days,
				   a.first_seen, s.as_of - a.first_seen AS days_known,
				   a.last_high_day, s.as_of - a.last_high_day AS days_since_high,
				   a.order_count, a.paid_amount, a.last_order_day, s.as_of - a.last_order_day AS days_since_order,
				   1 + width_bucket(a.last_order_day, s.recency) AS r,
				   CASE WHEN a.last_order_day IS NOT NULL THEN 1 + width_bucket(a.order_count, s.frequency) END AS f,
				   CASE WHEN a.last_order_day IS NOT NULL THEN 1 + width_bucket(a.paid_amount, s.monetary) END AS m,
				   a.favourite_channel, a.favourite_region
			  FROM ecstats.user_activity a CROSS JOIN ecstats.activity_state s) p;
COMMENT ON VIEW ecstats.user_profile IS 'What is known of a user as of the latest day that was scored; tag rules are predicates over a row of it as JSON';
COMMENT ON COLUMN ecstats.user_profile.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_profile.as_of IS 'Latest business day that was scored';
COMMENT ON COLUMN ecstats.user_profile.score IS 'Activity score as of that day';
COMMENT ON COLUMN ecstats.user_profile.previous_score IS 'The score one day before';
COMMENT ON COLUMN ecstats.user_profile.level IS 'high, mid or low';
COMMENT ON COLUMN ecstats.user_profile.previous_level IS 'The level one day before';
COMMENT ON COLUMN ecstats.user_profile.last_active_day IS 'Last business day with an event';
COMMENT ON COLUMN ecstats.user_profile.days_silent IS 'Days since then; 0: active on as_of';
COMMENT ON COLUMN ecstats.user_profile.active_days IS 'Days of the score''s window with an event';
COMMENT ON COLUMN ecstats.user_profile.first_seen IS 'First business day with an event';
COMMENT ON COLUMN ecstats.user_profile.days_known IS 'Days since then; 0: new on as_of';
COMMENT ON COLUMN ecstats.user_profile.last_high_day IS 'Last of the last 15 days on which the level was high';
COMMENT ON COLUMN ecstats.user_profile.days_since_high IS 'Days since then: 0 to 14; NULL: none of these days';
COMMENT ON COLUMN ecstats.user_profile.order_count IS 'Orders in all';
COMMENT ON COLUMN ecstats.user_profile.paid_amount IS 'Amount of paid sale lines in all';
COMMENT ON COLUMN ecstats.user_profile.last_order_day IS 'Business day of the last order';
COMMENT ON COLUMN ecstats.user_profile.days_since_order IS 'Days since then';
COMMENT ON COLUMN ecstats.user_profile.r IS 'Recency: 1 to 5 by last_order_day among buyers, 5 the latest fifth; equal values are never parted; NULL: no buyer';
COMMENT ON COLUMN ecstats.user_profile.f IS 'Frequency: 1 to 5 by order_count among buyers';
COMMENT ON COLUMN ecstats.user_profile.m IS 'Monetary: 1 to 5 by paid_amount among buyers';
COMMENT ON COLUMN ecstats.user_profile.favourite_channel IS 'Channel of the most orders';
COMMENT ON COLUMN ecstats.user_profile.favourite_region IS 'Region of the most orders';
COMMENT ON COLUMN ecstats.user_profile.segment IS
	'By r and f: champion, loyal, recent, promising, cannot_lose, at_risk, hibernating; NULL: no buyer';

