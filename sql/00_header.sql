-- sql/00_header.sql
-- The install script runs as superuser: only pg_catalog is searched, so that no planted operator or
-- function is picked up. Callable functions go to @extschema@, everything else to schema ecstats.

\echo Use "CREATE EXTENSION ecstats" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
BEGIN
	IF getdatabaseencoding() <> 'UTF8' THEN
		RAISE EXCEPTION 'ecstats needs a database in UTF8'
			USING ERRCODE = 'feature_not_supported', DETAIL = format('This one is in %s.', getdatabaseencoding()),
				  HINT = 'CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0.';
	END IF;
END
$$;

CREATE SCHEMA ecstats;
COMMENT ON SCHEMA ecstats IS 'ecstats: tables, views and internal functions; what users call is ecstats_* in the schema of the extension';

CREATE FUNCTION @extschema@.ecstats_version() RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_version';
COMMENT ON FUNCTION @extschema@.ecstats_version() IS
	'Version of the loaded ecstats library, major.minor. The pusher refuses another major version.';

