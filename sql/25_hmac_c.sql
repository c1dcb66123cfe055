-- sql/25_hmac_c.sql
-- HMAC-SHA256 (C) and the three ways in which providers use it. Instants are arguments.

CREATE OR REPLACE FUNCTION ecstats.hmac_sha256(key bytea, message bytea) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_hmac_sha256';
COMMENT ON FUNCTION ecstats.hmac_sha256(bytea, bytea) IS
	'HMAC-SHA256 of message under key, 32 bytes; either may be empty.';

-- DingTalk: the secret is the key, "<ms>\n<secret>" the message. Base64 is percent-encoded exactly
-- once: of its alphabet only + / = need it.
CREATE OR REPLACE FUNCTION ecstats.sign_dingtalk(secret text, ms bigint) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
	pg_catalog.encode(ecstats.hmac_sha256(pg_catalog.convert_to(secret, 'UTF8'),
		pg_catalog.convert_to(ms::text || E'\n' || secret, 'UTF8')), 'base64'),
	'+', '%2B'), '/', '%2F'), '=', '%3D');
COMMENT ON FUNCTION ecstats.sign_dingtalk(text, bigint) IS
	'Value of the query parameter sign for timestamp = ms (milliseconds since 1970), percent-encoded once.';

-- Feishu: "<s>\n<secret>" is the key and the message is empty.
CREATE OR REPLACE FUNCTION ecstats.sign_feishu(secret text, s bigint) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.encode(ecstats.hmac_sha256(
	pg_catalog.convert_to(s::text || E'\n' || secret, 'UTF8'), ''::bytea), 'base64');
COMMENT ON FUNCTION ecstats.sign_feishu(text, bigint) IS
	'Value of the body member sign for timestamp = s (seconds since 1970).';

-- The keys of a Standard Webhooks secret: several secrets, separated by blanks, while one is being
-- rotated out. An error never shows the secret.
CREATE OR REPLACE FUNCTION ecstats.webhook_keys(secret text) RETURNS bytea[]
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text;
	digits text;
	keys bytea[] := '{}';
BEGIN
	FOREACH part IN ARRAY regexp_split_to_array(btrim(secret, E' \t\r\n'), '\s+') LOOP
		digits := rtrim(regexp_replace(part, '^whsec_', ''), '=');
		IF digits = '' OR digits !~ '^[A-Za-z0-9+/]+$' OR length(digits) % 4 = 1 THEN
			RAISE EXCEPTION 'secret number % is not a Standard Webhooks secret', cardinality(keys) + 1
				USING ERRCODE = '22023',
					DETAIL = 'A secret is base64, with or without whsec_ before it; it is not shown here.',
					HINT = 'Set channels.secret to the value that the receiver gave you; separate several by a blank.';
		END IF;
		keys := keys || decode(rpad(digits, (length(digits) + 3) / 4 * 4, '='), 'base64');
	END LOOP;
	RETURN keys;
END $$;
COMMENT ON FUNCTION ecstats.webhook_keys(text) IS
	'Keys of a Standard Webhooks secret: base64, whsec_ and padding optional, several separated by blanks. 22023 when it is none.';

CREATE OR REPLACE FUNCTION ecstats.sign_standard_webhook(secret text, id text, ts bigint, body text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT pg_catalog.string_agg('v1,' || pg_catalog.encode(ecstats.hmac_sha256(k.key,
		pg_catalog.convert_to(id || '.' || ts::text || '.' || body, 'UTF8')), 'base64'), ' ' ORDER BY k.n)
	FROM pg_catalog.unnest(ecstats.webhook_keys(secret)) WITH ORDINALITY AS k(key, n));
COMMENT ON FUNCTION ecstats.sign_standard_webhook(text, text, bigint, text) IS
	'Value of the header webhook-signature: one v1 signature per secret. ts is in seconds; body is signed as it is sent (UTF-8).';
