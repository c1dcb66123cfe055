/*
 * source.h: pages of HTTP sources: when they are claimed, and the session that hands them over.
 */
#ifndef PUSHER_SOURCE_H
#define PUSHER_SOURCE_H

#include "session.h"

extern void sources_found(Pusher *p, const PGresult *hello);
extern int sources_room(const Pusher *p);
extern int sources_share(const Pusher *p);
extern int sources_claim_done(Pusher *p, const PGresult *result);
extern void sources_next(Pusher *p);
extern void sources_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg);
extern void sources_rest(Pusher *p);
extern bool sources_finished(const Pusher *p);

#endif
