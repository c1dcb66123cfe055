-- sql/00_header.sql
-- The install script runs as superuser: only pg_catalog is searched, so that no planted operator or
-- function is picked up. Callable functions go to @extschema@, everything else to schema ecstats.

\echo Use "CREATE EXTENSION ecstats" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_conversion c
					WHERE c.condefault AND pg_encoding_to_char(c.conforencoding) = getdatabaseencoding()
					  AND pg_encoding_to_char(c.contoencoding) = 'UTF8')
		AND getdatabaseencoding() <> 'UTF8' THEN
		RAISE EXCEPTION 'ecstats needs a database whose text can be converted to UTF-8'
			USING ERRCODE = 'feature_not_supported',
				  DETAIL = format('Messages leave in UTF-8, and there is no conversion from this one''s encoding, %s.', getdatabaseencoding()),
				  HINT = 'CREATE DATABASE name TEMPLATE template0 ENCODING ''UTF8'', or any other encoding than SQL_ASCII and MULE_INTERNAL.';
	END IF;
END
$$;

CREATE SCHEMA ecstats;
COMMENT ON SCHEMA ecstats IS 'ecstats: tables, views and internal functions; what users call is ecstats_* in the schema of the extension';

CREATE FUNCTION @extschema@.ecstats_version() RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_version';
COMMENT ON FUNCTION @extschema@.ecstats_version() IS
	'Version of the loaded ecstats library, major.minor. The pusher refuses another major version.';

-- What ships beyond ASCII: pieces are in UTF-8, the install script is ASCII so that it loads in every
-- encoding. The assembly writes \u escapes, and this reads them.
CREATE OR REPLACE FUNCTION ecstats.native_text(escaped text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_native_text';
COMMENT ON FUNCTION ecstats.native_text(text) IS
	'The text that \u escapes of four hexadecimal digits stand for; NULL where the encoding of the database cannot hold it.';
