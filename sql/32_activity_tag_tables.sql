-- sql/32_activity_tag_tables.sql
-- Tags: rules as rows, who has which tag since when, and how many a day.

CREATE TABLE ecstats.tag_rules (
	tag			text COLLATE "C" PRIMARY KEY CHECK (tag ~ '^[a-z][a-z0-9_]{0,62}$'),
	rule		jsonpath NOT NULL,
	enabled		boolean NOT NULL DEFAULT true,
	description	text,
	CONSTRAINT tag_rules_rule_valid CHECK (ecstats.tag_check(rule))
);
COMMENT ON TABLE ecstats.tag_rules IS 'Tags and their rules; a change holds from the next ecstats_score. A rule that is disabled or deleted takes its tag from everybody';
COMMENT ON COLUMN ecstats.tag_rules.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.tag_rules.rule IS 'jsonpath predicate over a row of ecstats.user_profile as JSON, for example $.level == "high" && $.days_silent >= 3';
COMMENT ON COLUMN ecstats.tag_rules.enabled IS 'false: nobody has the tag';
COMMENT ON COLUMN ecstats.tag_rules.description IS 'What it means, for people';
CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.tag_rules
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('tag');
INSERT INTO ecstats.tag_rules (tag, rule, description) VALUES
	('high_active', '$.level == "high"', 'Among the most active: level high'),
	('new_user', '$.days_known < 7', 'New: first seen within the last 7 days, the scored day among them'),
	('high_active_silent', '$.days_since_high <= 14 && $.days_silent >= 3',
	 'To be called back: level high within the last 14 days, and no event for 3 days or more'),
	('churn_risk', '$.days_silent >= 7 && $.days_silent <= 30 && !($.days_since_order < 7) && ($.order_count > 0 || $.days_since_high <= 14)',
	 'About to be lost: a buyer, or lately very active, without event and order for a week; past 30 days of silence the chance is gone'),
	('big_spender', '$.m == 5', 'Among the fifth of buyers who paid most');
-- After the shipped rows: they are what it clears.
CREATE TRIGGER restore_clear BEFORE INSERT ON ecstats.tag_rules
	FOR EACH STATEMENT EXECUTE FUNCTION ecstats.restore_clear();

CREATE TABLE ecstats.user_tags (
	user_id	text COLLATE "C" NOT NULL,
	tag		text COLLATE "C" NOT NULL,
	since	date NOT NULL,
	until	date,
	PRIMARY KEY (user_id, tag, since),
	CONSTRAINT user_tags_until_after_since CHECK (until > since)
);
CREATE UNIQUE INDEX user_tags_open ON ecstats.user_tags (tag, user_id) WHERE until IS NULL;
-- Who lost a tag on a day, among all who ever had one.
CREATE INDEX user_tags_ended ON ecstats.user_tags (until) WHERE until IS NOT NULL;
COMMENT ON TABLE ecstats.user_tags IS 'Which user has, or had, which tag; a row is open (until IS NULL) while the rule holds';
COMMENT ON COLUMN ecstats.user_tags.user_id IS 'Who';
COMMENT ON COLUMN ecstats.user_tags.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.user_tags.since IS 'First scored day on which the rule held';
COMMENT ON COLUMN ecstats.user_tags.until IS 'First scored day on which it held no longer; NULL: it holds';

CREATE TABLE ecstats.tag_daily (
	day			date NOT NULL,
	tag			text COLLATE "C" NOT NULL,
	user_count	bigint NOT NULL,
	entered		bigint NOT NULL,
	left_count	bigint NOT NULL,
	PRIMARY KEY (day, tag)
);
COMMENT ON TABLE ecstats.tag_daily IS 'How many users had a tag on a scored day';
COMMENT ON COLUMN ecstats.tag_daily.day IS 'Business day';
COMMENT ON COLUMN ecstats.tag_daily.tag IS 'Name of the tag';
COMMENT ON COLUMN ecstats.tag_daily.user_count IS 'Users who have it';
COMMENT ON COLUMN ecstats.tag_daily.entered IS 'Users whose row began on this day';
COMMENT ON COLUMN ecstats.tag_daily.left_count IS 'Users whose row ended on this day';

