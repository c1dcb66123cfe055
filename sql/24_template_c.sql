-- sql/24_template_c.sql
-- Templates: Mustache without HTML escaping, and filters. doc/template.md is the user's page.

-- ecstats_render(template, data)
-- Purpose:   render every string of a JSON document
-- Arguments: template  any JSON; its strings are Mustache texts, `conditions` picks members
--            data      what the texts see
-- Result:    the document with its strings rendered; null for a null argument
-- Errors:    22023 the template is wrong (JSON path, character, what to write); 54000 output over 1 MB
-- Tables:    none
CREATE OR REPLACE FUNCTION @extschema@.ecstats_render(template jsonb, data jsonb) RETURNS jsonb
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
COMMENT ON FUNCTION @extschema@.ecstats_render(jsonb, jsonb) IS
	'Renders every string of a JSON document over data: Mustache (variables, sections, inverted sections, comments, set-delimiter) and filters ({{gmv | money}}). Keys and other values are copied; a member "conditions" picks members. Null for a null argument. Errors: 22023 the template is wrong, with JSON path and character; 54000 output over 1 MB or over a million passes through sections.';

-- Internal twin of ecstats_render.
CREATE OR REPLACE FUNCTION ecstats.template_render(template jsonb, data jsonb) RETURNS jsonb
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_render';
COMMENT ON FUNCTION ecstats.template_render(jsonb, jsonb) IS
	'Internal twin of ecstats_render(template, data): same arguments, result and errors.';

-- ecstats.template_check(template)
-- Purpose:   refuse a wrong template when it is stored, not when it is sent
-- Arguments: template  as for ecstats_render
-- Result:    nothing
-- Errors:    22023 with JSON path, character and what was found
-- Tables:    none
CREATE OR REPLACE FUNCTION ecstats.template_check(template jsonb) RETURNS void
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ecstats_template_check';
COMMENT ON FUNCTION ecstats.template_check(jsonb) IS
	'Parses every text of a template without rendering it. Returns nothing; raises 22023 with JSON path and character for the first error (unknown filter, unclosed section, bad argument, too deep ...).';
