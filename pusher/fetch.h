/*
 * fetch.h: pages of HTTP sources, between a claim and their hand-over.
 */
#ifndef PUSHER_FETCH_H
#define PUSHER_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "http.h"

#define PAGES_MOST 4 /* in memory at once, whatever the concurrency */

typedef struct Fetches Fetches;

/* A page's hand-over, as the arguments of ecstats.source_receive; result is the caller's to free. */
typedef struct PageOffer
{
	char fetch_id[24];
	char page[24];
	char *result;
} PageOffer;

extern const char fetch_claim_sql[];
extern const char fetch_receive_sql[];

extern Fetches *fetches_create(Http *http);
extern void fetches_free(Fetches *f);
extern void fetches_configure(Fetches *f, int64_t max_fetch);

extern int fetches_start(Fetches *f, const PGresult *claimed);
extern int fetches_in_flight(const Fetches *f);
extern int fetches_held(const Fetches *f);

extern bool fetches_offer(Fetches *f, PageOffer *offer);
extern void fetches_received(Fetches *f, const char *outcome);
extern void fetches_refused(Fetches *f, const char *why);
extern void fetches_lost(Fetches *f, const char *why);
extern void fetches_expire(Fetches *f, int64_t now);
extern int fetches_dropped(const Fetches *f);

#endif
