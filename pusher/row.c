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
 * row_headers turns a field, a JSON array of lines, into libcurl's list; the caller owns it. *valid
 * says whether all of it could be read.
 */
struct curl_slist *
row_headers(const PGresult *result, int row, int column, bool *valid)
{
	const char *text = row_text(result, row, column);
	struct curl_slist *list = NULL;
	json_t *lines;
	json_t *line;
	size_t i;

	*valid = true;
	if (text[0] == '\0')
		return NULL;
	lines = json_loads(text, 0, NULL);
	*valid = json_is_array(lines);
	json_array_foreach(lines, i, line)
	{
		if (json_is_string(line))
			list = curl_slist_append(list, json_string_value(line));
		else
			*valid = false;
	}
	json_decref(lines);
	return list;
}
