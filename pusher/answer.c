/*
 * answer.c: what deliveries and fetches alike report of an answer.
 */
#include "answer.h"

/*
 * answer_headers returns the header lines that were kept, {"name": "value"}; NULL without memory: one
 * that is lost would be a lie, no pause or no next page. The caller owns it.
 */
json_t *
answer_headers(const HttpResult *result)
{
	json_t *headers = json_object();
	int i;

	for (i = 0; i < HTTP_HEADERS_KEPT; i++)
	{
		if (result->headers[i].name &&
			json_object_set_new(headers, result->headers[i].name,
								json_string(result->headers[i].value)) != 0)
		{
			json_decref(headers);
			return NULL;
		}
	}
	return headers;
}
