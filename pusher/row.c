/*
 * row.c: fields of a claimed row, as deliveries and fetches need them.
 */
#include <jansson.h>

#include "row.h"

/*
 * row_text returns a field as text, empty for null.
 */
const char *
row_text(const PGresult *result, int row, int column)
{
	return PQgetvalue(result, row, column);
}

/*
 * row_headers turns a field, a JSON array of lines, into libcurl's list; the caller owns it. *why is
 * set to what was wrong if not all of it could be read, and then the list is NULL; else to NULL.
 */
struct curl_slist *
row_headers(const PGresult *result, int row, int column, const char **why)
{
	const char *text = row_text(result, row, column);
	struct curl_slist *list = NULL;
	struct curl_slist *longer;
	json_error_t error;
	json_t *lines;
	json_t *line;
	size_t i;

	*why = NULL;
	if (text[0] == '\0')
		return NULL;
	lines = json_loads(text, 0, &error);
	if (lines == NULL || !json_is_array(lines))
		*why = lines == NULL && json_error_code(&error) == json_error_out_of_memory
				   ? "out of memory"
				   : "the header lines cannot be read";
	json_array_foreach(lines, i, line)
	{
		longer = json_is_string(line) ? curl_slist_append(list, json_string_value(line)) : NULL;
		if (longer == NULL)
		{
			*why = json_is_string(line) ? "out of memory" : "the header lines cannot be read";
			break;
		}
		list = longer;
	}
	json_decref(lines);
	if (*why)
	{
		curl_slist_free_all(list);
		list = NULL;
	}
	return list;
}
