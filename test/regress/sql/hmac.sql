-- HMAC-SHA256 and the signatures made of it. All vectors of ../shared are in test/oracle/signature_vectors.py.
\set SHOW_CONTEXT never
SET datestyle = ISO; SET intervalstyle = postgres; SET bytea_output = hex;
SET client_min_messages = warning; DROP EXTENSION IF EXISTS ecstats CASCADE; CREATE EXTENSION ecstats; RESET client_min_messages;

-- RFC 4231, cases 1, 2, 6 (a key longer than a block) and 7 (both long)
SELECT n, encode(ecstats.hmac_sha256(key, message), 'hex') AS mac FROM (VALUES
	(1, decode(repeat('0b', 20), 'hex'), 'Hi There'::bytea),
	(2, 'Jefe'::bytea, 'what do ya want for nothing?'::bytea),
	(6, decode(repeat('aa', 131), 'hex'), 'Test Using Larger Than Block-Size Key - Hash Key First'::bytea),
	(7, decode(repeat('aa', 131), 'hex'), 'This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.'::bytea)
) v(n, key, message) ORDER BY n;

-- empty message, empty key, both; NULL in, NULL out
SELECT encode(ecstats.hmac_sha256('k', ''), 'hex') AS message, encode(ecstats.hmac_sha256('', 'm'), 'hex') AS key,
	encode(ecstats.hmac_sha256('', ''), 'hex') AS both_empty, ecstats.hmac_sha256(NULL, 'm') IS NULL AS null_key;
-- a value that is stored out of line
CREATE TEMP TABLE long (b bytea);
ALTER TABLE long ALTER b SET STORAGE EXTERNAL;
INSERT INTO long VALUES (convert_to(repeat('x', 100000), 'UTF8'));
SELECT ecstats.hmac_sha256('k', b) = ecstats.hmac_sha256('k', convert_to(repeat('x', 100000), 'UTF8')) AS same FROM long;

-- DingTalk: percent-encoded once. Feishu: the joined string is the key.
SELECT ecstats.sign_dingtalk('SECtest', 1795482600000), ecstats.sign_feishu('密钥', 1795482600);
-- Standard Webhooks: prefix and padding are optional; two secrets, two signatures
SELECT ecstats.sign_standard_webhook('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}')
	= ecstats.sign_standard_webhook('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}') AS prefix_optional;
SELECT ecstats.sign_standard_webhook(' whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw  whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX', 'msg_1', 1614265330, '{}');
SELECT ecstats.webhook_keys('AAE= AAE AAEC');

-- refused, without showing the secret
SELECT ecstats.webhook_keys('');
SELECT ecstats.webhook_keys('whsec_');
SELECT ecstats.webhook_keys('AAEC not-base64!');
SELECT ecstats.webhook_keys('AAECA');
