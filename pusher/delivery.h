/*
 * delivery.h: what is between a claim and its settlement.
 */
#ifndef PUSHER_DELIVERY_H
#define PUSHER_DELIVERY_H

#include <stdbool.h>

#include <libpq-fe.h>

#include "http.h"

typedef struct Deliveries Deliveries;

extern const char delivery_claim_sql[];
extern const char delivery_settle_sql[];

extern Deliveries *deliveries_create(Http *http);
extern void deliveries_free(Deliveries *d);

extern int deliveries_start(Deliveries *d, const PGresult *claimed);
extern int deliveries_in_flight(const Deliveries *d);
extern int deliveries_unsettled(const Deliveries *d);

extern char *deliveries_batch(Deliveries *d);
extern void deliveries_settled(Deliveries *d, const PGresult *outcome);
extern void deliveries_unsent(Deliveries *d);
extern bool deliveries_refused(Deliveries *d);
extern int deliveries_dropped(const Deliveries *d);

#endif
