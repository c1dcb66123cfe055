/*
 * loop.c: the one poll loop: database, requests, signals, and the deadlines of all of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "loop.h"
#include "notify.h"
#include "session.h"
#include "source.h"
#include "text.h"

#define FDS_FIRST 64
#define FDS_OWN	  4 /* database, ticker, sources, signals */

static void pusher_init(Pusher *p, Config *config, const CommandLine *cmd, Signals *signals);
static void pusher_configure(Pusher *p);
static void signals_take(Pusher *p);
static void pusher_reload(Pusher *p);
static int requests_open(const Pusher *p);
static int outcomes_held(const Pusher *p);
static void deadlines_look(Pusher *p);
static void wakes_expire(Pusher *p);
static bool wake_due(Pusher *p, Wake wake, int64_t now);
static int wakes_nearest(Pusher *p);
static bool pusher_finished(const Pusher *p);
static bool fds_reserve(Pusher *p, int room);
static void loop_poll(Pusher *p);

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
		sources_next(&p);
		ticker_next(&p);
		if (p.done || pusher_finished(&p))
			break;
		loop_poll(&p);
	}

	if (requests_open(&p) || outcomes_held(&p))
	{
		log_write(LOG_ERROR, "given up: %d requests without an answer, %d outcomes not settled",
				  requests_open(&p), outcomes_held(&p));
		if (p.exit_code == EXIT_SUCCESS)
			p.exit_code = EXIT_DATABASE;
	}
	if (p.once && deliveries_dropped(p.deliveries) + fetches_dropped(p.fetches) > 0)
		p.exit_code = EXIT_DATABASE;
	log_write(LOG_INFO, "stopped");
	http_free(p.http);
	deliveries_free(p.deliveries);
	fetches_free(p.fetches);
	pgconn_free(p.sources);
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
	p->fetches = fetches_create(p->http);
	p->sources = pgconn_create("sources", sources_event, p);
	p->fds_room = FDS_FIRST;
	p->fds = log_need(calloc(p->fds_room, sizeof(struct pollfd)));
	p->wake[WAKE_BEAT] = monotonic_ms();
	if (watchdog)
		p->wake[WAKE_WATCHDOG] = monotonic_ms();
	pusher_configure(p);
	log_write(LOG_INFO, "ecstats-pusher %s, worker %s, dsn \"%s\"", PUSHER_VERSION, config->worker,
			  shown ? shown : "");
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
	pgconn_configure(p->sources, &database);
	p->sources_ready = false;
	http_configure(p->http, &http);
	fetches_configure(p->fetches, c->max_fetch);
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
				  requests_open(p), outcomes_held(p));
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
	p->want_claim = p->want_fetch = true;
	log_write(LOG_INFO, "settings reloaded");
}

/*
 * requests_open counts the requests without an answer.
 */
static int
requests_open(const Pusher *p)
{
	return deliveries_in_flight(p->deliveries) + fetches_in_flight(p->fetches);
}

/*
 * outcomes_held counts the answers that the database has not taken yet.
 */
static int
outcomes_held(const Pusher *p)
{
	return deliveries_unsettled(p->deliveries) + fetches_held(p->fetches);
}

/*
 * deadlines_look notes the deadlines that the parts keep themselves.
 */
static void
deadlines_look(Pusher *p)
{
	p->wake[WAKE_DATABASE] = pgconn_deadline(p->db);
	p->wake[WAKE_TICKER] = p->ticker ? pgconn_deadline(p->ticker) : 0;
	p->wake[WAKE_SOURCES] = pgconn_deadline(p->sources);
	p->wake[WAKE_CURL] = http_deadline(p->http);
}

/*
 * wakes_expire acts on the deadlines that have passed.
 */
static void
wakes_expire(Pusher *p)
{
	int64_t now = monotonic_ms();

	deadlines_look(p);

	if (wake_due(p, WAKE_DRAIN, now))
	{
		p->done = true;
		return;
	}
	if (wake_due(p, WAKE_POLL, now))
		p->want_claim = p->want_fetch = true;
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
	if (wake_due(p, WAKE_SOURCES, now))
		pgconn_expire(p->sources);
	if (wake_due(p, WAKE_SOURCES_IDLE, now))
		sources_rest(p);
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

	deadlines_look(p);
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
void
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
	if (deliveries_in_flight(p->deliveries) || deliveries_unsettled(p->deliveries) ||
		!sources_finished(p))
		return false;
	/* A claim under way may bring rows, which then have to go out. */
	if (p->running == SQL_CLAIM || (p->ticker && pgconn_busy(p->ticker)))
		return false;
	return p->stopping || (p->once && p->drained && !p->want_claim);
}

/*
 * fds_reserve makes room for so many descriptors; false without memory.
 */
static bool
fds_reserve(Pusher *p, int room)
{
	struct pollfd *fds;

	if (room <= p->fds_room)
		return true;
	fds = realloc(p->fds, room * 2 * sizeof(struct pollfd));
	if (fds == NULL)
		return false;
	p->fds = fds;
	p->fds_room = room * 2;
	return true;
}

/*
 * loop_poll sleeps until something happens and lets its owner see to it.
 */
static void
loop_poll(Pusher *p)
{
	int nsockets = http_sockets(p->http);
	int n;
	int db = -1;
	int ticker = -1;
	int sources = -1;
	int signal_pipe;
	int i;
	char drain[64];

	/* Without memory for all sockets some wait until others are done. */
	if (!fds_reserve(p, nsockets + FDS_OWN))
		nsockets = p->fds_room - FDS_OWN;
	n = nsockets;
	http_pollfds(p->http, p->fds, nsockets);
	if (pgconn_pollfd(p->db, &p->fds[n]))
		db = n++;
	if (p->ticker && pgconn_pollfd(p->ticker, &p->fds[n]))
		ticker = n++;
	if (pgconn_pollfd(p->sources, &p->fds[n]))
		sources = n++;
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
	if (sources >= 0)
		pgconn_pump(p->sources, p->fds[sources].revents);
}
