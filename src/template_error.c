/*
 * template_error.c
 *		How a broken template is told to its author: JSON path, character, what was found.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "compat.h"
#include "ecstats.h"
#include "errors.h"
#include "template_error.h"
#include "template_filter.h"

#define SHOWN_BYTES 60 /* of a tag or a key in an error */

typedef struct ErrorText
{
	const char *message;
	const char *hint;
} ErrorText;

static const char *const HINT_IN_PLACE = "Write the text into this template.";

/* error_text has the words for each code. */
static ErrorText
error_text(TemplateErrorCode code)
{
	switch (code)
	{
		case TEMPLATE_OK:
			break;
		case TEMPLATE_UNCLOSED_TAG:
			return (ErrorText){"tag is not closed",
							   "Close the tag: {{name}}, {{{name}}}, {{#section}}, "
							   "{{! comment }}."};
		case TEMPLATE_UNCLOSED_SECTION:
			return (ErrorText){"section is not closed",
							   "Write {{/name}}, with the section's own name, where it ends."};
		case TEMPLATE_STRAY_CLOSE:
			return (ErrorText){"closing tag without an open section",
							   "Remove the tag, or open the section with {{#name}} or {{^name}}."};
		case TEMPLATE_WRONG_CLOSE:
			return (ErrorText){"closing tag does not match the open section",
							   "Close the innermost section first, by the name that opened it."};
		case TEMPLATE_EMPTY_NAME:
			return (ErrorText){"tag without a name",
							   "Write a member of the data, such as {{gmv}}, or {{.}} for the "
							   "current value."};
		case TEMPLATE_BAD_NAME:
			return (ErrorText){"name cannot be read",
							   "A name is a member of the data, or several joined by single dots, "
							   "without braces or line breaks."};
		case TEMPLATE_BAD_DELIMITERS:
			return (ErrorText){"set-delimiter tag cannot be read",
							   "Write {{=<% %>=}}: two delimiters, a space between, each of at "
							   "most 16 bytes and without =."};
		case TEMPLATE_NO_PARTIALS:
			return (ErrorText){"partials are not supported", HINT_IN_PLACE};
		case TEMPLATE_NO_INHERITANCE:
			return (ErrorText){"blocks and parents are not supported", HINT_IN_PLACE};
		case TEMPLATE_FILTERED_SECTION:
			return (ErrorText){"section with a filter",
							   "Filters belong to variables: {{name | filter}}."};
		case TEMPLATE_EMPTY_FILTER:
			return (ErrorText){"bar without a filter", ECSTATS_TEMPLATE_FILTER_HINT};
		case TEMPLATE_UNKNOWN_FILTER:
			return (ErrorText){"unknown filter", ECSTATS_TEMPLATE_FILTER_HINT};
		case TEMPLATE_MISSING_ARGUMENT:
			return (ErrorText){"missing argument of filter", ECSTATS_TEMPLATE_FILTER_HINT};
		case TEMPLATE_NEEDLESS_ARGUMENT:
			return (ErrorText){"unexpected argument of filter", ECSTATS_TEMPLATE_FILTER_HINT};
		case TEMPLATE_BAD_ARGUMENT:
			return (ErrorText){"bad argument of filter", ECSTATS_TEMPLATE_ARGUMENT_HINT};
		case TEMPLATE_UNCLOSED_QUOTE:
			return (ErrorText){"quoted argument is not closed",
							   "End the argument with the quote that begins it; only a bar may "
							   "follow."};
		case TEMPLATE_TOO_DEEP:
			return (ErrorText){"sections are nested too deep", "Nest at most 64 sections."};
		case TEMPLATE_TOO_LONG:
			return (ErrorText){"text is too long", "One text holds at most 1 MB."};
	}
	elog(ERROR, "unexpected template error code: %d", (int) code);
}

/* append_quoted puts text between double quotes, shortened and without control characters. */
static void
append_quoted(StringInfo out, const char *text, size_t len)
{
	int shown = pg_mbcliplen(text, Min(len, SHOWN_BYTES + 8), SHOWN_BYTES);
	int i;

	appendStringInfoChar(out, '"');
	for (i = 0; i < shown; i++)
	{
		unsigned char c = text[i];

		if (c == '\n')
			appendStringInfoString(out, "\\n");
		else if (c == '"' || c == '\\')
			appendStringInfo(out, "\\%c", c);
		else if (c < ' ' || c == 127)
			appendStringInfo(out, "\\u%04x", c);
		else
			appendStringInfoChar(out, c);
	}
	appendStringInfoString(out, shown < len ? "...\"" : "\"");
}

/* ecstats_template_quote returns text as it is shown in an error, palloc'd. */
char *
ecstats_template_quote(const char *text, size_t len)
{
	StringInfoData out;

	initStringInfo(&out);
	append_quoted(&out, text, len);
	return out.data;
}

/* ecstats_template_path_enter goes one level down; the caller then sets key or index. */
void
ecstats_template_path_enter(TemplatePath *path, bool is_array)
{
	TemplatePathStep *step;

	if (path->depth == path->room)
	{
		path->room = path->room == 0 ? 16 : path->room * 2;
		path->steps = path->steps == NULL
						  ? palloc(path->room * sizeof(TemplatePathStep))
						  : repalloc(path->steps, path->room * sizeof(TemplatePathStep));
	}
	step = &path->steps[path->depth++];
	step->key = is_array ? NULL : "";
	step->key_len = 0;
	step->index = -1;
}

static bool
is_plain_key(const char *key, int len)
{
	int i;

	for (i = 0; i < len; i++)
	{
		char c = key[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
			  (i > 0 && c >= '0' && c <= '9')))
			return false;
	}
	return len > 0 && len <= SHOWN_BYTES;
}

/* ecstats_template_path_text spells a path as jsonpath does: $.markdown.content, $.items[2]."a b". */
char *
ecstats_template_path_text(const TemplatePath *path)
{
	StringInfoData out;
	int i;

	initStringInfo(&out);
	appendStringInfoChar(&out, '$');
	for (i = 0; i < path->depth; i++)
	{
		const TemplatePathStep *step = &path->steps[i];

		if (out.len > 10 * SHOWN_BYTES)
		{
			appendStringInfoString(&out, "...");
			break;
		}
		if (step->key == NULL)
			appendStringInfo(&out, "[%d]", step->index);
		else if (is_plain_key(step->key, step->key_len))
			appendStringInfo(&out, ".%.*s", step->key_len, step->key);
		else
		{
			appendStringInfoChar(&out, '.');
			append_quoted(&out, step->key, step->key_len);
		}
	}
	return out.data;
}

/* ecstats_template_report raises the error of a text that does not parse. */
void
ecstats_template_report(const TemplatePath *path, TemplateSlice source, const TemplateError *error)
{
	ErrorText text = error_text(error->code);
	char *place = ecstats_template_path_text(path);
	int position = pg_mbstrlen_with_len(source.at, error->offset) + 1;
	char *found = ecstats_template_quote(error->found.at, error->found.len);

	if (error->code == TEMPLATE_WRONG_CLOSE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid template: %s", text.message),
						errdetail("At %s, character %d: found %s, open is %s.", place, position,
								  found, ecstats_template_quote(error->other.at, error->other.len)),
						errhint("%s", text.hint)));
	if (error->other.len > 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid template: %s %s", text.message,
							   ecstats_template_quote(error->other.at, error->other.len)),
						errdetail("At %s, character %d: found %s.", place, position, found),
						errhint("%s", text.hint)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid template: %s", text.message),
			 errdetail("At %s, character %d: found %s.", place, position, found),
			 errhint("%s", text.hint)));
}
