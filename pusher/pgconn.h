/*
 * pgconn.h: one connection to the database that never blocks and comes back by itself.
 *
 * Four events, one handler. A result is handed over when the connection is ready for the next
 * statement, so a handler may send one.
 */
#ifndef PUSHER_PGCONN_H
#define PUSHER_PGCONN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include <libpq-fe.h>

typedef struct PgConn PgConn;

typedef enum PgEvent
{
	PG_CONNECTED, /* a new session: nothing of the old one is left */
	PG_RESULT,	  /* the statement is done, well or not */
	PG_NOTIFIED,  /* at least one notification came */
	PG_LOST		  /* the session is gone, or could not be had; another is tried by itself */
} PgEvent;

typedef enum PgFailure
{
	PG_FINE,
	PG_FAIL_CONNECTION, /* classes 08, 53, 57 */
	PG_FAIL_RETRY,		/* class 40 */
	PG_FAIL_BUG			/* anything else */
} PgFailure;

typedef void (*PgHandler)(PgConn *conn, PgEvent event, const PGresult *result, void *arg);

/* Durations in ms. */
typedef struct PgSettings
{
	const char *dsn;
	int64_t connect_timeout;
	int64_t reconnect_max;
} PgSettings;

extern PgConn *pgconn_create(const char *label, PgHandler handler, void *arg);
extern void pgconn_free(PgConn *conn);
extern void pgconn_configure(PgConn *conn, const PgSettings *settings);
extern void pgconn_open(PgConn *conn);
extern void pgconn_close(PgConn *conn);
extern void pgconn_lose(PgConn *conn, const char *reason);
extern const char *pgconn_reason(const PgConn *conn);
extern void pgconn_healthy(PgConn *conn);
extern bool pgconn_send(PgConn *conn, const char *sql, int nparams, const char *const *values,
						int64_t timeout);
extern bool pgconn_idle(const PgConn *conn);
extern bool pgconn_busy(const PgConn *conn);
extern bool pgconn_closed(const PgConn *conn);
extern bool pgconn_connected(const PgConn *conn);
extern int pgconn_failures(const PgConn *conn);
extern bool pgconn_pollfd(const PgConn *conn, struct pollfd *out);
extern int64_t pgconn_deadline(const PgConn *conn);
extern void pgconn_expire(PgConn *conn);
extern void pgconn_pump(PgConn *conn, short revents);

extern PGconn *pgconn_connect_start(const PgSettings *settings);
extern PgFailure pgconn_failure(const PGresult *result);
extern bool pgconn_ended(const PGresult *result);
extern const char *pgconn_sqlstate(const PGresult *result);

extern int64_t monotonic_ms(void);

#endif
