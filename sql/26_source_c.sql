-- sql/26_source_c.sql
-- What the source area has in C: the query of a source, run as its owner under a security-restricted context.

CREATE OR REPLACE FUNCTION ecstats.source_check_query(query text) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_source_check_query';
COMMENT ON FUNCTION ecstats.source_check_query(text) IS
	'Raises unless query is the name of a relation or one SELECT (42601, 22023). Names are not looked up.';

CREATE OR REPLACE FUNCTION ecstats.source_rows(target text, source text, owner oid, query text, from_time timestamptz,
											   to_time timestamptz, timezone text, timeout_ms integer)
	RETURNS TABLE (batch jsonb)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'ecstats_source_rows';
COMMENT ON FUNCTION ecstats.source_rows(text, text, oid, text, timestamptz, timestamptz, text, integer) IS
	'Runs the query of a source as owner, read-only, with from_time and to_time as $1 and $2, and returns its rows as arrays of elements of the intake. Times without a zone are of timezone. Superusers only: use ecstats_collect. 57014 past timeout_ms.';

CREATE OR REPLACE FUNCTION ecstats.source_instant(source text, owner oid, query text, from_time timestamptz, to_time timestamptz,
												  timezone text, timeout_ms integer)
	RETURNS timestamptz
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'ecstats_source_instant';
COMMENT ON FUNCTION ecstats.source_instant(text, oid, text, timestamptz, timestamptz, text, integer) IS
	'Runs the watermark query of a source as ecstats.source_rows runs its query, and returns its one instant; NULL where it says nothing. Superusers only.';
