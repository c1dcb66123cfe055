-- sql/90_grants.sql
-- Who may do what. Nothing to PUBLIC; four profiles, as data; two functions that grant and revoke them.

-- ecstats.profile_privileges: what a profile is allowed, a row a relation (columns NULL: all of them) or
-- function name (every overload). A profile's rows are all it gets: profiles add up, none contains another.
CREATE OR REPLACE FUNCTION ecstats.profile_privileges()
	RETURNS TABLE (profile text, kind text, object text, privileges text, columns text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH reads(object) AS (VALUES
		('config'), ('event_types'), ('daily_kpi'), ('weekly_kpi'), ('monthly_kpi'), ('daily_sales'), ('daily_events'), ('daily_funnel'), ('user_daily'), ('first_seen'),
		('buyer_daily'), ('buyers'),
		('restatements'), ('day_state'), ('day_marks'), ('rejects'), ('jobs'), ('job_runs'), ('templates'), ('reports'), ('targets'),
		('report_failures'), ('channel_kinds'), ('deliveries'), ('delivery_attempts'),
		('activity_levels'), ('user_activity'), ('user_profile'), ('activity_state'), ('cohorts'), ('tag_rules'), ('user_tags'), ('tag_daily'),
		('product_daily'), ('region_daily'), ('channel_daily'), ('funnel_daily'), ('kpi_trend')),
	read_functions(object) AS (VALUES
		('ecstats_version'), ('ecstats_day'), ('day_of'), ('day_start'), ('timezone_valid'), ('ecstats_today'), ('ecstats_cron_next'), ('ecstats_cron_list'),
		('cron_next'), ('cron_check'), ('cron_dialect'), ('ecstats_render'), ('template_render'), ('template_check'), ('ecstats_report_data'), ('ecstats_preview'), ('ecstats_status'),
		('ecstats_scores'), ('ecstats_explain_score'), ('ecstats_tag_audience'), ('ecstats_explain_tag'), ('rollup_users_unpack'), ('rollup_ids_unpack'), ('user_events'), ('report_data'), ('report_row'), ('report_kpi'), ('report_change'),
		('report_points'), ('report_points_text'), ('report_timestamp'), ('report_label'), ('native_text'), ('report_item'), ('report_products'),
		('report_split'), ('report_sales'), ('pipeline_live'), ('report_funnel'), ('report_targets'), ('report_restated'),
		('report_day'), ('report_scored_day'), ('report_person_label'), ('report_level_cn'), ('report_levels'), ('report_tags'), ('report_audience'),
		('report_segments'), ('report_cohorts'), ('report_activity'), ('source_behind'), ('source_status'), ('report_condition'), ('report_message'), ('report_status'))
	-- writer: puts raw rows in; the CHECKs' functions are called in its name
	SELECT 'writer', 'relation', * FROM (VALUES ('events', 'INSERT', NULL), ('order_lines', 'SELECT, INSERT, UPDATE, DELETE', NULL), ('event_types', 'SELECT', NULL)) v
	UNION ALL SELECT 'writer', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_version,ecstats_day,day_of,event_check,order_check,ecstats_track,ecstats_order,ecstats_prepare}'::text[]) v
	-- ... and attaches tables of logical replication, or applies into them
	UNION ALL SELECT 'writer', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_land_orders,pipeline_land_order,pipeline_land_rows,must_be_read_committed,pipeline_land_check,pipeline_land_types,pipeline_land_mapping,on_error_check,timezone_valid}'::text[]) v
	-- reader: figures and how things stand; no raw rows, no credentials
	UNION ALL SELECT p, 'relation', r.object, 'SELECT', NULL FROM reads r, unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'channels', 'SELECT', 'name, kind, options, enabled, created_at' FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'function', f.object, 'EXECUTE', NULL FROM read_functions f, unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'sources', 'SELECT', 'name, kind, target, owner, enabled, query, watermark_query, timeout, on_error, options, watermark, created_at, last_run_at, last_day, last_rows, last_error'
	  FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT p, 'relation', 'source_fetches', 'SELECT',
		   (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a
			 WHERE a.attrelid = to_regclass('ecstats.source_fetches') AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT IN ('next_url', 'next_value'))
	  FROM unnest('{reader,operator}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'sources', p, 'name, kind, target, owner, enabled, query, watermark_query, url, headers, secret, timeout, on_error, options, watermark'
	  FROM unnest('{INSERT,UPDATE}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'sources', 'DELETE', NULL
	-- operator: closes days, writes reports and jobs, sets channels without reading their credentials
	UNION ALL SELECT 'operator', 'relation', * FROM (VALUES ('config', 'UPDATE', NULL), ('event_types', 'INSERT, UPDATE, DELETE', NULL),
		('rejects', 'DELETE', NULL), ('templates', 'INSERT, UPDATE, DELETE', NULL), ('reports', 'INSERT, UPDATE, DELETE', NULL),
		('targets', 'INSERT, UPDATE, DELETE', NULL), ('activity_levels', 'INSERT, UPDATE, DELETE', NULL), ('tag_rules', 'INSERT, UPDATE, DELETE', NULL), ('channels', 'INSERT, UPDATE, DELETE', NULL), ('jobs', 'DELETE', NULL), ('job_ticker', 'SELECT', NULL)) v
	UNION ALL SELECT 'operator', 'relation', 'jobs', p, 'name, owner, schedule, command, timezone, max_attempts, overlap, catch_up, timeout, enabled'
	  FROM unnest('{INSERT,UPDATE}'::text[]) p
	UNION ALL SELECT 'operator', 'relation', 'job_runs', 'INSERT', 'job_id, due_at'
	UNION ALL SELECT 'operator', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_daily,ecstats_score,ecstats_collect,ecstats_report,ecstats_retry_rejects,ecstats_prepare,ecstats_push,ecstats_push_audience,ecstats_replay,ecstats_cancel,ecstats_channel_test,
		ecstats_adopt,ecstats_schedule,ecstats_unschedule,ecstats_run_job,ecstats_replay_job,ecstats_install_cron,ecstats_uninstall_cron,job_cron_home,
		ecstats_maintain,maintain_lost,maintain_days,maintain_partition,maintain_droppable,maintain_drop,maintain_prune,day_partition_exists,day_partition_name,
		ecstats_rebuild,rollup_rebuild_days,rollup_rebuild_day,rollup_rebuild_settle,rollup_first_seen_anew,rollup_buyers_anew,ecstats_verify}'::text[]) v
	-- ... and writes rules of tags, whose CHECK is called in its name
	UNION ALL SELECT 'operator', 'function', 'tag_check', 'EXECUTE', NULL
	-- pusher: the functions of its contract
	UNION ALL SELECT 'pusher', 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_version,delivery_claim,delivery_settle,pusher_beat,source_claim,source_receive}'::text[]) v
	-- a tick launches what is due, each run as its job's owner
	UNION ALL SELECT p, 'function', v, 'EXECUTE', NULL
	  FROM unnest('{ecstats_tick,job_beat,job_reap,job_claim,job_take,job_launch,job_wait}'::text[]) v, unnest('{operator,pusher}'::text[]) p
	$$;
COMMENT ON FUNCTION ecstats.profile_privileges() IS 'What the profiles writer, reader, operator and pusher are allowed.';

-- ecstats.profile_holds: has a role been granted anything in schema ecstats?
CREATE OR REPLACE FUNCTION ecstats.profile_holds(role name) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (
		SELECT FROM (SELECT c.relacl AS acl FROM pg_class c WHERE c.relnamespace = 'ecstats'::regnamespace
					 UNION ALL SELECT a.attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
								WHERE c.relnamespace = 'ecstats'::regnamespace AND a.attacl IS NOT NULL
					 UNION ALL SELECT p.proacl FROM pg_proc p WHERE p.pronamespace = 'ecstats'::regnamespace) o
		 CROSS JOIN LATERAL aclexplode(o.acl) g
		 WHERE g.grantee = (SELECT r.oid FROM pg_roles r WHERE r.rolname = role)) $$;
COMMENT ON FUNCTION ecstats.profile_holds(name) IS 'True where a role has been granted something in schema ecstats.';

-- ecstats.profile_apply: grants or revokes every privilege of a profile.
CREATE OR REPLACE FUNCTION ecstats.profile_apply(role name, the_profile text, revoke boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	owner oid := (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'ecstats');
	verb text := CASE WHEN revoke THEN 'REVOKE %s ON %s %s FROM %I' ELSE 'GRANT %s ON %s %s TO %I' END;
	p record;
	f regprocedure;
BEGIN
	IF NOT pg_has_role(current_user, owner, 'MEMBER') THEN
		RAISE EXCEPTION 'only the owner of extension ecstats grants its profiles'
			USING ERRCODE = 'insufficient_privilege', HINT = format('Ask %s, or a superuser.', owner::regrole);
	END IF;
	IF the_profile IS NULL OR the_profile NOT IN ('writer', 'reader', 'operator', 'pusher') THEN
		RAISE EXCEPTION 'there is no such profile'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Value: %L.', left(the_profile, 60)),
				  HINT = 'Profiles are writer, reader, operator and pusher.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE ... LOGIN first.';
	END IF;
	IF NOT revoke THEN
		EXECUTE format('GRANT USAGE ON SCHEMA ecstats TO %I', role);
		IF NOT has_schema_privilege(role, '@extschema@', 'USAGE') THEN
			EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %I', role);
		END IF;
	END IF;
	FOR p IN SELECT * FROM ecstats.profile_privileges() g WHERE g.profile = the_profile LOOP
		IF p.kind = 'relation' THEN
			EXECUTE format(verb, p.privileges || coalesce('(' || p.columns || ')', ''), 'TABLE', format('ecstats.%I', p.object), role);
		ELSE
			FOR f IN SELECT d.objid::regprocedure FROM pg_depend d JOIN pg_proc c ON c.oid = d.objid
					  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
						AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'ecstats') AND c.proname = p.object LOOP
				EXECUTE format(verb, p.privileges, 'ROUTINE', f, role);
			END LOOP;
		END IF;
	END LOOP;
	IF revoke AND NOT ecstats.profile_holds(role) THEN
		EXECUTE format('REVOKE USAGE ON SCHEMA ecstats FROM %I', role);
	END IF;
END
$$;
COMMENT ON FUNCTION ecstats.profile_apply(name, text, boolean) IS 'Grants (or revokes) every privilege of a profile; 42501, 22023, 42704.';

-- ecstats_grant: gives a role the privileges of a profile. Profiles add up.
-- Arguments: role; profile writer | reader | operator | pusher. Errors: 42501 for anybody but the extension's
-- owner, 22023 unknown profile, 42704 unknown role.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_grant(role name, profile text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.profile_apply(role, profile, false) $$;
COMMENT ON FUNCTION @extschema@.ecstats_grant(name, text) IS
	'Gives a role the privileges of profile writer, reader, operator or pusher. Only for the extension''s owner (42501); 22023, 42704.';

-- ecstats_revoke: takes the privileges of a profile away; what another profile of the role gives too goes with
-- them: grant that again. Arguments and errors: as ecstats_grant.
CREATE OR REPLACE FUNCTION @extschema@.ecstats_revoke(role name, profile text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$ SELECT ecstats.profile_apply(role, profile, true) $$;
COMMENT ON FUNCTION @extschema@.ecstats_revoke(name, text) IS
	'Takes the privileges of a profile from a role (also those that another profile of it gives: grant that one again). Only for the extension''s owner.';

DO $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT d.objid::regprocedure FROM pg_depend d
			  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
				AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'ecstats') LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
	END LOOP;
END
$$;

