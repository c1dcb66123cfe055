-- What a pusher needs of a database to fetch pages, in its smallest form, to be able to misbehave;
-- goes into a database that has the deliveries' part (test_process.py).
CREATE TABLE fetches (id bigint PRIMARY KEY, url text, paging text DEFAULT 'none', page int DEFAULT 1, method text DEFAULT 'GET',
	headers text[] DEFAULT '{"Authorization: Bearer tok-4f1c-very-secret"}', timeout_ms int DEFAULT 5000,
	allow_private boolean DEFAULT true, max_bytes bigint DEFAULT 1048576, state text DEFAULT 'due', due timestamptz DEFAULT now(),
	trouble text, trouble_times int DEFAULT 1000);
CREATE TABLE pages (fetch_id bigint, page int, worker text, result jsonb, outcome text, at timestamptz DEFAULT clock_timestamp());
CREATE SEQUENCE tries;	-- counts what is rolled back too
CREATE FUNCTION ecstats.source_claim(worker text, max_rows int) RETURNS TABLE(fetch_id bigint, page int, method text, url text,
	headers text[], timeout_ms int, allow_private boolean, max_bytes bigint) LANGUAGE sql AS $$
	UPDATE public.fetches f SET state = 'claimed' WHERE f.id IN
		(SELECT id FROM public.fetches WHERE state = 'due' AND due <= clock_timestamp() ORDER BY id LIMIT max_rows FOR UPDATE SKIP LOCKED)
	RETURNING f.id, f.page, f.method, f.url, f.headers, f.timeout_ms, f.allow_private, f.max_bytes $$;
CREATE FUNCTION ecstats.source_receive(worker text, fetch_id bigint, page int, result jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	f public.fetches;
	next_url text;
	outcome text := 'done';
	status int := (result->>'http_status')::int;
BEGIN
	SELECT * INTO f FROM public.fetches g WHERE g.id = fetch_id FOR UPDATE;
	IF f.state <> 'claimed' OR f.page <> source_receive.page THEN
		RETURN 'ignored';
	END IF;
	-- What the pusher made up itself because of the trouble is taken.
	IF f.trouble IS NOT NULL AND result->>'error_kind' IS NULL AND nextval('public.tries') <= f.trouble_times THEN
		CASE f.trouble
			WHEN 'die' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
			WHEN 'wait' THEN PERFORM pg_advisory_xact_lock(1);
			ELSE RAISE EXCEPTION 'page of % has a private number: 555-1234', f.id USING ERRCODE = f.trouble;
		END CASE;
	ELSIF f.trouble IS NOT NULL AND f.trouble_times < 0 THEN
		RAISE EXCEPTION 'nor this' USING ERRCODE = '22000';
	END IF;
	IF status = 429 OR status >= 500 THEN
		outcome := 'retry';
		UPDATE public.fetches SET state = 'due', due = clock_timestamp() + (result#>>'{headers,retry-after}')::int * interval '1 s' WHERE id = f.id;
	ELSIF status = 200 AND result->>'error_kind' IS NULL THEN
		next_url := CASE f.paging
			WHEN 'jsonpath' THEN (result->>'body')::jsonb #>> '{data,next}'
			WHEN 'link' THEN substring(result#>>'{headers,link}' FROM '<([^<>]*)>; rel="next"')
			WHEN 'number' THEN CASE WHEN jsonb_array_length((result->>'body')::jsonb #> '{data,orders}') > 0
				THEN regexp_replace(f.url, 'page=\d+', 'page=' || f.page + 1) END END;
		IF next_url IS NOT NULL THEN
			outcome := 'next';
			UPDATE public.fetches g SET state = 'due', page = g.page + 1, url = next_url WHERE id = f.id;
		END IF;
	ELSE
		outcome := 'failed';
	END IF;
	IF outcome IN ('done', 'failed') THEN
		UPDATE public.fetches SET state = outcome WHERE id = f.id;
	END IF;
	INSERT INTO public.pages VALUES (f.id, f.page, worker, result, outcome);
	RETURN outcome;
END $$;
CREATE OR REPLACE FUNCTION ecstats.pusher_beat(worker text) RETURNS timestamptz LANGUAGE sql AS $$
	SELECT min(due) FROM public.fetches WHERE state = 'due' $$;
