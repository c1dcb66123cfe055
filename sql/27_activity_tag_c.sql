-- sql/27_activity_tag_c.sql
-- Rules of tags, in C: what one may be, what it asks for, and for whom it holds.

-- The CHECK of ecstats.tag_rules: called in the name of whoever writes a rule.
CREATE OR REPLACE FUNCTION ecstats.tag_check(rule jsonpath) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_check';
COMMENT ON FUNCTION ecstats.tag_check(jsonpath) IS
	'CHECK of ecstats.tag_rules: true, or 42703 the rule asks for what no column of ecstats.user_profile is, 42704 it has a variable, 22023 it is no predicate, 54000 it is too long.';

CREATE OR REPLACE FUNCTION ecstats.tag_columns() RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_columns_all';
COMMENT ON FUNCTION ecstats.tag_columns() IS 'Columns that the rule of a tag may ask for: those of ecstats.user_profile.';

CREATE OR REPLACE FUNCTION ecstats.tag_columns(rule jsonpath) RETURNS text[]
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_columns';
COMMENT ON FUNCTION ecstats.tag_columns(jsonpath) IS 'Columns that a rule asks for, in the order of ecstats.user_profile. Errors: as ecstats.tag_check.';

-- Stable and not immutable: times with a zone are compared with dates in the session's.
CREATE OR REPLACE FUNCTION ecstats.tag_matches(columns text[], tags text[], rules jsonpath[], VARIADIC "any") RETURNS text[]
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_matches';
COMMENT ON FUNCTION ecstats.tag_matches(text[], text[], jsonpath[], "any") IS
	'Those of the tags whose rule holds for a user: columns names what the rules ask for, and a value for each follows. NULL where none holds.';

CREATE OR REPLACE FUNCTION ecstats.tag_seen(columns text[], VARIADIC "any") RETURNS jsonb
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_tag_seen';
COMMENT ON FUNCTION ecstats.tag_seen(text[], "any") IS
	'Columns of a profile as the rules see them: numbers exact, days as YYYY-MM-DD.';
