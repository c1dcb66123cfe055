-- Cron expressions (src/cron.c). They depend on the server's zone data, which may be updated: STABLE.

-- ecstats.cron_next: first occurrence after an instant, zone given.
CREATE OR REPLACE FUNCTION ecstats.cron_next(expr text, after timestamptz, timezone text)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_next'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_next(text, timestamptz, text) IS
'First occurrence of a cron expression strictly after an instant in a zone; NULL when never again (years 1970 to 2199). 22023: bad expression or unknown zone.';

-- ecstats.cron_check: raises what is wrong with an expression.
CREATE OR REPLACE FUNCTION ecstats.cron_check(expr text)
RETURNS void
AS 'MODULE_PATHNAME', 'ecstats_cron_check'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_check(text) IS
'Raises 22023 with field and position in DETAIL when the cron expression is wrong; returns nothing when it is right.';

-- ecstats.cron_dialect: how an expression is read.
CREATE OR REPLACE FUNCTION ecstats.cron_dialect(expr text)
RETURNS text
AS 'MODULE_PATHNAME', 'ecstats_cron_dialect'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ecstats.cron_dialect(text) IS
'unix for five fields and the @names, quartz for six or seven fields. 22023: bad expression.';

-- ecstats_cron_next
-- Purpose:   when a cron expression fires next.
-- Arguments: expr      five fields (unix) or six or seven (Quartz)
--            after     the occurrence lies strictly after this instant
--            timezone  IANA name; NULL is the zone of ecstats.config
-- Result:    an instant of whole seconds, or NULL when never again (years 1970 to 2199).
-- Errors:    22023 with field and position for a bad expression, with the name for an unknown zone.
-- Tables:    ecstats.config (read, when timezone is NULL).
CREATE OR REPLACE FUNCTION @extschema@.ecstats_cron_next(expr text,
	after timestamptz DEFAULT pg_catalog.now(), timezone text DEFAULT NULL)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_next'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.ecstats_cron_next(text, timestamptz, text) IS
'First occurrence of a cron expression strictly after an instant. Arguments: expr (five fields are unix, six or seven are Quartz), after (default now), timezone (IANA name, default the zone of the configuration). NULL when never again (years 1970 to 2199). Errors: 22023 for a bad expression, with field and position, and for an unknown zone.';

-- ecstats_cron_list
-- Purpose:   preview a schedule.
-- Arguments: expr, after, timezone  as in ecstats_cron_next
--            n                      how many occurrences, 0 to 10000
-- Result:    the next n occurrences in order, fewer when there are no more.
-- Errors:    22023 as in ecstats_cron_next, and for n out of range.
-- Tables:    ecstats.config (read, when timezone is NULL).
CREATE OR REPLACE FUNCTION @extschema@.ecstats_cron_list(expr text,
	after timestamptz DEFAULT pg_catalog.now(), n int DEFAULT 10, timezone text DEFAULT NULL)
RETURNS SETOF timestamptz
AS 'MODULE_PATHNAME', 'ecstats_cron_list'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION @extschema@.ecstats_cron_list(text, timestamptz, int, text) IS
'The next n (0 to 10000, default 10) occurrences of a cron expression strictly after an instant, in order. Arguments and errors as in ecstats_cron_next.';
