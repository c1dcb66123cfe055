/*
 * session.c: what the database is asked next, and what comes of its answer.
 *
 * The database is asked one statement at a time; which is next is decided in one place,
 * database_next(). Every statement is a transaction of its own, so a claim is committed before its
 * requests leave, and no request is ever made inside a transaction.
 */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "log.h"
#include "notify.h"
#include "session.h"
#include "source.h"

static const char *const statement_names[] = {"version", "listen", "settle",
											  "claim",	 "fetch",  "beat"};

/* statement_timeout lets the server give up a little before we count the session as dead. */
static const char hello_sql[] =
	"SELECT ecstats_version(), pg_catalog.set_config('statement_timeout', $1, false),"
	" pg_catalog.count(o) OPERATOR(pg_catalog.=) 2, COALESCE(pg_catalog.bool_and("
	"pg_catalog.has_function_privilege(o, 'EXECUTE')), false)"
	" FROM (VALUES (pg_catalog.to_regprocedure('ecstats.source_claim(text,integer)')),"
	" (pg_catalog.to_regprocedure('ecstats.source_receive(text,bigint,integer,jsonb)'))) f(o)";
static const char beat_sql[] =
	"SELECT extract(epoch FROM ecstats.pusher_beat($1) - pg_catalog.clock_timestamp()) * 1000";
static const char tick_sql[] = "CALL ecstats_tick(wait => false)";

#define HOLD_RETRY	   200	  /* ms, after a serialization failure */
#define HOLD_BUG	   30000  /* ms, after an error that should not be */
#define DEADLINE_SLACK 5000	  /* ms that a dead session is given over statement_timeout */
#define LOOK_AGAIN	   2000	  /* ms, when something is due that could not be claimed */
#define TICK_TIMEOUT   600000 /* ms */
#define ONCE_ATTEMPTS  5	  /* losses that --once bears while it holds outcomes */

static int claim_room(const Pusher *p);
static bool statement_free(Pusher *p, Statement statement);
static void statement_send(Pusher *p, Statement statement, const char *sql, int nparams,
						   const char *const *values);
static void hello_send(Pusher *p);
static void settle_send(Pusher *p);
static void claims_next(Pusher *p);
static void claim_send(Pusher *p, Statement statement);
static void database_lost(Pusher *p);
static void statement_done(Pusher *p, Statement statement, const PGresult *result);
static void statement_failed(Pusher *p, Statement statement, const PGresult *result);
static void hello_done(Pusher *p, const PGresult *result);
static void claim_done(Pusher *p, const PGresult *result);
static void claim_empty(Pusher *p);
static void beat_done(Pusher *p, const PGresult *result);

/*
 * database_next sends the statement that is most urgent, if the session is free.
 */
void
database_next(Pusher *p)
{
	int64_t now = monotonic_ms();
	int dropped = deliveries_dropped(p->deliveries) + fetches_dropped(p->fetches);

	/* An outcome that is gone left room for another request, as one does that is settled. */
	if (dropped != p->dropped)
		p->want_claim = p->want_fetch = true;
	p->dropped = dropped;
	if (p->done || !pgconn_idle(p->db))
		return;
	if (!p->greeted)
	{
		if (statement_free(p, SQL_HELLO))
			hello_send(p);
	}
	else if (!p->listening)
	{
		if (statement_free(p, SQL_LISTEN))
			statement_send(p, SQL_LISTEN, "LISTEN ecstats_deliveries", 0, NULL);
	}
	else if (p->wake[WAKE_BEAT] && p->wake[WAKE_BEAT] <= now && statement_free(p, SQL_BEAT))
	{
		/* First, or a busy pusher would look like a dead one. */
		const char *values[] = {p->config->worker};

		p->wake[WAKE_BEAT] = now + p->config->beat_interval;
		statement_send(p, SQL_BEAT, beat_sql, 1, values);
	}
	else if (deliveries_unsettled(p->deliveries) && statement_free(p, SQL_SETTLE))
		settle_send(p);
	else
		claims_next(p);
}

/*
 * claims_next claims deliveries or pages; in turn, so that neither keeps the other from the requests
 * that become free.
 */
static void
claims_next(Pusher *p)
{
	bool fetch = p->want_fetch && sources_room(p) > 0 && statement_free(p, SQL_FETCH);

	if (fetch && p->fetch_turn)
		claim_send(p, SQL_FETCH);
	else if (p->want_claim && claim_room(p) > 0 && statement_free(p, SQL_CLAIM))
		claim_send(p, SQL_CLAIM);
	else if (fetch)
		claim_send(p, SQL_FETCH);
}

/*
 * claim_room returns how many deliveries may be claimed now.
 */
static int
claim_room(const Pusher *p)
{
	int fetches = fetches_in_flight(p->fetches);

	if (p->stopping)
		return 0;
	/* With --once --tick the scheduler's turn comes first. */
	if (p->once && p->ticker && (p->tick_due || pgconn_busy(p->ticker)))
		return 0;
	if (fetches > sources_share(p))
		fetches = sources_share(p);
	return (int) p->config->concurrency - fetches - deliveries_in_flight(p->deliveries) -
		   deliveries_unsettled(p->deliveries);
}

/*
 * statement_free says whether a statement may be sent, which it may not for a while after it
 * failed; the loop is woken when it may.
 */
static bool
statement_free(Pusher *p, Statement statement)
{
	if (p->held[statement] <= monotonic_ms())
		return true;
	wake_by(p, WAKE_HELD, p->held[statement]);
	return false;
}

/*
 * statement_send sends one statement and remembers which.
 */
static void
statement_send(Pusher *p, Statement statement, const char *sql, int nparams,
			   const char *const *values)
{
	if (pgconn_send(p->db, sql, nparams, values, p->config->query_timeout + DEADLINE_SLACK))
		p->running = statement;
}

/*
 * hello_send asks for the extension's version and sets the session up.
 */
static void
hello_send(Pusher *p)
{
	char timeout[32];
	const char *values[] = {timeout};

	snprintf(timeout, sizeof(timeout), "%lldms", (long long) p->config->query_timeout);
	statement_send(p, SQL_HELLO, hello_sql, 1, values);
}

/*
 * settle_send hands over the outcomes that are there.
 */
static void
settle_send(Pusher *p)
{
	char *batch = deliveries_batch(p->deliveries);
	const char *values[] = {p->config->worker, batch};

	if (batch == NULL)
	{
		log_write(LOG_ERROR, "out of memory: outcomes wait to be settled");
		p->held[SQL_SETTLE] = monotonic_ms() + LOOK_AGAIN;
		wake_by(p, WAKE_HELD, p->held[SQL_SETTLE]);
		return;
	}
	statement_send(p, SQL_SETTLE, delivery_settle_sql, 2, values);
	free(batch);
}

/*
 * claim_send asks for as many deliveries, or pages, as there is room for.
 */
static void
claim_send(Pusher *p, Statement statement)
{
	bool fetch = statement == SQL_FETCH;
	char rows[16];
	const char *values[] = {p->config->worker, rows};
	int room = fetch ? sources_room(p) : claim_room(p);

	snprintf(rows, sizeof(rows), "%d", room);
	/* What is notified from here on needs another claim. */
	if (fetch)
		p->want_fetch = false;
	else
	{
		p->want_claim = false;
		p->asked = room;
	}
	p->fetch_turn = !fetch;
	wake_by(p, WAKE_POLL, monotonic_ms() + p->config->poll_interval);
	statement_send(p, statement, fetch ? fetch_claim_sql : delivery_claim_sql, 2, values);
}

/*
 * database_event is the handler of the main session.
 */
void
database_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg)
{
	Pusher *p = arg;
	Statement statement = p->running;
	PgFailure failure;

	switch (event)
	{
		case PG_CONNECTED:
			break;
		case PG_NOTIFIED:
			p->want_claim = p->want_fetch = true;
			break;
		case PG_LOST:
			database_lost(p);
			break;
		case PG_RESULT:
			p->running = SQL_NONE;
			failure = pgconn_failure(result);
			if (failure == PG_FINE)
				statement_done(p, statement, result);
			else
				statement_failed(p, statement, result);
			if (failure == PG_FAIL_CONNECTION)
				pgconn_lose(conn, PQresultErrorMessage(result));
			break;
	}
}

/*
 * database_lost forgets the session; what is in flight goes on, and its outcomes are kept.
 */
static void
database_lost(Pusher *p)
{
	bool holds = deliveries_in_flight(p->deliveries) || deliveries_unsettled(p->deliveries) ||
				 fetches_in_flight(p->fetches) || fetches_held(p->fetches);

	p->running = SQL_NONE;
	p->greeted = false;
	p->listening = false;
	deliveries_unsent(p->deliveries);
	notify_send("STATUS=waiting for the database");
	if (p->once && pgconn_failures(p->db) > (holds ? ONCE_ATTEMPTS : 0))
	{
		log_write(LOG_ERROR, "the database cannot be reached");
		p->exit_code = EXIT_DATABASE;
		p->done = true;
	}
}

/*
 * statement_done takes a good result.
 */
static void
statement_done(Pusher *p, Statement statement, const PGresult *result)
{
	switch (statement)
	{
		case SQL_HELLO:
			hello_done(p, result);
			break;
		case SQL_LISTEN:
			/* What was queued while nobody listened is found by claiming once. */
			p->listening = true;
			p->want_claim = p->want_fetch = true;
			pgconn_healthy(p->db);
			log_write(LOG_INFO, "connected");
			notify_send("STATUS=connected");
			break;
		case SQL_SETTLE:
			/* A target may be free again for its next delivery. */
			deliveries_settled(p->deliveries, result);
			p->want_claim = true;
			break;
		case SQL_CLAIM:
			claim_done(p, result);
			break;
		case SQL_FETCH:
			if (sources_claim_done(p, result) == 0)
				claim_empty(p);
			break;
		case SQL_BEAT:
			beat_done(p, result);
			break;
		case SQL_NONE:
			break;
	}
}

/*
 * statement_failed says when a statement may be tried again: at once on a new session, soon after a
 * conflict, late after what must be a bug.
 */
static void
statement_failed(Pusher *p, Statement statement, const PGresult *result)
{
	PgFailure failure = pgconn_failure(result);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	int64_t hold = failure == PG_FAIL_RETRY ? HOLD_RETRY : HOLD_BUG;

	if (statement == SQL_NONE)
		return;
	if (statement == SQL_CLAIM || statement == SQL_SETTLE)
		p->want_claim = true;
	if (statement == SQL_FETCH)
		p->want_fetch = true;
	if (failure == PG_FAIL_CONNECTION)
		return;
	log_write(failure == PG_FAIL_RETRY ? LOG_INFO : LOG_ERROR,
			  "statement \"%s\" failed: SQLSTATE %s: %s", statement_names[statement],
			  pgconn_sqlstate(result), message ? message : "(no message)");
	if (statement == SQL_HELLO)
		log_write(LOG_ERROR, "is the extension created in this database, in a schema of the "
							 "search_path, and has this "
							 "role the profile pusher? --check tells");
	if (statement == SQL_SETTLE)
	{
		if (failure == PG_FAIL_RETRY)
			deliveries_unsent(p->deliveries);
		else if (deliveries_refused(p->deliveries) || p->once)
			hold = HOLD_RETRY; /* the next batch is another one */
	}
	p->held[statement] = monotonic_ms() + hold;
	if (failure == PG_FAIL_BUG && p->once)
	{
		p->exit_code = EXIT_DATABASE;
		if (statement == SQL_FETCH)
			p->fetching = false; /* deliveries still go out */
		else if (statement != SQL_SETTLE && statement != SQL_BEAT)
			p->done = true;
	}
}

/*
 * hello_done compares the versions; another major version is the end.
 */
static void
hello_done(Pusher *p, const PGresult *result)
{
	const char *version = PQgetvalue(result, 0, 0);
	bool older;

	if (!version_fits(version, &older))
	{
		log_write(LOG_ERROR,
				  "the extension's version is %s, this pusher needs %d.%d or a later %d.x", version,
				  PUSHER_MAJOR, PUSHER_MINOR, PUSHER_MAJOR);
		p->exit_code = EXIT_VERSION;
		p->done = true;
		return;
	}
	if (older)
		log_write(LOG_WARN, "the extension's version %s is older than this pusher", version);
	sources_found(p, result);
	p->greeted = true;
}

/*
 * claim_done sends what was claimed on its way.
 */
static void
claim_done(Pusher *p, const PGresult *result)
{
	int rows = deliveries_start(p->deliveries, result);

	p->drained = rows == 0;
	if (rows > 0 && rows >= p->asked)
		p->want_claim = true;
	if (rows == 0)
		claim_empty(p);
}

/*
 * claim_empty asks, when nothing is due now, when there will be something, unless that was asked
 * just before.
 */
static void
claim_empty(Pusher *p)
{
	wake_by(p, WAKE_BEAT, p->wake[WAKE_BEAT] - p->config->beat_interval + LOOK_AGAIN);
}

/*
 * beat_done notes when the database expects something to be due.
 */
static void
beat_done(Pusher *p, const PGresult *result)
{
	double left;

	if (PQgetisnull(result, 0, 0))
		return;
	left = strtod(PQgetvalue(result, 0, 0), NULL);
	/* Due already, yet not claimed: held back by something the database knows about. */
	if (left < 0 && !p->want_claim)
		left = LOOK_AGAIN;
	if (left < (double) p->config->poll_interval)
		wake_by(p, WAKE_POLL, monotonic_ms() + (left < 0 ? 0 : (int64_t) left + 1));
}

/*
 * ticker_next runs the tick when its minute has come and the last one is done.
 */
void
ticker_next(Pusher *p)
{
	if (p->ticker == NULL || !p->tick_due || p->stopping || !pgconn_idle(p->ticker))
		return;
	p->tick_due = false;
	pgconn_send(p->ticker, tick_sql, 0, NULL, TICK_TIMEOUT);
}

/*
 * ticker_event is the handler of the scheduler's session.
 */
void
ticker_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg)
{
	Pusher *p = arg;
	const char *message;

	if (event == PG_LOST && p->once)
	{
		p->tick_due = false;
		p->exit_code = EXIT_DATABASE;
	}
	if (event != PG_RESULT)
		return;
	if (pgconn_failure(result) == PG_FINE)
	{
		pgconn_healthy(conn);
		return;
	}
	message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	log_write(LOG_ERROR, "tick failed: SQLSTATE %s: %s", pgconn_sqlstate(result),
			  message ? message : "(no message)");
	if (p->once)
		p->exit_code = EXIT_DATABASE;
	if (pgconn_failure(result) == PG_FAIL_CONNECTION)
		pgconn_lose(conn, PQresultErrorMessage(result));
}
