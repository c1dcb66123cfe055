/*
 * source.c: pages of HTTP sources: how many are fetched at once, and how they are handed over.
 *
 * Pages are claimed in the main session, but handed over in one of their own: to map a page is work
 * that may take minutes, in which deliveries must be claimed and settled as ever. That session is
 * opened with the first page and closed when none has come for a while.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "source.h"

#define HOLD_CONFLICT  200	 /* ms, after a serialization failure */
#define HOLD_REFUSED   2000	 /* ms, after the database refused a page */
#define DEADLINE_SLACK 5000	 /* ms that a dead session is given over statement_timeout */
#define IDLE_MOST	   60000 /* ms, after which the session is closed */
#define ONCE_ATTEMPTS  5	 /* losses that --once bears */

static const char prepare_sql[] = "SELECT pg_catalog.set_config('statement_timeout', $1, false)";

static void prepare_send(Pusher *p);
static void receive_send(Pusher *p);
static void receive_done(Pusher *p, const PGresult *result);
static void receive_failed(Pusher *p, const PGresult *result, bool receiving);
static void sources_lost(Pusher *p);

/*
 * sources_found reads from the answer to the greeting whether this database knows sources, and says
 * so once if it does not.
 */
void
sources_found(Pusher *p, const PGresult *hello)
{
	bool exist = PQgetvalue(hello, 0, 2)[0] == 't';
	bool may = PQgetvalue(hello, 0, 3)[0] == 't';

	p->fetching = exist && may;
	if (p->fetching)
		p->fetching_refused = false;
	else if (!p->fetching_refused)
	{
		if (exist)
			log_write(LOG_WARN, "fetches are off: this role may not call ecstats.source_claim and "
								"source_receive (ecstats_grant, profile pusher)");
		else
			log_write(LOG_INFO, "fetches are off: the extension in this database is older and has "
								"no ecstats.source_claim");
		p->fetching_refused = true;
	}
}

/*
 * sources_share returns how many requests fetches may take from the deliveries: half.
 */
int
sources_share(const Pusher *p)
{
	return (int) p->config->concurrency / 2;
}

/*
 * sources_room returns how many pages may be claimed now. With a concurrency of 1, half of which is
 * nothing, one page is fetched beside the deliveries.
 */
int
sources_room(const Pusher *p)
{
	int share = sources_share(p);
	int room = share < 1 ? 1 : share;
	int left = (int) p->config->concurrency - deliveries_in_flight(p->deliveries) -
			   fetches_in_flight(p->fetches);

	if (!p->fetching || p->stopping)
		return 0;
	/* While pages wait for the database there is no point in more: their leases would run out. */
	if (fetches_held(p->fetches) > 1)
		return 0;
	if (p->once && p->ticker && (p->tick_due || pgconn_busy(p->ticker)))
		return 0;
	if (room > PAGES_MOST)
		room = PAGES_MOST;
	room -= fetches_in_flight(p->fetches) + fetches_held(p->fetches);
	return share > 0 && left < room ? left : room;
}

/*
 * sources_claim_done sends what was claimed on its way and returns how many pages that were.
 */
int
sources_claim_done(Pusher *p, const PGresult *result)
{
	int rows = fetches_start(p->fetches, result);

	p->fetches_drained = rows == 0;
	if (rows > 0)
		p->want_fetch = true;
	return rows;
}

/*
 * sources_next hands the next page over, if there is one and the session is free.
 */
void
sources_next(Pusher *p)
{
	if (!p->receiving)
		fetches_expire(p->fetches, monotonic_ms());
	if (p->done || fetches_held(p->fetches) == 0)
		return;
	if (pgconn_closed(p->sources))
		pgconn_open(p->sources);
	if (!pgconn_idle(p->sources))
		return;
	if (p->receive_held > monotonic_ms())
		wake_by(p, WAKE_HELD, p->receive_held);
	else if (!p->sources_ready)
		prepare_send(p);
	else
		receive_send(p);
}

/*
 * prepare_send gives the session its statement_timeout.
 */
static void
prepare_send(Pusher *p)
{
	char timeout[32];
	const char *values[] = {timeout};

	snprintf(timeout, sizeof(timeout), "%lldms", (long long) p->config->receive_timeout);
	if (pgconn_send(p->sources, prepare_sql, 1, values, p->config->query_timeout))
		p->sources_ready = true;
}

/*
 * receive_send hands one page over, in a statement and transaction of its own.
 */
static void
receive_send(Pusher *p)
{
	PageOffer offer;
	const char *values[] = {p->config->worker, offer.fetch_id, offer.page, NULL};

	if (!fetches_offer(p->fetches, &offer))
	{
		fetches_refused(p->fetches, "the pusher has not enough memory");
		p->receive_held = monotonic_ms() + HOLD_REFUSED;
		wake_by(p, WAKE_HELD, p->receive_held);
		return;
	}
	values[3] = offer.result;
	/* Before it is sent: a page that cannot be sent counts as one under which the session broke. */
	p->receiving = true;
	pgconn_send(p->sources, fetch_receive_sql, 4, values,
				p->config->receive_timeout + DEADLINE_SLACK);
	free(offer.result);
}

/*
 * sources_event is the handler of the sources' session.
 */
void
sources_event(PgConn *conn, PgEvent event, const PGresult *result, void *arg)
{
	Pusher *p = arg;
	bool receiving = p->receiving;

	switch (event)
	{
		case PG_CONNECTED:
			p->sources_ready = false;
			p->wake[WAKE_SOURCES_IDLE] = monotonic_ms() + IDLE_MOST;
			break;
		case PG_NOTIFIED:
			break;
		case PG_LOST:
			sources_lost(p);
			break;
		case PG_RESULT:
			p->receiving = false;
			p->wake[WAKE_SOURCES_IDLE] = monotonic_ms() + IDLE_MOST;
			if (pgconn_failure(result) != PG_FINE)
				receive_failed(p, result, receiving);
			else if (receiving)
				receive_done(p, result);
			break;
	}
	(void) conn;
}

/*
 * receive_done forgets the page. Whatever the outcome, there may be something to fetch again: the
 * next page, or another fetch of that source.
 */
static void
receive_done(Pusher *p, const PGresult *result)
{
	bool one = PQntuples(result) == 1 && !PQgetisnull(result, 0, 0);

	pgconn_healthy(p->sources);
	fetches_received(p->fetches, one ? PQgetvalue(result, 0, 0) : "(no outcome)");
	p->want_fetch = true;
}

/*
 * receive_failed keeps the page for another try. Any plain ERROR counts as refused, even of a class
 * that elsewhere makes the session anew (cancelled by its time-out, no memory, disk full): it says
 * something about the page, and what it says is handed over in the end.
 */
static void
receive_failed(Pusher *p, const PGresult *result, bool receiving)
{
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	char why[500];

	if (pgconn_ended(result))
	{
		p->receiving = receiving; /* it is lost under the page */
		pgconn_lose(p->sources, PQresultErrorMessage(result));
		return;
	}
	/* The message may hold pieces of the page: it is for the database, not for the log. */
	log_write(LOG_WARN, "statement \"%s\" failed: SQLSTATE %s", receiving ? "receive" : "prepare",
			  pgconn_sqlstate(result));
	p->receive_held = monotonic_ms() + HOLD_CONFLICT;
	if (receiving && pgconn_failure(result) == PG_FAIL_RETRY)
		return;
	if (!receiving || !p->once)
		p->receive_held = monotonic_ms() + HOLD_REFUSED;
	if (!receiving)
	{
		p->sources_ready = false;
		return;
	}
	snprintf(why, sizeof(why), "SQLSTATE %s: %s", pgconn_sqlstate(result), message ? message : "");
	fetches_refused(p->fetches, why);
}

/*
 * sources_lost keeps the pages for the next session, until their leases are over. One under which
 * sessions break time and again, or that libpq cannot send, is not tried that long: it may be what
 * breaks the server.
 */
static void
sources_lost(Pusher *p)
{
	char why[500];

	snprintf(why, sizeof(why), "the connection broke: %s", pgconn_reason(p->sources));
	if (p->receiving)
		fetches_lost(p->fetches, why);
	p->receiving = false;
	p->sources_ready = false;
	p->wake[WAKE_SOURCES_IDLE] = 0;
	if (fetches_held(p->fetches) == 0)
		pgconn_close(p->sources); /* no need to come back now */
	if (p->once && pgconn_failures(p->sources) > ONCE_ATTEMPTS)
	{
		log_write(LOG_ERROR, "the database cannot be reached");
		p->exit_code = EXIT_DATABASE;
		p->done = true;
	}
}

/*
 * sources_rest closes the session if it has nothing to do.
 */
void
sources_rest(Pusher *p)
{
	if (fetches_held(p->fetches) == 0 && pgconn_idle(p->sources))
		pgconn_close(p->sources);
}

/*
 * sources_finished says whether fetches leave nothing to do before the exit.
 */
bool
sources_finished(const Pusher *p)
{
	if (fetches_in_flight(p->fetches) || fetches_held(p->fetches) || p->running == SQL_FETCH)
		return false;
	return p->stopping || !p->fetching || (p->fetches_drained && !p->want_fetch);
}
