-- sql/50_pipeline.sql
-- The only place where areas meet.

-- ecstats_retry_rejects: takes those rejects that are valid now.
-- Arguments: source 'track' or 'order', NULL for both. Result: rejects taken in. Rejects that are still bad
-- stay, with today's reason. Touches ecstats.rejects and what the intake touches.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_retry_rejects(source text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r record;
	taken bigint := 0;
	code text;
	message text;
	more text;
BEGIN
	IF source IS NOT NULL AND source NOT IN ('track', 'order') THEN
		RAISE EXCEPTION 'there are no rejects of this source'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(source, 60)),
				  HINT = 'Sources are track and order; leave it out for both.';
	END IF;
	FOR r IN SELECT j.id, j.source AS origin, j.payload FROM ecstats.rejects j
			  WHERE ecstats_retry_rejects.source IS NULL OR j.source = ecstats_retry_rejects.source
			  ORDER BY j.id FOR UPDATE LOOP
		BEGIN
			IF r.origin = 'track' THEN
				PERFORM @extschema@.ecstats_track(r.payload, 'raise');
			ELSE
				PERFORM @extschema@.ecstats_order(r.payload, 'raise');
			END IF;
			DELETE FROM ecstats.rejects j WHERE j.id = r.id;
			taken := taken + 1;
		EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
			UPDATE ecstats.rejects j SET sqlstate = code, reason = concat_ws('. ', message, nullif(more, ''))
			 WHERE j.id = r.id AND (j.sqlstate <> code);
		END;
	END LOOP;
	RETURN taken;
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_retry_rejects(text) IS
	'Takes in the rejects of a source (track, order, or NULL for both) that are valid now and returns how many; the others stay.';

