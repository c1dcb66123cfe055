/*
 * loop.c: the one poll loop: database, requests, signals, and the deadlines of all of them.
 *
 * The database is asked one statement at a time; what is asked next is decided in one place,
 * database_next(). Every statement is a transaction of its own, so a claim is committed before its
 * requests leave, and no request is ever made inside a transaction.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "delivery.h"
#include "http.h"
#include "log.h"
#include "loop.h"
#include "notify.h"
#include "pgconn.h"
#include "text.h"

/* Why the loop wakes up; the nearest of these is how long poll() may sleep. */
typedef enum Wake
{
	WAKE_POLL,	   /* claim, though nothing was notified */
	WAKE_BEAT,	   /* sign of life */
	WAKE_HELD,	   /* a statement that failed may be tried again */
	WAKE_TICK,	   /* next minute of the scheduler */
	WAKE_DATABASE, /* connection: dead, or to be tried again */
	WAKE_TICKER,   /* the same of the scheduler's connection */
	WAKE_CURL,	   /* libcurl's own timer */
	WAKE_WATCHDOG, /* service manager */
	WAKE_DRAIN,	   /* stopping has taken too long */
	WAKE_COUNT
} Wake;

typedef enum Statement
{
	SQL_HELLO,
	SQL_LISTEN,
	SQL_SETTLE,
	SQL_CLAIM,
	SQL_BEAT,
	SQL_COUNT,
	SQL_NONE = SQL_COUNT
} Statement;

static const char *const statement_names[] = {"version", "listen", "settle", "claim", "beat"};

/* statement_timeout lets the server give up a little before we count the session as dead. */
static const char hello_sql[] =
	"SELECT ecstats_version(), pg_catalog.set_config('statement_timeout', $1, false)";
static const char beat_sql[] =
	"SELECT extract(epoch FROM ecstats.pusher_beat($1) - pg_catalog.clock_timestamp()) * 1000";
static const char tick_sql[] = "CALL ecstats_tick(wait => false)";

#define HOLD_RETRY	   200	  /* ms, after a serialization failure */
#define HOLD_BUG	   30000  /* ms, after an error that should not be */
#define DEADLINE_SLACK 5000	  /* ms that a dead session is given over statement_timeout */
#define LOOK_AGAIN	   2000	  /* ms, when something is due that could not be claimed */
#define TICK_TIMEOUT   600000 /* ms */
#define ONCE_ATTEMPTS  5	  /* losses that --once bears while it holds outcomes */

typedef struct Pusher
{
	Config *config;
	const CommandLine *cmd;
	Signals *signals;
	PgConn *db;
	PgConn *ticker; /* NULL without the setting tick */
	Http *http;
	Deliveries *deliveries;
	struct pollfd *fds;
	int fds_room;
	int64_t wake[WAKE_COUNT]; /* monotonic ms, 0 never */
	int64_t held[SQL_COUNT];  /* not before, monotonic ms */
	Statement running;
	int asked; /* rows of the last claim */
	bool once;
	bool greeted;
	bool listening;
	bool want_claim;
	bool drained; /* the last claim found nothing */
	bool tick_due;
	bool stopping;
	bool done;
	int exit_code;
} Pusher;

static void pusher_init(Pusher *p, Config *config, const CommandLine *cmd, Signals *signals);
static void pusher_configure(Pusher *p);
static void signals_take(Pusher *p);
static void pusher_reload(Pusher *p);
static void wakes_expire(Pusher *p);
static bool wake_due(Pusher *p, Wake wake, int64_t now);
static int wakes_nearest(Pusher *p);
static void wake_by(Pusher *p, Wake wake, int64_t at);
static bool pusher_finished(const Pusher *p);
static void loop_poll(Pusher *p);
static void database_next(Pusher *p);
static int claim_room(const Pusher *p);
static bool statement_free(Pusher *p, Statement statement);
static void statement_send(Pusher *p, Statement statement, const char *sql, int nparams,
						   const char *const *values);
static void hello_send(Pusher *p);
static void settle_send(Pusher *p);
static void claim_send(Pusher *p);
static void database_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg);
static void database_lost(Pusher *p);
static void statement_done(Pusher *p, Statement statement, const PGresult *result);
static void statement_failed(Pusher *p, Statement statement, const PGresult *result);
static void hello_done(Pusher *p, const PGresult *result);
static void claim_done(Pusher *p, const PGresult *result);
static void beat_done(Pusher *p, const PGresult *result);
static void ticker_next(Pusher *p);
static void ticker_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg);

/* ---------------------------------------------------------------- the loop */

/*
 * loop_run runs until stopped (or, with --once, until nothing is due) and returns the exit code.
 */
int
loop_run(Config *config, const CommandLine *cmd, Signals *signals)
{
	Pusher p;

	pusher_init(&p, config, cmd, signals);
	pgconn_open(p.db);
	if (p.ticker)
		pgconn_open(p.ticker);
	notify_send("READY=1");

	while (!p.done)
	{
		signals_take(&p);
		wakes_expire(&p);
		database_next(&p);
		ticker_next(&p);
		if (p.done || pusher_finished(&p))
			break;
		loop_poll(&p);
	}

	if (deliveries_in_flight(p.deliveries) || deliveries_unsettled(p.deliveries))
	{
		log_write(LOG_ERROR, "given up: %d requests without an answer, %d outcomes not settled",
				  deliveries_in_flight(p.deliveries), deliveries_unsettled(p.deliveries));
		if (p.exit_code == EXIT_SUCCESS)
			p.exit_code = EXIT_DATABASE;
	}
	log_write(LOG_INFO, "stopped");
	http_free(p.http);
	deliveries_free(p.deliveries);
	pgconn_free(p.ticker);
	pgconn_free(p.db);
	free(p.fds);
	return p.exit_code;
}

/*
 * pusher_init builds all parts, connected to nothing.
 */
static void
pusher_init(Pusher *p, Config *config, const CommandLine *cmd, Signals *signals)
{
	char *shown = dsn_mask(config->dsn);
	int64_t watchdog = notify_watchdog_interval();

	memset(p, 0, sizeof(*p));
	p->config = config;
	p->cmd = cmd;
	p->signals = signals;
	p->once = cmd->mode == MODE_ONCE;
	p->running = SQL_NONE;
	p->db = pgconn_create("database", database_event, p);
	if (config->tick)
	{
		p->ticker = pgconn_create("ticker", ticker_event, p);
		p->wake[WAKE_TICK] = monotonic_ms();
		p->tick_due = true;
	}
	p->http = http_create();
	p->deliveries = deliveries_create(p->http);
	p->wake[WAKE_BEAT] = monotonic_ms();
	if (watchdog)
		p->wake[WAKE_WATCHDOG] = monotonic_ms();
	pusher_configure(p);
	log_write(LOG_INFO, "ecstats-pusher %s, worker %s, dsn \"%s\"", PUSHER_VERSION, config->worker,
			  shown);
	free(shown);
}

/*
 * pusher_configure hands the settings to the parts.
 */
static void
pusher_configure(Pusher *p)
{
	const Config *c = p->config;
	PgSettings database = {c->dsn, c->connect_timeout, c->reconnect_max};
	HttpSettings http = {c->ca_file, c->proxy, c->connect_timeout, c->max_response, c->concurrency};

	log_setup((LogLevel) c->log_level, (LogFormat) c->log_format);
	pgconn_configure(p->db, &database);
	if (p->ticker)
		pgconn_configure(p->ticker, &database);
	http_configure(p->http, &http);
}

/*
 * signals_take acts on what the handlers noted.
 */
static void
signals_take(Pusher *p)
{
	if (p->signals->reload)
	{
		p->signals->reload = 0;
		pusher_reload(p);
	}
	if (p->signals->stops == 1 && !p->stopping)
	{
		log_write(LOG_INFO, "stopping: %d requests in flight, %d outcomes to settle",
				  deliveries_in_flight(p->deliveries), deliveries_unsettled(p->deliveries));
		notify_send("STOPPING=1");
		p->stopping = true;
		p->wake[WAKE_DRAIN] = monotonic_ms() + p->config->drain_timeout;
	}
	if (p->signals->stops > 1)
	{
		log_write(LOG_WARN, "stopped at once by a second signal");
		p->exit_code = EXIT_DATABASE;
		p->done = true;
	}
}

/*
 * pusher_reload reads the file again; wrong settings leave the old ones in force.
 */
static void
pusher_reload(Pusher *p)
{
	char error[600];
	Config *fresh = config_create(p->cmd, error, sizeof(error));

	if (fresh == NULL)
	{
		log_write(LOG_ERROR, "settings not reloaded: %s", error);
		return;
	}
	config_reload(p->config, fresh);
	pusher_configure(p);
	p->want_claim = true;
	log_write(LOG_INFO, "settings reloaded");
}

/*
 * wakes_expire acts on the deadlines that have passed.
 */
static void
wakes_expire(Pusher *p)
{
	int64_t now = monotonic_ms();

	p->wake[WAKE_DATABASE] = pgconn_deadline(p->db);
	p->wake[WAKE_TICKER] = p->ticker ? pgconn_deadline(p->ticker) : 0;
	p->wake[WAKE_CURL] = http_deadline(p->http);

	if (wake_due(p, WAKE_DRAIN, now))
	{
		p->done = true;
		return;
	}
	if (wake_due(p, WAKE_POLL, now))
		p->want_claim = true;
	if (wake_due(p, WAKE_TICK, now))
	{
		p->tick_due = true;
		if (!p->once)
			p->wake[WAKE_TICK] = now + 60000 - (int64_t) (time(NULL) % 60) * 1000;
	}
	if (wake_due(p, WAKE_DATABASE, now))
		pgconn_expire(p->db);
	if (wake_due(p, WAKE_TICKER, now))
		pgconn_expire(p->ticker);
	if (wake_due(p, WAKE_CURL, now))
		http_expire(p->http);
	if (wake_due(p, WAKE_WATCHDOG, now))
	{
		notify_send("WATCHDOG=1");
		p->wake[WAKE_WATCHDOG] = now + notify_watchdog_interval();
	}
	/* WAKE_BEAT stays until the beat is sent, WAKE_HELD only ends the sleep. */
	wake_due(p, WAKE_HELD, now);
}

/*
 * wake_due says whether a deadline has passed, and clears it.
 */
static bool
wake_due(Pusher *p, Wake wake, int64_t now)
{
	if (p->wake[wake] == 0 || p->wake[wake] > now)
		return false;
	p->wake[wake] = 0;
	return true;
}

/*
 * wakes_nearest returns how long poll() may sleep, in ms; -1 for ever.
 */
static int
wakes_nearest(Pusher *p)
{
	int64_t now = monotonic_ms();
	int64_t nearest = -1;
	int i;

	p->wake[WAKE_DATABASE] = pgconn_deadline(p->db);
	p->wake[WAKE_TICKER] = p->ticker ? pgconn_deadline(p->ticker) : 0;
	p->wake[WAKE_CURL] = http_deadline(p->http);
	for (i = 0; i < WAKE_COUNT; i++)
	{
		int64_t left = p->wake[i] - now;

		if (p->wake[i] == 0)
			continue;
		/* A beat that cannot be sent now waits for an event, or for WAKE_HELD. */
		if (i == WAKE_BEAT && (!p->listening || !pgconn_idle(p->db) || p->held[SQL_BEAT] > now))
			continue;
		if (left < 0)
			left = 0;
		if (nearest < 0 || left < nearest)
			nearest = left;
	}
	return nearest > 3600000 ? 3600000 : (int) nearest;
}

/*
 * wake_by brings a deadline forward to at, if it is later or none.
 */
static void
wake_by(Pusher *p, Wake wake, int64_t at)
{
	if (p->wake[wake] == 0 || p->wake[wake] > at)
		p->wake[wake] = at;
}

/*
 * pusher_finished says whether there is nothing left to do before the exit.
 */
static bool
pusher_finished(const Pusher *p)
{
	if (deliveries_in_flight(p->deliveries) || deliveries_unsettled(p->deliveries))
		return false;
	/* A claim under way may bring rows, which then have to go out. */
	if (p->running == SQL_CLAIM || (p->ticker && pgconn_busy(p->ticker)))
		return false;
	return p->stopping || (p->once && p->drained && !p->want_claim);
}

/*
 * loop_poll sleeps until something happens and lets its owner see to it.
 */
static void
loop_poll(Pusher *p)
{
	int nsockets = http_sockets(p->http);
	int need = nsockets + 3;
	int n = nsockets;
	int db = -1;
	int ticker = -1;
	int signal_pipe;
	int i;
	char drain[64];

	if (p->fds_room < need)
	{
		p->fds_room = need * 2;
		p->fds = realloc(p->fds, p->fds_room * sizeof(struct pollfd));
		if (p->fds == NULL)
			abort();
	}
	http_pollfds(p->http, p->fds);
	if (pgconn_pollfd(p->db, &p->fds[n]))
		db = n++;
	if (p->ticker && pgconn_pollfd(p->ticker, &p->fds[n]))
		ticker = n++;
	signal_pipe = n;
	p->fds[n++] = (struct pollfd){.fd = p->signals->fd, .events = POLLIN};

	if (poll(p->fds, n, wakes_nearest(p)) < 0)
	{
		if (errno != EINTR && errno != EAGAIN)
		{
			log_write(LOG_ERROR, "poll failed: %s", strerror(errno));
			p->exit_code = EXIT_DATABASE;
			p->done = true;
		}
		return;
	}
	if (p->fds[signal_pipe].revents)
	{
		while (read(p->signals->fd, drain, sizeof(drain)) > 0)
			;
	}
	for (i = 0; i < nsockets; i++)
		http_pump(p->http, p->fds[i].fd, p->fds[i].revents);
	if (db >= 0)
		pgconn_pump(p->db, p->fds[db].revents);
	if (ticker >= 0)
		pgconn_pump(p->ticker, p->fds[ticker].revents);
}

/* ---------------------------------------------------------------- what to ask next */

/*
 * database_next sends the statement that is most urgent, if the session is free.
 */
static void
database_next(Pusher *p)
{
	int64_t now = monotonic_ms();

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
	else if (deliveries_unsettled(p->deliveries) && statement_free(p, SQL_SETTLE))
		settle_send(p);
	else if (p->want_claim && claim_room(p) > 0 && statement_free(p, SQL_CLAIM))
		claim_send(p);
	else if (p->wake[WAKE_BEAT] && p->wake[WAKE_BEAT] <= now && statement_free(p, SQL_BEAT))
	{
		const char *values[] = {p->config->worker};

		p->wake[WAKE_BEAT] = now + p->config->beat_interval;
		statement_send(p, SQL_BEAT, beat_sql, 1, values);
	}
}

/*
 * claim_room returns how many deliveries may be claimed now.
 */
static int
claim_room(const Pusher *p)
{
	if (p->stopping)
		return 0;
	/* With --once --tick the scheduler's turn comes first. */
	if (p->once && p->ticker && (p->tick_due || pgconn_busy(p->ticker)))
		return 0;
	return (int) p->config->concurrency - deliveries_in_flight(p->deliveries) -
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

	statement_send(p, SQL_SETTLE, delivery_settle_sql, 2, values);
	free(batch);
}

/*
 * claim_send asks for as many deliveries as there is room for.
 */
static void
claim_send(Pusher *p)
{
	char rows[16];
	const char *values[] = {p->config->worker, rows};

	p->asked = claim_room(p);
	snprintf(rows, sizeof(rows), "%d", p->asked);
	/* What is notified from here on needs another claim. */
	p->want_claim = false;
	p->wake[WAKE_POLL] = monotonic_ms() + p->config->poll_interval;
	statement_send(p, SQL_CLAIM, delivery_claim_sql, 2, values);
}

/* ---------------------------------------------------------------- what came of it */

/*
 * database_event is the handler of the main session.
 */
static void
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
			p->want_claim = true;
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
	bool holds = deliveries_in_flight(p->deliveries) || deliveries_unsettled(p->deliveries);

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
			p->want_claim = true;
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
	if (failure == PG_FAIL_CONNECTION)
		return;
	log_write(failure == PG_FAIL_RETRY ? LOG_INFO : LOG_ERROR,
			  "statement \"%s\" failed: SQLSTATE %s: %s", statement_names[statement],
			  pgconn_sqlstate(result), message ? message : "(no message)");
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
		if (statement != SQL_SETTLE && statement != SQL_BEAT)
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
	/* Nothing now: ask when there will be something, unless that was asked just before. */
	if (rows == 0)
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

/* ---------------------------------------------------------------- the scheduler's tick */

/*
 * ticker_next runs the tick when its minute has come and the last one is done.
 */
static void
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
static void
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
