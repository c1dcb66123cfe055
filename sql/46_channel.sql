-- sql/46_channel.sql
-- From a message to the body that a channel's provider takes. Nothing here sends or reads the clock.

-- What holds for a channel: its options over its kind's over these. PL/pgSQL, here and below, where a
-- query runs at every claim: an SQL function that is not inlined plans it each time.
CREATE OR REPLACE FUNCTION ecstats.channel_settings(channel text) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT '{"rate": null, "throttle_seconds": 60, "lane": 1, "max_retries": 3, "timeout_seconds": 15, "allow_private": false,
		"on_unconfirmed": "retry", "breaker": null, "keyword": null, "mention": null}'::jsonb || k.options || c.options
		FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind WHERE c.name = channel);
END $$;
COMMENT ON FUNCTION ecstats.channel_settings(text) IS
	'Options in force of a channel: channels.options over channel_kinds.options over built-in defaults. NULL for an unknown channel.';

-- Adds a provider's keyword to every text the provider looks at that lacks it: before a title, after
-- anything longer (a prefix would break a Markdown heading).
CREATE OR REPLACE FUNCTION ecstats.channel_keyword(text_paths jsonb, keyword text, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	entry jsonb;
	path text[];
	old text;
BEGIN
	FOR entry IN SELECT e FROM jsonb_array_elements(text_paths) e WHERE keyword IS NOT NULL LOOP
		path := ARRAY(SELECT p FROM jsonb_array_elements_text(entry) WITH ORDINALITY AS t(p, n) ORDER BY n);
		old := body #>> path;
		IF jsonb_typeof(body #> path) = 'string' AND strpos(old, keyword) = 0 THEN
			body := jsonb_set(body, path, to_jsonb(CASE WHEN 'title' = ANY (path) THEN keyword || ' ' || old
				ELSE old || E'\n\n' || keyword END));
		END IF;
	END LOOP;
	RETURN body;
END $$;
COMMENT ON FUNCTION ecstats.channel_keyword(jsonb, text, jsonb) IS 'Body with the keyword in each text of text_paths; unchanged for a NULL keyword.';

-- Puts {"users", "mobiles", "all"} where the kind's mentions say.
CREATE OR REPLACE FUNCTION ecstats.channel_mention(mentions jsonb, mention jsonb, body jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule jsonb;
	part record;
	path text[];
	suffix text;
BEGIN
	FOR rule IN SELECT r FROM jsonb_array_elements(mentions) r
		WHERE jsonb_typeof(mention) = 'object' AND body @@ (r ->> 'when')::jsonpath
	LOOP
		FOR part IN
			SELECT rule -> 'users_at' AS at,
				coalesce(mention -> 'users', '[]') || CASE WHEN mention -> 'all' = 'true' THEN coalesce(rule -> 'all_value', '[]') ELSE '[]' END AS value
			UNION ALL SELECT rule -> 'mobiles_at', mention -> 'mobiles'
			UNION ALL SELECT rule -> 'all_at', nullif(mention -> 'all', 'false')
		LOOP
			CONTINUE WHEN part.at IS NULL OR coalesce(part.value, '[]') = '[]';
			path := ARRAY[part.at ->> 0, part.at ->> 1];
			body := jsonb_set(body, path[1:1], coalesce(body -> path[1], '{}'));
			body := jsonb_set(body, path, CASE jsonb_typeof(body #> path) WHEN 'array' THEN (body #> path) || part.value ELSE part.value END);
		END LOOP;

		path := ARRAY(SELECT p FROM jsonb_array_elements_text(rule -> 'append_to') WITH ORDINALITY AS t(p, n) ORDER BY n);
		CONTINUE WHEN path = '{}' OR jsonb_typeof(body #> path) IS DISTINCT FROM 'string';
		SELECT string_agg(m.word, ' ' ORDER BY m.kind, m.n) INTO suffix
			FROM (SELECT 1 AS kind, n, replace(rule ->> 'user', '%s', u) AS word
					FROM jsonb_array_elements_text(mention -> 'users') WITH ORDINALITY AS t(u, n)
				UNION ALL SELECT 2, n, replace(rule ->> 'mobile', '%s', u)
					FROM jsonb_array_elements_text(mention -> 'mobiles') WITH ORDINALITY AS t(u, n)
				UNION ALL SELECT 3, 1, rule ->> 'all' WHERE mention -> 'all' = 'true') m
			WHERE strpos(body #>> path, m.word) = 0;
		IF suffix IS NOT NULL THEN
			body := jsonb_set(body, path, to_jsonb((body #>> path) || E'\n' || suffix));
		END IF;
	END LOOP;
	RETURN body;
END $$;
COMMENT ON FUNCTION ecstats.channel_mention(jsonb, jsonb, jsonb) IS 'Body with the people of mention where the kind''s mentions say; unchanged for NULL.';

-- What the templates of a neutral message see: the message, with what it left out filled in.
CREATE OR REPLACE FUNCTION ecstats.channel_message_data(message jsonb, at timestamptz) RETURNS jsonb
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN (SELECT pg_catalog.jsonb_build_object(
		'title', pg_catalog.left(pg_catalog.regexp_replace(pg_catalog.split_part(COALESCE(m.markdown, m.text), E'\n', 1), '^[#>*\s]+|\*+', '', 'g'), 64),
		'text', COALESCE(m.text, m.markdown, m.title),
		'markdown', COALESCE(m.markdown, m.text, m.title),
		'type', 'ecstats.message',
		'timestamp', pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
		|| pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('title', m.title))
		|| (message - '{title,text,markdown}'::text[])
		|| pg_catalog.jsonb_build_object('message', message - 'envelope'::text)
	FROM (SELECT NULLIF(message ->> 'title', '') AS title, NULLIF(message ->> 'text', '') AS text,
		NULLIF(message ->> 'markdown', '') AS markdown) m);
COMMENT ON FUNCTION ecstats.channel_message_data(jsonb, timestamptz) IS
	'A neutral message as template data: title, text and markdown stand in for each other; type, timestamp and message (the whole) are added.';

CREATE OR REPLACE FUNCTION ecstats.channel_envelope_at(channel text, message jsonb, at timestamptz) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
	k ecstats.channel_kinds;
	settings jsonb := ecstats.channel_settings(channel);
	data jsonb;
	name text;
	template jsonb;
	whole jsonb;
	body jsonb;
BEGIN
	IF settings IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', channel USING ERRCODE = '42704',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF jsonb_typeof(message) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'message must be a JSON object' USING ERRCODE = '22023',
			DETAIL = format('It is %s.', coalesce(jsonb_typeof(message), 'NULL')),
			HINT = 'For example {"title": "...", "markdown": "..."}, or the provider''s own form.';
	END IF;
	SELECT ck.* INTO k FROM ecstats.channel_kinds ck JOIN ecstats.channels c ON c.kind = ck.kind WHERE c.name = channel_envelope_at.channel;

	IF message @@ k.native THEN
		body := message;
	ELSE
		name := coalesce(message ->> 'envelope', settings ->> 'envelope', k.default_envelope);
		template := k.envelopes -> name;
		IF template IS NULL THEN
			RAISE EXCEPTION 'channel kind "%" has no envelope "%"', k.kind, left(name, 63) USING ERRCODE = '22023',
				HINT = format('It has %s.', (SELECT string_agg(e, ', ' ORDER BY e) FROM jsonb_object_keys(k.envelopes) e));
		END IF;
		data := ecstats.channel_message_data(message, at);
		IF data -> 'text' = 'null' AND template::text ~ '\{\{[{&]?\s*(text|markdown)' THEN
			RAISE EXCEPTION 'message has neither text nor markdown nor title' USING ERRCODE = '22023',
				DETAIL = format('Envelope "%s" of kind "%s" needs one of them.', name, k.kind);
		END IF;
		-- a member that is exactly {{name}} takes an object or array as it is
		SELECT coalesce(jsonb_object_agg(e.key, data -> e.member), '{}') INTO whole
			FROM (SELECT t.key, substring(t.value #>> '{}' FROM '^\{\{\s*(\w+)\s*\}\}$') AS member FROM jsonb_each(template) t) e
			WHERE jsonb_typeof(data -> e.member) IN ('object', 'array');
		body := ecstats.template_render(template - ARRAY(SELECT jsonb_object_keys(whole)), data) || whole;
	END IF;
	body := ecstats.channel_mention(k.mentions, settings -> 'mention', body);
	RETURN ecstats.channel_keyword(k.text_paths, settings ->> 'keyword', body);
END $$;
COMMENT ON FUNCTION ecstats.channel_envelope_at(text, jsonb, timestamptz) IS
	'Request body of a message for a channel, unsigned: a native message as it is, a neutral one in the envelope that message.envelope, options.envelope or the kind names; '
	'keyword and mention added. 42704 unknown channel, 22023 no object, no such envelope, nothing to say.';

CREATE OR REPLACE FUNCTION ecstats.channel_envelope(channel text, message jsonb) RETURNS jsonb
	LANGUAGE sql STABLE RETURN ecstats.channel_envelope_at(channel, message, pg_catalog.now());
COMMENT ON FUNCTION ecstats.channel_envelope(text, jsonb) IS 'ecstats.channel_envelope_at at the transaction''s time.';

-- Which limit of the kind a body breaks, as a sentence; NULL when it fits.
CREATE OR REPLACE FUNCTION ecstats.channel_oversize(channel text, body jsonb) RETURNS text
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	l record;
	item jsonb;
	content text;
	size bigint;
BEGIN
	FOR l IN SELECT e ->> 'path' AS path, u.unit, (e ->> ('max_' || u.unit))::bigint AS most, coalesce((e ->> 'base64')::boolean, false) AS base64
		FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind, jsonb_array_elements(k.limits) e,
			unnest('{bytes,chars,items}'::text[]) u(unit)
		WHERE c.name = channel_oversize.channel AND e ? ('max_' || u.unit)
	LOOP
		FOR item IN SELECT q FROM jsonb_path_query(body, coalesce(l.path, '$')::jsonpath, '{}', true) q LOOP
			content := item #>> '{}';
			size := CASE l.unit
				WHEN 'items' THEN CASE jsonb_typeof(item) WHEN 'array' THEN jsonb_array_length(item) END
				WHEN 'chars' THEN length(content)
				ELSE octet_length(convert_to(content, 'UTF8')) END;
			IF l.base64 THEN
				size := length(rtrim(content, '=')) * 3 / 4;
			END IF;
			IF size > l.most THEN
				RETURN format('%s has %s %s; the limit is %s %s.',
					CASE WHEN l.path IS NULL THEN 'The request body' ELSE ltrim(l.path, '$.') END, size, l.unit, l.most, l.unit);
			END IF;
		END LOOP;
	END LOOP;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION ecstats.channel_oversize(text, jsonb) IS
	'Names the limit of the channel''s kind that body breaks, with both sizes; NULL when it fits. Bytes are of UTF-8.';
