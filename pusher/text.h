/*
 * text.h: makes foreign bytes fit to be stored or shown.
 */
#ifndef PUSHER_TEXT_H
#define PUSHER_TEXT_H

#include <stdbool.h>
#include <stddef.h>

extern size_t utf8_clean(const char *in, size_t length, char *out, size_t size);
extern size_t utf8_clean_in_place(char *text, size_t length);
extern char *json_quote(const char *head, const char *text, size_t length, const char *tail);
extern void text_mask(char *text, const char *secret, size_t length);
extern bool url_mask(const char *url, char *out, size_t size);
extern bool dsn_is_valid(const char *dsn);
extern char *dsn_mask(const char *dsn);

#endif
