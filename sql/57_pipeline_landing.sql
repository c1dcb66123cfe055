-- sql/57_pipeline_landing.sql
-- Attaching a landing table: the mapping is held against the table once, not at every row.

-- ecstats.pipeline_land_types: the type of each mapped column of a landing table, NULL for a constant and for a
-- column that is not there.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_types(landing regclass, mapping text[])
	RETURNS TABLE (target text, source text, attnum smallint, type regtype)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT m[1], CASE WHEN m[2] = '=' THEN m[3] END, a.attnum, coalesce(nullif(t.typbasetype, 0), a.atttypid)::regtype
	  FROM unnest(mapping) WITH ORDINALITY AS u(entry, n)
	 CROSS JOIN LATERAL regexp_match(u.entry, '^([a-z_]+)(:?=)(.*)$') AS m
	  LEFT JOIN pg_attribute a ON a.attrelid = landing AND a.attname = m[3] AND m[2] = '=' AND a.attnum > 0 AND NOT a.attisdropped
	  LEFT JOIN pg_type t ON t.oid = a.atttypid
	 ORDER BY u.n $$;
COMMENT ON FUNCTION ecstats.pipeline_land_types(regclass, text[]) IS
	'Entries of a mapping: the column of order_lines or the option, the landed column (NULL: a constant), its number and its type.';

-- ecstats.pipeline_land_check: 22023 unless every landed row can become one line of its own.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_check(landing regclass, mapping text[]) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wrong text;
	advice text;
	zone text := (SELECT substr(m, 10) FROM unnest(mapping) m WHERE starts_with(m, 'timezone=') LIMIT 1);
	error_mode text := (SELECT substr(m, 10) FROM unnest(mapping) m WHERE starts_with(m, 'on_error=') LIMIT 1);
	constant_option text := (SELECT m FROM unnest(mapping) m WHERE m ~ '^(on_error|timezone|deletes):=' LIMIT 1);
	deletes text := (SELECT substr(m, 9) FROM unnest(mapping) m WHERE starts_with(m, 'deletes=') LIMIT 1);
	columns text[] := '{order_id,line_no,order_time,user_id,product_id,region,channel,quantity,amount,status,paid_time,extra}';
BEGIN
	IF error_mode IS NOT NULL THEN
		PERFORM ecstats.on_error_check(error_mode);
	END IF;
	IF (SELECT c.relkind FROM pg_class c WHERE c.oid = landing) <> 'r' THEN
		wrong := format('%s is not an ordinary table', landing);
		advice := 'Let the publisher''s rows land in a plain table (publish_via_partition_root makes one table of its partitions).';
	ELSIF EXISTS (SELECT FROM unnest(mapping) m WHERE m IS NULL OR m !~ '^[a-z_]+:?=.') THEN
		wrong := 'an entry of the mapping is neither ''column=landed column'' nor ''column:=constant''';
		advice := format('Value: %s.', (SELECT coalesce(quote_literal(m), 'NULL') FROM unnest(mapping) m WHERE m IS NULL OR m !~ '^[a-z_]+:?=.' LIMIT 1));
	ELSIF constant_option IS NOT NULL THEN
		wrong := format('%s is an option, not a column', split_part(constant_option, ':', 1));
		advice := format('Write %s.', replace(constant_option, ':=', '='));
	ELSIF deletes NOT IN ('follow', 'ignore') THEN
		wrong := 'deletes is neither follow nor ignore';
		advice := format('Value: %L. follow (the default) deletes the line of a row that is deleted at the publisher, ignore keeps it.', left(deletes, 60));
	ELSIF zone IS NOT NULL AND NOT ecstats.timezone_valid(zone) THEN
		wrong := format('timezone %L is no IANA time zone', zone);
		advice := 'Write it like timezone=Asia/Shanghai.';
	END IF;
	IF wrong IS NULL THEN
		SELECT CASE WHEN t.target <> ALL (columns || '{on_error,timezone,deletes}'::text[]) THEN format('order_lines has no column %I', t.target)
					WHEN count(*) OVER (PARTITION BY t.target) > 1 THEN format('%s is mapped twice', t.target)
					WHEN t.target = ANY (columns) AND t.source IS NOT NULL AND t.attnum IS NULL THEN format('%s has no column %I', landing, t.source)
					WHEN t.target IN ('order_time', 'paid_time') AND t.type IN ('timestamp', 'date') AND zone IS NULL
						THEN format('%I is a %s: nobody can say which instant it means', t.source, t.type)
			   END,
			   CASE WHEN t.target IN ('order_time', 'paid_time') THEN 'Say whose clock it shows: timezone=Asia/Shanghai.'
					ELSE format('Columns are %s; options on_error, timezone and deletes.', array_to_string(columns, ', ')) END
		  INTO wrong, advice
		  FROM ecstats.pipeline_land_types(landing, mapping) t
		 ORDER BY 1 NULLS LAST LIMIT 1;
	END IF;
	IF wrong IS NULL THEN
		SELECT format('%s is not mapped', string_agg(c, ', ')), 'Map it to a column (amount=total) or set a constant (quantity:=1).'
		  INTO wrong, advice
		  FROM unnest('{order_id,order_time,product_id,quantity,amount}'::text[]) c
		 WHERE c NOT IN (SELECT t.target FROM ecstats.pipeline_land_types(landing, mapping) t)
		HAVING count(*) > 0;
	END IF;
	-- Two rows must never be one line: some key of the table is within what makes the line's key. (Not by a time
	-- in a text or a number: 09:00+08 is 01:00Z, and 1712050800 is 1712050800000.)
	IF wrong IS NULL AND NOT EXISTS (
		SELECT FROM pg_index i
		 WHERE i.indrelid = landing AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		   AND (i.indkey::smallint[])[0 : i.indnkeyatts - 1] <@ array(
				SELECT t.attnum FROM ecstats.pipeline_land_types(landing, mapping) t
				  JOIN pg_attribute a ON a.attrelid = landing AND a.attnum = t.attnum AND a.attnotnull
				 WHERE t.target IN ('order_id', 'line_no')
					OR t.target = 'order_time' AND t.type IN ('timestamptz', 'timestamp', 'date'))) THEN
		wrong := 'two landed rows could become the same line';
		advice := 'Map order_id, line_no and order_time so that they hold a primary key (or an immediate unique key without nulls) of the landing table; order_time counts if it is a timestamptz, timestamp or date.';
	END IF;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION '%', wrong USING ERRCODE = 'invalid_parameter_value', HINT = advice;
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_check(regclass, text[]) IS '22023 unless a mapping fits a landing table and gives every row a line of its own.';

-- ecstats.pipeline_land_mapping: the arguments of the landing trigger that a table has, NULL without one.
CREATE OR REPLACE FUNCTION ecstats.pipeline_land_mapping(landing regclass) RETURNS text[]
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rest bytea := (SELECT t.tgargs FROM pg_trigger t WHERE t.tgrelid = landing AND t.tgname = 'ecstats_land');
	mapping text[] := CASE WHEN rest IS NOT NULL THEN '{}'::text[] END;
	stop integer;
BEGIN
	LOOP						-- each argument ends with a zero byte
		stop := position('\x00'::bytea IN rest);
		EXIT WHEN stop IS NULL OR stop = 0;
		mapping := mapping || convert_from(substring(rest FROM 1 FOR stop - 1), getdatabaseencoding());
		rest := substring(rest FROM stop + 1);
	END LOOP;
	RETURN mapping;
END
$$;
COMMENT ON FUNCTION ecstats.pipeline_land_mapping(regclass) IS 'The mapping of a table''s landing trigger; NULL where it has none.';

-- ecstats_land_orders: attaches a landing table of logical replication to ecstats.order_lines, and takes the rows
-- that it holds already. Again, with the same or another mapping: takes all its rows anew.
-- Arguments: the table; entries 'column=landed column' and 'column:=constant' for columns of order_lines (needed:
-- order_id, order_time, product_id, quantity, amount), 'on_error=raise' (default) or 'on_error=quarantine',
-- 'timezone=…' for times without a zone, 'deletes=ignore' keeps the lines of rows that are deleted. Result: lines changed. Errors: 22023 for a mapping that does not fit,
-- with on_error=raise those of ecstats_order. Touches ecstats.order_lines, ecstats.rejects, the table's triggers.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_land_orders(landing regclass, VARIADIC mapping text[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	before text[];
	arguments text;
	landing_name text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = landing);
BEGIN
	IF landing IS NULL OR mapping IS NULL THEN
		RAISE EXCEPTION 'a landing table and its mapping are needed' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	PERFORM ecstats.must_be_read_committed('ecstats_land_orders takes what has landed');
	IF landing_name IS NULL THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table', DETAIL = format('Value: %s.', landing);
	END IF;
	-- From here on nobody changes the table that the mapping is held against, nor lands a row.
	EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', landing_name);
	IF to_regclass(landing_name) IS DISTINCT FROM landing THEN
		RAISE EXCEPTION 'table % was renamed or dropped meanwhile', landing_name USING ERRCODE = 'undefined_table', HINT = 'Try again.';
	END IF;
	PERFORM ecstats.pipeline_land_check(landing, mapping);
	before := ecstats.pipeline_land_mapping(landing);
	arguments := (SELECT string_agg(quote_literal(m), ', ' ORDER BY n) FROM unnest(mapping) WITH ORDINALITY AS u(m, n));
	EXECUTE format('CREATE OR REPLACE TRIGGER ecstats_land AFTER INSERT OR UPDATE OR DELETE ON %s
						FOR EACH ROW EXECUTE FUNCTION ecstats.pipeline_land_order(%s)', landing_name, arguments);
	EXECUTE format('CREATE OR REPLACE TRIGGER ecstats_land_truncate BEFORE TRUNCATE ON %s
						FOR EACH STATEMENT EXECUTE FUNCTION ecstats.pipeline_land_order(%s)', landing_name, arguments);
	EXECUTE format('ALTER TABLE %1$s ENABLE ALWAYS TRIGGER ecstats_land, ENABLE ALWAYS TRIGGER ecstats_land_truncate', landing_name);
	RETURN ecstats.pipeline_land_rows(landing, coalesce(before, mapping), mapping);
END
$$;
COMMENT ON FUNCTION @extschema@.ecstats_land_orders(regclass, text[]) IS
	'Attaches a landing table of logical replication to ecstats.order_lines by a mapping (order_id=id, amount=total, line_no:=1, on_error=quarantine, timezone=...) and takes the rows it holds; returns lines changed. 22023: the mapping does not fit.';
