-- sql/36_channel_kinds.sql
-- Checks of channel_kinds and channels (triggers with the owner's rights: who may write a channel may not
-- call what checks it), and the providers that ship. A new provider is an INSERT
-- like these (doc/delivery.md).

-- Options of a channel or the defaults of its kind. Raises 22023; an unknown member is only warned
-- of, so that a dump of a newer version loads.
CREATE OR REPLACE FUNCTION ecstats.channel_options_check(options jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	o record;
	ok boolean;
BEGIN
	FOR o IN SELECT e.key, e.value, jsonb_typeof(e.value) AS type FROM jsonb_each(options) e LOOP
		ok := CASE o.key
			WHEN 'rate' THEN o.type = 'null' OR (o.type IN ('object', 'array')
				AND NOT jsonb_path_exists(o.value, '$[*] ? (!(@.count >= 1 && @.count <= 1000 && @.count == @.count.floor() && @.per_seconds > 0 && @.per_seconds <= 86400)
					|| (@.count >= 1 && @.count <= 1000 && @.count == @.count.floor() && @.per_seconds > 0 && @.per_seconds <= 86400) is unknown)'))
			WHEN 'throttle_seconds' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 3600'
			WHEN 'lane' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 100 && $ == $.floor()'
			WHEN 'max_retries' THEN o.value @@ '$.type() == "number" && $ >= 0 && $ <= 20 && $ == $.floor()'
			WHEN 'timeout_seconds' THEN o.value @@ '$.type() == "number" && $ >= 1 && $ <= 300'
			WHEN 'allow_private' THEN o.type = 'boolean'
			WHEN 'on_unconfirmed' THEN o.value IN ('"retry"', '"hold"')
			WHEN 'breaker' THEN o.type = 'null' OR (o.type = 'object'
				AND o.value @@ '$.failures >= 1 && $.pause_seconds >= 1 && $.pause_seconds <= 86400')
			WHEN 'keyword' THEN o.type = 'null' OR (o.type = 'string' AND o.value <> '""')
			WHEN 'envelope' THEN o.type = 'string'
			WHEN 'audience_page' THEN o.type = 'null' OR o.value @@ '$.type() == "number" && $ >= 1 && $ <= 10000 && $ == $.floor()'
			WHEN 'mention' THEN o.type = 'null' OR (o.type = 'object'
				AND coalesce(jsonb_typeof(o.value -> 'users'), 'array') = 'array'
				AND coalesce(jsonb_typeof(o.value -> 'mobiles'), 'array') = 'array'
				AND coalesce(jsonb_typeof(o.value -> 'all'), 'boolean') = 'boolean'
				AND NOT jsonb_path_exists(o.value, '$.users[*] ? (@.type() != "string")')
				AND NOT jsonb_path_exists(o.value, '$.mobiles[*] ? (@.type() != "string")'))
		END;
		IF ok IS NULL AND o.key IN ('rate', 'throttle_seconds', 'lane', 'max_retries', 'timeout_seconds', 'allow_private',
			'on_unconfirmed', 'breaker', 'keyword', 'envelope', 'mention', 'audience_page') OR NOT ok THEN
			RAISE EXCEPTION 'option "%" is not valid', o.key
				USING ERRCODE = '22023', DETAIL = format('The value is %s.', left(o.value::text, 100)),
					HINT = 'rate {"count", "per_seconds"} or an array of them, throttle_seconds 1-3600, lane 1-100, max_retries 0-20, timeout_seconds 1-300, allow_private boolean, '
						'on_unconfirmed "retry" or "hold", breaker {"failures", "pause_seconds"} or null, keyword and envelope text, mention {"users", "mobiles", "all"}, audience_page 1-10000.';
		ELSIF ok IS NULL AND NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
			RAISE WARNING 'option "%" is unknown and has no effect', o.key;
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION ecstats.channel_options_check(jsonb) IS 'Raises 22023 with the member when channel options are not valid; warns of an unknown member';

-- A kind: every template parses, every path in JSON is a path.
CREATE OR REPLACE FUNCTION ecstats.channel_kinds_check() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	path text;
BEGIN
	PERFORM ecstats.channel_options_check(NEW.options);
	PERFORM ecstats.template_check(NEW.envelopes);
	FOR path IN SELECT e ->> p FROM jsonb_array_elements(NEW.limits || NEW.mentions) e, unnest('{path,when}'::text[]) p
		WHERE e ->> p IS NOT NULL
	LOOP
		PERFORM path::jsonpath;
	END LOOP;
	IF NEW.wait_headers <> lower(NEW.wait_headers::text)::text[] THEN
		RAISE EXCEPTION 'wait_headers of channel kind "%" must be lower case', NEW.kind USING ERRCODE = '22023';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.channel_kinds_check() IS 'Trigger: checks templates, paths and options of a kind (22023, 42601)';
CREATE TRIGGER channel_kinds_check BEFORE INSERT OR UPDATE ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.channel_kinds_check();

CREATE OR REPLACE FUNCTION ecstats.channel_kinds_used() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) AND EXISTS (SELECT FROM ecstats.channels c WHERE c.kind = OLD.kind) THEN
		RAISE EXCEPTION 'channel kind "%" is in use', OLD.kind
			USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channel_kinds', COLUMN = 'kind',
				DETAIL = format('Channel "%s" is of this kind.', (SELECT min(c.name) FROM ecstats.channels c WHERE c.kind = OLD.kind));
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
COMMENT ON FUNCTION ecstats.channel_kinds_used() IS 'Trigger: a kind that channels are of stays (23503)';
CREATE TRIGGER channel_kinds_deleted BEFORE DELETE ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.channel_kinds_used();
CREATE TRIGGER channel_kinds_renamed BEFORE UPDATE OF kind ON ecstats.channel_kinds
	FOR EACH ROW WHEN (OLD.kind <> NEW.kind) EXECUTE FUNCTION ecstats.channel_kinds_used();

CREATE TRIGGER restore_replace BEFORE INSERT ON ecstats.channel_kinds
	FOR EACH ROW EXECUTE FUNCTION ecstats.restore_replace('kind');

-- A channel. Done here and not by CHECK or NOT NULL, whose DETAIL prints the row with its secrets.
CREATE OR REPLACE FUNCTION ecstats.channels_check() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	wrong text;
BEGIN
	NEW.options := coalesce(NEW.options, '{}');
	NEW.enabled := coalesce(NEW.enabled, true);
	NEW.created_at := coalesce(NEW.created_at, now());
	wrong := CASE
		WHEN NEW.name IS NULL OR NEW.name !~ '^[^[:space:][:cntrl:]"''\\,{}]{1,63}$' THEN 'name'
		WHEN NEW.kind IS NULL THEN 'kind'
		WHEN NEW.url IS NULL OR NEW.url !~ '^(https?|smtps?)://[!-~]+$' OR length(NEW.url) > 2048 THEN 'url'
		WHEN NEW.secret ~ '^\s*$' OR NEW.secret ~ '[\n\r]' OR length(NEW.secret) > 2048 THEN 'secret'
		WHEN jsonb_typeof(NEW.options) <> 'object' THEN 'options'
	END;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'column "%" of a channel is not valid', wrong
			USING ERRCODE = '23514', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = wrong,
				DETAIL = 'The values are not shown: url and secret are credentials.',
				HINT = 'name: 1 to 63 characters without blanks, quotes, commas and braces; kind: a row of ecstats.channel_kinds; url: http:// or https:// in printable ASCII, '
					'at most 2048; secret: NULL or one line; options: an object.';
	END IF;
	PERFORM ecstats.channel_options_check(NEW.options);
	IF NOT (current_setting('check_function_bodies') = 'off' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user)) THEN
		PERFORM FROM ecstats.channel_kinds k WHERE k.kind = NEW.kind FOR KEY SHARE;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'channel kind "%" does not exist', left(NEW.kind, 63)
				USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'kind',
					HINT = format('There are %s.', (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM ecstats.channel_kinds k));
		ELSIF NEW.options ->> 'audience_page' IS NOT NULL
			AND NOT EXISTS (SELECT FROM ecstats.channel_kinds k WHERE k.kind = NEW.kind AND k.options ? 'audience_page') THEN
			RAISE EXCEPTION 'channels of kind "%" take no audience', NEW.kind
				USING ERRCODE = '22023', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'options',
					DETAIL = 'Option "audience_page" is for receivers that read lists of users.',
					HINT = format('Kinds that take it: %s.', (SELECT string_agg(k.kind, ', ' ORDER BY k.kind)
						FROM ecstats.channel_kinds k WHERE k.options ? 'audience_page'));
		END IF;
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION ecstats.channels_check() IS 'Trigger: checks a channel (23514, 22023) without ever printing its url or secret';
CREATE TRIGGER channels_check BEFORE INSERT OR UPDATE ON ecstats.channels
	FOR EACH ROW EXECUTE FUNCTION ecstats.channels_check();

-- A channel with messages on their way stays; a renamed one takes its deliveries along.
CREATE OR REPLACE FUNCTION ecstats.channels_used() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'UPDATE' THEN
		UPDATE ecstats.deliveries d SET channel = NEW.name WHERE d.channel = OLD.name;
		UPDATE ecstats.delivery_attempts a SET channel = NEW.name WHERE a.channel = OLD.name;
		RETURN NULL;
	ELSIF EXISTS (SELECT FROM ecstats.deliveries d WHERE d.channel = OLD.name AND d.status IN ('pending', 'sending')) THEN
		RAISE EXCEPTION 'channel "%" has deliveries that are not settled', OLD.name
			USING ERRCODE = '23503', SCHEMA = 'ecstats', TABLE = 'channels', COLUMN = 'name',
				HINT = 'Cancel them with ecstats_cancel, or disable the channel instead.';
	END IF;
	RETURN OLD;
END $$;
COMMENT ON FUNCTION ecstats.channels_used() IS 'Trigger: keeps a channel that has unsettled deliveries (23503); renames the channel in deliveries and attempts';
CREATE TRIGGER channels_deleted BEFORE DELETE ON ecstats.channels
	FOR EACH ROW EXECUTE FUNCTION ecstats.channels_used();
CREATE TRIGGER channels_renamed AFTER UPDATE OF name ON ecstats.channels
	FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE FUNCTION ecstats.channels_used();

-- ------------------------------------------------------------------ WeCom
INSERT INTO ecstats.channel_kinds (kind, description, native, default_envelope, envelopes, mentions, limits, options,
	code_paths, message_path, success, warning, throttle, permanent, retryable)
VALUES ('wecom', concat('WeCom', ecstats.native_text(' 企业微信'), ' group robot'), 'exists($.msgtype)', 'markdown',
	'{"markdown": {"msgtype": "markdown", "markdown": {"content": "{{markdown}}"}},
	  "markdown_v2": {"msgtype": "markdown_v2", "markdown_v2": {"content": "{{markdown}}"}},
	  "text": {"msgtype": "text", "text": {"content": "{{text}}"}}}',
	'[{"when": "$.msgtype == \"text\"", "users_at": ["text", "mentioned_list"], "mobiles_at": ["text", "mentioned_mobile_list"], "all_value": "@all"},
	  {"when": "$.msgtype == \"markdown\"", "append_to": ["markdown", "content"], "user": "<@%s>"}]',
	'[{"path": "$.text.content", "max_bytes": 2048}, {"path": "$.markdown.content", "max_bytes": 4096},
	  {"path": "$.markdown_v2.content", "max_bytes": 4096}, {"path": "$.image.base64", "max_bytes": 2097152, "base64": true},
	  {"path": "$.news.articles", "max_items": 8}, {"path": "$.template_card.horizontal_content_list", "max_items": 6},
	  {"path": "$.template_card.jump_list", "max_items": 3}]',
	'{"rate": {"count": 20, "per_seconds": 60}, "throttle_seconds": 60, "lane": 1}',
	'{$.body.errcode}', '$.body.errmsg', '$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && $.body.errcode == 0',
	'$.body.errmsg like_regex "wrong json format" flag "i"',
	'$.http_status == 429 || $.body.errcode == 45009',
	'$.body.errcode == 40001 || $.body.errcode == 40003 || $.body.errcode == 40004 || $.body.errcode == 40006 || $.body.errcode == 40007
	 || $.body.errcode == 40008 || $.body.errcode == 40009 || $.body.errcode == 40033 || $.body.errcode == 40035 || $.body.errcode == 40058
	 || $.body.errcode == 40063 || $.body.errcode == 44001 || $.body.errcode == 44004 || $.body.errcode == 45001 || $.body.errcode == 45002
	 || $.body.errcode == 45008 || $.body.errcode == 93000 || $.body.errcode == 93004 || $.body.errcode == 93008',
	'$.body.errcode == -1 || $.body.errcode == 6000 || $.body.errcode == 45033');

-- ------------------------------------------------------------------ DingTalk
-- 310000 has several meanings that only the text tells apart. 1111 comes from a gate in front, with
-- the seconds to wait. Past its rate a robot is shut out for ten minutes.
INSERT INTO ecstats.channel_kinds (kind, description, signature, native, default_envelope, envelopes, text_paths, mentions, limits, options,
	code_paths, message_path, success, throttle, wait_path, retry_once, permanent, retryable)
VALUES ('dingtalk', concat('DingTalk', ecstats.native_text(' 钉钉'), ' group robot'), 'dingtalk', 'exists($.msgtype)', 'markdown',
	'{"markdown": {"msgtype": "markdown", "markdown": {"title": "{{title}}", "text": "{{markdown}}"}},
	  "text": {"msgtype": "text", "text": {"content": "{{text}}"}},
	  "link": {"msgtype": "link", "link": {"title": "{{title}}", "text": "{{text}}", "messageUrl": "{{url}}", "picUrl": ""}},
	  "actionCard": {"msgtype": "actionCard", "actionCard": {"title": "{{title}}", "text": "{{markdown}}", "btnOrientation": "0",
		"singleTitle": "{{button}}", "singleURL": "{{url}}"}}}',
	'[["text", "content"], ["markdown", "title"], ["markdown", "text"], ["link", "title"], ["link", "text"], ["actionCard", "title"], ["actionCard", "text"]]',
	'[{"when": "$.msgtype == \"text\"", "users_at": ["at", "atUserIds"], "mobiles_at": ["at", "atMobiles"], "all_at": ["at", "isAtAll"],
	   "append_to": ["text", "content"], "user": "@%s", "mobile": "@%s"},
	  {"when": "$.msgtype == \"markdown\"", "users_at": ["at", "atUserIds"], "mobiles_at": ["at", "atMobiles"], "all_at": ["at", "isAtAll"],
	   "append_to": ["markdown", "text"], "user": "@%s", "mobile": "@%s"}]',
	'[{"max_bytes": 20000}]',
	'{"rate": {"count": 20, "per_seconds": 60}, "throttle_seconds": 600, "lane": 1}',
	'{$.body.errcode,"$.body.status ? (@ == 1111)"}', '$.body.errmsg',
	'$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && $.body.errcode == 0 && !($.body.status == 1111)',
	'$.http_status == 429 || $.body.errcode == 130101 || $.body.errcode == 410100 || ($.body.status == 1111 && exists($.body.punish))',
	'$.body ? (@.status == 1111).wait',
	'$.body.errcode == 310000 && $.body.errmsg like_regex "timestamp" flag "i"',
	'$.body.errcode == 310000 || $.body.errcode == 300001 || $.body.errcode == 300005 || $.body.errcode == 400013 || $.body.errcode == 400101
	 || $.body.errcode == 400102 || $.body.errcode == 400105 || $.body.errcode == 400106 || $.body.errcode == 40035 || $.body.errcode == 43002
	 || $.body.errcode == 43004 || $.body.errcode == 430101 || $.body.errcode == 430102 || $.body.errcode == 430103 || $.body.errcode == 430104
	 || $.body.errcode == 460101 || $.body.errcode == 88 || $.body.errcode == 404',
	'$.body.errcode == -1');

-- ------------------------------------------------------------------ Feishu
-- 9499 is a bad body, or the gateway's "too many request". 19021 (sign or clock) is signed anew once.
INSERT INTO ecstats.channel_kinds (kind, description, signature, native, default_envelope, envelopes, text_paths, mentions, limits, options,
	code_paths, message_path, success, throttle, wait_headers, retry_once, permanent)
VALUES ('feishu', concat('Feishu / Lark', ecstats.native_text(' 飞书'), ' group robot'), 'feishu', 'exists($.msg_type)', 'interactive',
	'{"interactive": {"msg_type": "interactive", "card": {"header": {"template": "blue", "title": {"tag": "plain_text", "content": "{{title}}"}},
		"elements": [{"tag": "markdown", "content": "{{markdown}}"}]}},
	  "text": {"msg_type": "text", "content": {"text": "{{text}}"}},
	  "post": {"msg_type": "post", "content": {"post": {"zh_cn": {"title": "{{title}}", "content": [[{"tag": "text", "text": "{{text}}"}]]}}}}}',
	'[["content", "text"], ["card", "header", "title", "content"], ["card", "elements", "0", "content"], ["card", "elements", "0", "text", "content"],
	  ["content", "post", "zh_cn", "title"], ["content", "post", "zh_cn", "content", "0", "0", "text"]]',
	'[{"when": "$.msg_type == \"text\"", "append_to": ["content", "text"], "user": "<at user_id=\"%s\"></at>", "all": "<at user_id=\"all\"></at>"},
	  {"when": "$.msg_type == \"interactive\"", "append_to": ["card", "elements", "0", "content"], "user": "<at id=%s></at>", "all": "<at id=all></at>"}]',
	'[{"max_bytes": 20000}]',
	'{"rate": [{"count": 100, "per_seconds": 60}, {"count": 5, "per_seconds": 1}], "throttle_seconds": 60, "lane": 1}',
	'{$.body.code,$.body.StatusCode}', '$.body.msg',
	'$.http_status >= 200 && $.http_status < 300 && $.body.type() == "object" && ($.body.code == 0 || (!exists($.body.code) && $.body.StatusCode == 0))',
	'$.http_status == 429 || $.body.code == 11232 || $.body.code == 99991400 || ($.body.code == 9499 && $.body.msg like_regex "too many|(^|[^a-z])rate([^a-z]|$)" flag "i")',
	'{x-ogw-ratelimit-reset,retry-after}',
	'$.body.code == 19021',
	'$.body.code == 9499 || $.body.code == 19001 || $.body.code == 19002 || $.body.code == 19022 || $.body.code == 19024 || $.body.code == 11246');

-- ------------------------------------------------------------------ webhook (Standard Webhooks)
-- Any 2xx is success and a redirect is a failure. A gateway's 502, 503 or 504 is a throttle where it
-- says how long; without that it is an ordinary failure, so that a dead target does end in dead.
INSERT INTO ecstats.channel_kinds (kind, description, content_type, signature, native, default_envelope, envelopes, limits, options,
	success, throttle, permanent)
VALUES ('webhook', 'Any HTTP receiver (Standard Webhooks 1.0.0)', 'application/json', 'standard-webhooks',
	'exists($.type) && exists($.data)', 'event',
	'{"event": {"type": "{{type}}", "timestamp": "{{timestamp}}", "data": "{{message}}"}}',
	'[{"max_bytes": 262144}]',
	'{"throttle_seconds": 60, "lane": 4, "timeout_seconds": 20, "audience_page": null}',
	'$.http_status >= 200 && $.http_status < 300',
	'$.http_status == 429 || (($.http_status == 502 || $.http_status == 503 || $.http_status == 504) && exists($.headers."retry-after"))',
	'$.http_status == 410');

-- ------------------------------------------------------------------ Slack
INSERT INTO ecstats.channel_kinds (kind, description, native, default_envelope, envelopes, limits, options,
	code_paths, success, throttle, permanent)
VALUES ('slack', 'Slack incoming webhook', 'exists($.blocks) || exists($.attachments)', 'text',
	'{"text": {"text": "{{text}}"},
	  "blocks": {"text": "{{title}}", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "{{text}}"}}]}}',
	'[{"path": "$.text", "max_chars": 40000}, {"path": "$.blocks", "max_items": 50}, {"path": "$.blocks[*].text.text", "max_chars": 3000},
	  {"path": "$.attachments", "max_items": 100}]',
	'{"rate": {"count": 1, "per_seconds": 1}, "throttle_seconds": 30, "lane": 1}',
	'{"$.body ? (@.type() == \"string\" && @ != \"\")"}', '$.http_status == 200 && $.body == "ok"',
	'$.http_status == 429',
	'$.http_status == 400 || $.http_status == 403 || $.http_status == 404 || $.http_status == 410');
