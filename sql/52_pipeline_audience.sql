-- sql/52_pipeline_audience.sql
-- The users of a tag, in pages, to the channels that ask for them (option audience_page): where tags, channels and the
-- queue meet. No error and no log line names a user.

-- ecstats.pipeline_audience_size: how many ids a page of a channel holds.
--   audience_page, or fewer where a page of so many would break the kind's limit of bytes: then as many of the
--   longest id as fit. NULL: the channel takes no pages. frame: the body of a page without ids.
CREATE OR REPLACE FUNCTION ecstats.pipeline_audience_size(tag text, channel text, frame jsonb, OUT total bigint, OUT size bigint)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	room bigint;
	longest bigint;
	fullest bigint;
BEGIN
	size := (ecstats.channel_settings(channel) ->> 'audience_page')::numeric;
	SELECT min((l ->> 'max_bytes')::bigint) - octet_length(convert_to(frame::text, 'UTF8')) INTO room
	  FROM ecstats.channels c JOIN ecstats.channel_kinds k ON k.kind = c.kind, jsonb_array_elements(k.limits) l
	 WHERE c.name = pipeline_audience_size.channel AND NOT l ? 'path';
	-- of each id: its JSON text, a comma and a blank
	SELECT count(*), max(octet_length(convert_to(to_jsonb(t.user_id)::text, 'UTF8')) + 2) INTO total, longest
	  FROM ecstats.user_tags t
	 WHERE t.tag = pipeline_audience_size.tag AND t.until IS NULL;
	IF least(size, total) * longest > room THEN
		SELECT max(p.bytes) INTO fullest
		  FROM (SELECT sum(i.bytes) AS bytes
				  FROM (SELECT octet_length(convert_to(to_jsonb(t.user_id)::text, 'UTF8')) + 2 AS bytes,
							   (row_number() OVER (ORDER BY t.user_id COLLATE "C") - 1) / pipeline_audience_size.size AS page
						  FROM ecstats.user_tags t
						 WHERE t.tag = pipeline_audience_size.tag AND t.until IS NULL) i
				 GROUP BY i.page) p;
		IF fullest > room THEN
			size := greatest(room / longest, 1);	-- one that does not fit alone is refused as too long
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_audience_size(text, text, jsonb) IS
	'How many users have a tag, and how many of their ids a page of the channel holds: audience_page, or what its kind''s limit of bytes leaves.';

-- ecstats.pipeline_audience_body: one page in the envelope of the channel's kind.
CREATE OR REPLACE FUNCTION ecstats.pipeline_audience_body(report text, tag text, channel text, as_of date, page bigint, pages bigint, total bigint, user_ids jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ecstats.channel_envelope(channel, jsonb_build_object('type', 'ecstats.audience', 'report', report, 'tag', tag,
		'as_of', as_of, 'page', page, 'pages', pages, 'total', total, 'user_ids', user_ids)) $$;
COMMENT ON FUNCTION ecstats.pipeline_audience_body(text, text, text, date, bigint, bigint, bigint, jsonb) IS
	'Body of a page of an audience, as a channel gets it.';

-- ecstats.pipeline_audience_pages: the pages of a tag for a channel, from the caller's snapshot: every id is on
-- exactly one, ids ascend. An audience of nobody is one page.
--   only_page: that page alone; NULL: all.
CREATE OR REPLACE FUNCTION ecstats.pipeline_audience_pages(report text, tag text, channel text, only_page bigint DEFAULT NULL)
	RETURNS TABLE (as_of date, page bigint, pages bigint, body jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	total bigint;
	size bigint;
	most bigint := 1000000000000;
BEGIN
	as_of := (SELECT s.as_of FROM ecstats.activity_state s);
	SELECT s.total, s.size INTO total, size FROM ecstats.pipeline_audience_size(tag, channel,
		ecstats.pipeline_audience_body(report, tag, channel, as_of, most, most, most, '[]')) s;
	pages := greatest((total + size - 1) / size, 1);
	IF total = 0 THEN
		page := 1;
		body := ecstats.pipeline_audience_body(report, tag, channel, as_of, 1, 1, 0, '[]');
		RETURN NEXT;
		RETURN;
	END IF;
	RETURN QUERY
		SELECT pipeline_audience_pages.as_of, p.page, pipeline_audience_pages.pages,
			   ecstats.pipeline_audience_body(report, pipeline_audience_pages.tag, channel, pipeline_audience_pages.as_of,
											  p.page, pipeline_audience_pages.pages, total, p.user_ids)
		  FROM (SELECT i.page, jsonb_agg(i.user_id ORDER BY i.user_id COLLATE "C") AS user_ids
				  FROM (SELECT t.user_id, (row_number() OVER (ORDER BY t.user_id COLLATE "C") - 1) / size + 1 AS page
						  FROM ecstats.user_tags t
						 WHERE t.tag = pipeline_audience_pages.tag AND t.until IS NULL) i
				 WHERE only_page IS NULL OR i.page = only_page
				 GROUP BY i.page) p
		 ORDER BY p.page;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_audience_pages(text, text, text, bigint) IS
	'Pages of the users who have a tag, as a channel gets them, from one snapshot; one page where nobody has it.';

-- ecstats.pipeline_queue_audience: queues the pages of a tag for a channel. None where the channel takes none, or
-- where they are queued for this report and day. report NULL: pushed by hand, always queued.
CREATE OR REPLACE FUNCTION ecstats.pipeline_queue_audience(report text, day date, tag text, channel text, priority integer, ttl interval) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	open boolean;
	oversize text;
	scored date;
	first_id bigint;
BEGIN
	SELECT c.enabled INTO open FROM ecstats.channels c WHERE c.name = pipeline_queue_audience.channel FOR KEY SHARE;
	IF tag IS NULL OR open IS NOT TRUE OR ecstats.channel_settings(channel) ->> 'audience_page' IS NULL THEN
		RETURN;		-- of an unknown or disabled channel the report's message told
	END IF;
	IF report IS NOT NULL THEN
		-- A second caller waits for the first and then sees what is there: the number of pages may have changed since.
		PERFORM pg_advisory_xact_lock(hashtextextended(format('ecstats.audience:%L,%s,%L', report, to_char(day, 'YYYYMMDD'), channel), 0));
		IF EXISTS (SELECT FROM ecstats.deliveries d
					WHERE d.report = pipeline_queue_audience.report AND d.day = pipeline_queue_audience.day
					  AND d.occasion LIKE 'audience %' AND d.channel = pipeline_queue_audience.channel) THEN
			RETURN;
		END IF;
	END IF;
	FOR first_id, scored, oversize IN
		WITH queued AS (
			INSERT INTO ecstats.deliveries AS d (report, day, revision, occasion, channel, priority, next_attempt_at, expires_at, body)
			SELECT pipeline_queue_audience.report, p.as_of, 0, format('audience %s/%s', p.page, p.pages),
				   pipeline_queue_audience.channel, pipeline_queue_audience.priority, now(), now() + ttl, p.body
			  FROM ecstats.pipeline_audience_pages(pipeline_queue_audience.report, pipeline_queue_audience.tag, pipeline_queue_audience.channel) p
			RETURNING d.id, d.day, d.body)
		SELECT q.id, q.day, ecstats.channel_oversize(pipeline_queue_audience.channel, q.body) FROM queued q
	LOOP
		IF oversize IS NOT NULL THEN
			RAISE EXCEPTION 'a page of tag "%" is too long for channel "%"', tag, channel
				USING ERRCODE = 'string_data_right_truncation', DETAIL = oversize,
					  HINT = 'Lower audience_page in the options of the channel, or raise the limit of its kind.';
		ELSIF scored IS DISTINCT FROM coalesce(pipeline_queue_audience.day, scored) THEN
			RAISE EXCEPTION 'users were scored anew while the pages were made'
				USING ERRCODE = 'no_data_found', HINT = 'Send the report of the latest scored day.';
		END IF;
		RETURN NEXT first_id;
	END LOOP;
	PERFORM pg_notify('ecstats_deliveries', '');
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_queue_audience(text, date, text, text, integer, interval) IS
	'Queues the users of a tag, in pages, for a channel that takes them; ids of the deliveries. Once for a report, day and channel. 22001 where one user''s id is too long for a page.';

-- ecstats_push_audience: sends the users of a tag now, in pages.
-- Arguments: tag, a name in ecstats.tag_rules; channel, one with the option audience_page. Result: ids of the
-- deliveries, a page each. Sent again it is queued again. Errors: 42704 unknown tag or channel, 22023 a channel that
-- takes no pages or is disabled, P0002 nobody was scored yet, 22001 a page is too long. Touches ecstats.deliveries.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_push_audience(tag text, channel text) RETURNS SETOF bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	open boolean := (SELECT c.enabled FROM ecstats.channels c WHERE c.name = ecstats_push_audience.channel);
BEGIN
	IF tag IS NULL OR NOT EXISTS (SELECT FROM ecstats.tag_rules r WHERE r.tag = ecstats_push_audience.tag) THEN
		RAISE EXCEPTION 'tag "%" does not exist', left(tag, 64) USING ERRCODE = 'undefined_object',
			HINT = 'SELECT tag, enabled, description FROM ecstats.tag_rules lists the tags.';
	ELSIF open IS NULL THEN
		RAISE EXCEPTION 'channel "%" does not exist', left(channel, 64) USING ERRCODE = 'undefined_object',
			HINT = 'SELECT name, kind, enabled FROM ecstats.channels lists the channels.';
	ELSIF NOT open THEN
		RAISE EXCEPTION 'channel "%" is disabled', channel USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Set ecstats.channels.enabled, or send to another channel.';
	ELSIF ecstats.channel_settings(channel) ->> 'audience_page' IS NULL THEN
		RAISE EXCEPTION 'channel "%" takes no audience', channel USING ERRCODE = 'invalid_parameter_value',
			HINT = 'A channel of kind webhook does with, for example, options {"audience_page": 1000}.';
	ELSIF (SELECT s.as_of FROM ecstats.activity_state s) IS NULL THEN
		RAISE EXCEPTION 'nobody was scored yet' USING ERRCODE = 'no_data_found',
			HINT = 'SELECT ecstats_daily() closes a day and scores it.';
	END IF;
	RETURN QUERY SELECT ecstats.pipeline_queue_audience(NULL, NULL, tag, channel, 5, NULL);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_push_audience(text, text) IS
	'Queues the users who have a tag, in pages, for a channel with the option audience_page; returns the ids of the deliveries. 42704 unknown tag or channel, 22023 a channel that takes none or is disabled, P0002 nobody was scored yet.';
