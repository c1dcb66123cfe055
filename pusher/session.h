/*
 * session.h: the pusher's state, shared by the loop (loop.c) and the talk with the database
 * (session.c).
 */
#ifndef PUSHER_SESSION_H
#define PUSHER_SESSION_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "delivery.h"
#include "fetch.h"
#include "http.h"
#include "loop.h"
#include "pgconn.h"

/* Why the loop wakes up; the nearest of these is how long poll() may sleep. */
typedef enum Wake
{
	WAKE_POLL,		   /* claim, though nothing was notified */
	WAKE_BEAT,		   /* sign of life */
	WAKE_HELD,		   /* a statement that failed may be tried again */
	WAKE_TICK,		   /* next minute of the scheduler */
	WAKE_DATABASE,	   /* connection: dead, or to be tried again */
	WAKE_TICKER,	   /* the same of the scheduler's connection */
	WAKE_SOURCES,	   /* and of the sources' */
	WAKE_SOURCES_IDLE, /* which is closed when it has nothing to do */
	WAKE_CURL,		   /* libcurl's own timer */
	WAKE_WATCHDOG,	   /* service manager */
	WAKE_DRAIN,		   /* stopping has taken too long */
	WAKE_COUNT
} Wake;

typedef enum Statement
{
	SQL_HELLO,
	SQL_LISTEN,
	SQL_SETTLE,
	SQL_CLAIM,
	SQL_FETCH,
	SQL_BEAT,
	SQL_COUNT,
	SQL_NONE = SQL_COUNT
} Statement;

typedef struct Pusher
{
	Config *config;
	const CommandLine *cmd;
	Signals *signals;
	PgConn *db;
	PgConn *ticker;	 /* NULL without the setting tick */
	PgConn *sources; /* hands pages over; open while there are some */
	Http *http;
	Deliveries *deliveries;
	Fetches *fetches;
	struct pollfd *fds;
	int fds_room;
	int64_t wake[WAKE_COUNT]; /* monotonic ms, 0 never */
	int64_t held[SQL_COUNT];  /* not before, monotonic ms */
	int64_t receive_held;	  /* the same, for the hand-over of a page */
	Statement running;
	int asked;	 /* rows of the last claim */
	int dropped; /* outcomes, as far as that was noticed */
	bool once;
	bool greeted;
	bool listening;
	bool want_claim;
	bool drained;		   /* the last claim found nothing */
	bool fetching;		   /* the database knows sources */
	bool fetching_refused; /* it was said that it does not */
	bool want_fetch;
	bool fetch_turn; /* the last claim was of deliveries */
	bool fetches_drained;
	bool sources_ready; /* its session is set up */
	bool receiving;		/* it has been given a page */
	bool tick_due;
	bool stopping;
	bool done;
	int exit_code;
} Pusher;

extern void database_next(Pusher *p);
extern void database_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg);
extern void ticker_next(Pusher *p);
extern void ticker_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg);
extern void wake_by(Pusher *p, Wake wake, int64_t at);

#endif
