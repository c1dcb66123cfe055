/*
 * pgconn.c: one connection to the database that never blocks and comes back by itself.
 *
 * Only libpq's asynchronous calls are used. (Looking up a host name is the exception: libpq has no
 * asynchronous resolver; hostaddr= avoids it.) pgconn_pump() is the only reader of the socket and
 * always ends by draining the notifications.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config.h"
#include "log.h"
#include "pgconn.h"

#define BACKOFF_LEAST 100	/* ms, the first pause */
#define WARN_INTERVAL 30000 /* ms between two warnings that the database is away */

typedef enum PgState
{
	STATE_OFF,		  /* waits until retry_at */
	STATE_CONNECTING, /* PQconnectPoll decides */
	STATE_IDLE,
	STATE_BUSY /* a statement runs */
} PgState;

struct PgConn
{
	const char *label;
	PgHandler handler;
	void *arg;
	PgSettings settings;
	PGconn *pq;
	PgState state;
	short events;	  /* what to poll the socket for */
	PGresult *result; /* of the running statement, the first error or else the last */
	int64_t deadline; /* monotonic ms: of connecting or of the statement; 0 none */
	int64_t retry_at; /* monotonic ms; 0 none */
	int64_t pause;	  /* ms, the last back-off */
	int failures;	  /* since the last healthy session */
	int64_t warned_at;
	char reason[400]; /* of the last loss, its first line */
};

static void connect_poll(PgConn *conn);
static void result_keep(PgConn *conn, PGresult *result);
static void results_read(PgConn *conn);
static void notifications_drain(PgConn *conn);
static void session_drop(PgConn *conn);
static int64_t backoff_next(PgConn *conn);
static void notice_log(void *arg, const char *message);

/*
 * pgconn_create makes a connection object that is off; handler is told all events.
 */
PgConn *
pgconn_create(const char *label, PgHandler handler, void *arg)
{
	PgConn *conn = log_need(calloc(1, sizeof(PgConn)));

	conn->label = label;
	conn->handler = handler;
	conn->arg = arg;
	return conn;
}

/*
 * pgconn_free closes and frees; NULL is fine. Not to be called by a handler.
 */
void
pgconn_free(PgConn *conn)
{
	if (conn == NULL)
		return;
	session_drop(conn);
	free(conn);
}

/*
 * pgconn_configure takes settings for the next session; strings are borrowed.
 */
void
pgconn_configure(PgConn *conn, const PgSettings *settings)
{
	conn->settings = *settings;
}

/*
 * pgconn_connect_start begins to connect. Keepalives make a peer that vanished noticed within half
 * a minute; what the connection string says about them wins.
 */
PGconn *
pgconn_connect_start(const PgSettings *settings)
{
	const char *keywords[] = {"fallback_application_name",
							  "client_encoding",
							  "keepalives_idle",
							  "keepalives_interval",
							  "keepalives_count",
							  "tcp_user_timeout",
							  settings->dsn[0] ? "dbname" : NULL,
							  NULL};
	const char *values[] = {
		"ecstats-pusher/" PUSHER_VERSION, "UTF8", "10", "5", "3", "25000", settings->dsn, NULL};

	return PQconnectStartParams(keywords, values, 1);
}

/*
 * pgconn_open begins a session; the outcome comes as an event.
 */
void
pgconn_open(PgConn *conn)
{
	conn->retry_at = 0;
	conn->pq = pgconn_connect_start(&conn->settings);
	if (conn->pq == NULL || PQstatus(conn->pq) == CONNECTION_BAD)
	{
		pgconn_lose(conn, conn->pq ? PQerrorMessage(conn->pq) : "out of memory");
		return;
	}
	PQsetNoticeProcessor(conn->pq, notice_log, conn);
	conn->state = STATE_CONNECTING;
	conn->events = POLLOUT;
	conn->deadline = monotonic_ms() + conn->settings.connect_timeout;
}

/*
 * pgconn_close ends the session; another begins with pgconn_open only. The handler is not told.
 */
void
pgconn_close(PgConn *conn)
{
	log_write(LOG_DEBUG, "%s: session closed", conn->label);
	session_drop(conn);
}

/*
 * pgconn_lose gives the session up, tells the handler, and plans the next attempt.
 */
void
pgconn_lose(PgConn *conn, const char *reason)
{
	int64_t now = monotonic_ms();
	int64_t pause = backoff_next(conn);

	snprintf(conn->reason, sizeof(conn->reason), "%.*s", (int) strcspn(reason, "\n"), reason);
	conn->failures++;
	if (conn->failures == 1 || now - conn->warned_at >= WARN_INTERVAL)
	{
		log_write(LOG_WARN, "%s: no connection: %s; next attempt in %lld ms", conn->label,
				  conn->reason, (long long) pause);
		conn->warned_at = now;
	}
	session_drop(conn);
	conn->retry_at = now + pause;
	conn->handler(conn, PG_LOST, NULL, conn->arg);
}

/*
 * pgconn_reason returns why the session was lost last, for people; the handler of PG_LOST may ask.
 */
const char *
pgconn_reason(const PgConn *conn)
{
	return conn->reason;
}

/*
 * pgconn_healthy says that the session proved useful: the back-off begins anew.
 */
void
pgconn_healthy(PgConn *conn)
{
	conn->failures = 0;
	conn->pause = 0;
}

/*
 * pgconn_send starts a statement (values as text) that must be done within timeout ms. False if
 * the session broke or libpq could not take the statement; the handler has then been told PG_LOST.
 */
bool
pgconn_send(PgConn *conn, const char *sql, int nparams, const char *const *values, int64_t timeout)
{
	int flushed;

	if (!PQsendQueryParams(conn->pq, sql, nparams, NULL, values, NULL, NULL, 0) ||
		(flushed = PQflush(conn->pq)) < 0)
	{
		pgconn_lose(conn, PQerrorMessage(conn->pq));
		return false;
	}
	conn->state = STATE_BUSY;
	conn->events = flushed ? POLLIN | POLLOUT : POLLIN;
	conn->deadline = monotonic_ms() + timeout;
	return true;
}

/*
 * pgconn_idle says whether a statement can be sent.
 */
bool
pgconn_idle(const PgConn *conn)
{
	return conn->state == STATE_IDLE;
}

/*
 * pgconn_busy says whether a statement runs.
 */
bool
pgconn_busy(const PgConn *conn)
{
	return conn->state == STATE_BUSY;
}

/*
 * pgconn_closed says whether there is no session and none is going to be tried.
 */
bool
pgconn_closed(const PgConn *conn)
{
	return conn->state == STATE_OFF && conn->retry_at == 0;
}

/*
 * pgconn_connected says whether there is a session.
 */
bool
pgconn_connected(const PgConn *conn)
{
	return conn->state >= STATE_IDLE;
}

/*
 * pgconn_failures counts the losses since the last healthy session.
 */
int
pgconn_failures(const PgConn *conn)
{
	return conn->failures;
}

/*
 * pgconn_pollfd fills what to poll for; false while there is no socket.
 */
bool
pgconn_pollfd(const PgConn *conn, struct pollfd *out)
{
	if (conn->state == STATE_OFF)
		return false;
	out->fd = PQsocket(conn->pq);
	out->events = conn->events;
	out->revents = 0;
	return out->fd >= 0;
}

/*
 * pgconn_deadline returns when pgconn_expire has to be called (monotonic ms), 0 for never.
 */
int64_t
pgconn_deadline(const PgConn *conn)
{
	return conn->state == STATE_OFF ? conn->retry_at : conn->deadline;
}

/*
 * pgconn_expire does what the passed deadline is for: connect again, or give up waiting.
 */
void
pgconn_expire(PgConn *conn)
{
	if (conn->state == STATE_OFF)
		pgconn_open(conn);
	else if (conn->state == STATE_CONNECTING)
		pgconn_lose(conn, "timed out while connecting");
	else
		pgconn_lose(conn, "no answer to a statement in time");
}

/*
 * pgconn_pump moves the session on after poll() and raises the events.
 */
void
pgconn_pump(PgConn *conn, short revents)
{
	int flushed;

	if (revents == 0 || conn->state == STATE_OFF)
		return;
	if (conn->state == STATE_CONNECTING)
	{
		connect_poll(conn);
		return;
	}
	if (!PQconsumeInput(conn->pq))
	{
		pgconn_lose(conn, PQerrorMessage(conn->pq));
		return;
	}
	flushed = PQflush(conn->pq);
	if (flushed < 0)
	{
		pgconn_lose(conn, PQerrorMessage(conn->pq));
		return;
	}
	conn->events = flushed ? POLLIN | POLLOUT : POLLIN;
	if (conn->state == STATE_BUSY)
		results_read(conn);
	notifications_drain(conn);
}

/*
 * connect_poll takes one step of the connection.
 */
static void
connect_poll(PgConn *conn)
{
	switch (PQconnectPoll(conn->pq))
	{
		case PGRES_POLLING_READING:
			conn->events = POLLIN;
			break;
		case PGRES_POLLING_WRITING:
			conn->events = POLLOUT;
			break;
		case PGRES_POLLING_OK:
			if (PQsetnonblocking(conn->pq, 1) != 0)
			{
				pgconn_lose(conn, PQerrorMessage(conn->pq));
				return;
			}
			conn->state = STATE_IDLE;
			conn->events = POLLIN;
			conn->deadline = 0;
			log_write(LOG_INFO, "%s: session in database %s on %s port %s as %s", conn->label,
					  PQdb(conn->pq), PQhost(conn->pq), PQport(conn->pq), PQuser(conn->pq));
			conn->handler(conn, PG_CONNECTED, NULL, conn->arg);
			break;
		default:
			pgconn_lose(conn, PQerrorMessage(conn->pq));
			break;
	}
}

/*
 * results_read collects the statement's results and hands the one that counts over, once the
 * connection is free for the next statement.
 */
static void
results_read(PgConn *conn)
{
	PGresult *result;

	while (!PQisBusy(conn->pq))
	{
		result = PQgetResult(conn->pq);
		if (result)
		{
			result_keep(conn, result);
			continue;
		}
		result = conn->result;
		conn->result = NULL;
		conn->state = STATE_IDLE;
		conn->deadline = 0;
		conn->handler(conn, PG_RESULT, result, conn->arg);
		PQclear(result);
		/* The handler may have sent the next statement or dropped the session. */
		if (conn->state != STATE_BUSY)
			return;
	}
}

/*
 * result_keep remembers the first error, or else the last result.
 */
static void
result_keep(PgConn *conn, PGresult *result)
{
	if (conn->result && pgconn_failure(conn->result) != PG_FINE)
	{
		PQclear(result);
		return;
	}
	PQclear(conn->result);
	conn->result = result;
}

/*
 * notifications_drain frees what came and raises one event for all.
 */
static void
notifications_drain(PgConn *conn)
{
	PGnotify *notify;
	bool any = false;

	if (!pgconn_connected(conn))
		return;
	while ((notify = PQnotifies(conn->pq)) != NULL)
	{
		any = true;
		PQfreemem(notify);
	}
	if (any)
		conn->handler(conn, PG_NOTIFIED, NULL, conn->arg);
}

/*
 * session_drop closes the session without telling anybody.
 */
static void
session_drop(PgConn *conn)
{
	PQclear(conn->result);
	conn->result = NULL;
	if (conn->pq)
		PQfinish(conn->pq);
	conn->pq = NULL;
	conn->state = STATE_OFF;
	conn->deadline = 0;
	conn->retry_at = 0;
}

/*
 * backoff_next returns the next pause in ms: decorrelated jitter, so that many pushers do not come
 * back at the same instant.
 */
static int64_t
backoff_next(PgConn *conn)
{
	int64_t high = (conn->pause ? conn->pause : BACKOFF_LEAST) * 3;
	int64_t pause = BACKOFF_LEAST + random() % (high - BACKOFF_LEAST + 1);

	if (pause > conn->settings.reconnect_max)
		pause = conn->settings.reconnect_max;
	conn->pause = pause;
	return pause;
}

/*
 * pgconn_failure classifies a result by its SQLSTATE class; what ended the session, of whatever
 * class, is a failure of the connection.
 */
PgFailure
pgconn_failure(const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);
	const char *sqlstate;

	if (result && (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK))
		return PG_FINE;
	sqlstate = pgconn_sqlstate(result);
	/* Without a code the error is libpq's own: the connection broke. */
	if (sqlstate[0] == '\0' || pgconn_ended(result) || strncmp(sqlstate, "08", 2) == 0 ||
		strncmp(sqlstate, "53", 2) == 0 || strncmp(sqlstate, "57", 2) == 0)
		return PG_FAIL_CONNECTION;
	if (strncmp(sqlstate, "40", 2) == 0)
		return PG_FAIL_RETRY;
	return PG_FAIL_BUG;
}

/*
 * pgconn_ended says whether an error is the last of its session: all but a plain ERROR.
 */
bool
pgconn_ended(const PGresult *result)
{
	const char *severity =
		result ? PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED) : NULL;

	return severity == NULL || strcmp(severity, "ERROR") != 0;
}

/*
 * pgconn_sqlstate returns the five characters, or an empty string.
 */
const char *
pgconn_sqlstate(const PGresult *result)
{
	const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	return sqlstate ? sqlstate : "";
}

/*
 * notice_log passes the server's notices on to the log.
 */
static void
notice_log(void *arg, const char *message)
{
	PgConn *conn = arg;

	log_write(LOG_DEBUG, "%s: %.*s", conn->label, (int) strcspn(message, "\n"), message);
}

/*
 * monotonic_ms is the clock of all deadlines.
 */
int64_t
monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
