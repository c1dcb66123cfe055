/*
 * row.h: fields of a claimed row.
 */
#ifndef PUSHER_ROW_H
#define PUSHER_ROW_H

#include <curl/curl.h>
#include <libpq-fe.h>

extern const char *row_text(const PGresult *result, int row, int column);
extern struct curl_slist *row_headers(const PGresult *result, int row, int column,
									  const char **why);

#endif
