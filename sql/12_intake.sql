-- sql/12_intake.sql
-- What the intake of events and of orders have in common.

-- ecstats.on_error_check: the modes of an intake. Result: true for 'raise'.
CREATE OR REPLACE FUNCTION ecstats.on_error_check(on_error text) RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF on_error IS NULL OR on_error NOT IN ('raise', 'quarantine') THEN
		RAISE EXCEPTION 'on_error is neither raise nor quarantine'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(on_error, 60)),
				  HINT = 'raise refuses the whole call, quarantine stores the good ones and keeps the others in ecstats.rejects.';
	END IF;
	RETURN on_error = 'raise';
END
$$;
COMMENT ON FUNCTION ecstats.on_error_check(text) IS 'True for raise, false for quarantine, 22023 for anything else.';

CREATE OR REPLACE FUNCTION ecstats.in_transaction_block() RETURNS boolean
	LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'ecstats_in_transaction_block';
COMMENT ON FUNCTION ecstats.in_transaction_block() IS 'True between BEGIN and COMMIT: what this statement locks stays locked after it.';

-- What could not be stored, whole, with the reason. Shared by events and orders.
CREATE TABLE ecstats.rejects (
	id			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	received_at	timestamptz NOT NULL DEFAULT now(),
	source		text NOT NULL,
	payload		jsonb NOT NULL,
	sqlstate	text NOT NULL,
	reason		text NOT NULL
);
CREATE INDEX rejects_received_at ON ecstats.rejects (received_at);
-- A landed row (56_pipeline_cdc.sql) is found again by what it was.
CREATE INDEX rejects_landed ON ecstats.rejects USING hash (payload) WHERE left(source, 5) = 'land:';
COMMENT ON TABLE ecstats.rejects IS 'Elements that broke a rule under on_error => ''quarantine''; ecstats_retry_rejects takes those that are valid now, a landed row comes again with its next change';
COMMENT ON COLUMN ecstats.rejects.id IS 'Number of the reject, in the order of their coming';
COMMENT ON COLUMN ecstats.rejects.received_at IS 'When it came';
COMMENT ON COLUMN ecstats.rejects.sqlstate IS 'SQLSTATE of the rule that it broke';
COMMENT ON COLUMN ecstats.rejects.reason IS 'The rule in words, with the value and the cure';
COMMENT ON COLUMN ecstats.rejects.source IS '''track'', ''order'', or ''land:'' and a table that replication fills';
COMMENT ON COLUMN ecstats.rejects.payload IS 'The element as it was sent';

