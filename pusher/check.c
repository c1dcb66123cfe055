/*
 * check.c: --check: connects, compares versions, and asks for the rights the pusher needs.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pgconn.h"
#include "text.h"

static const char check_sql[] =
	"SELECT f, COALESCE(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f), "
	"'EXECUTE'),"
	" false), pg_catalog.to_regprocedure(f) IS NOT NULL FROM pg_catalog.unnest(ARRAY["
	"'ecstats.delivery_claim(text,integer)', 'ecstats.delivery_settle(text,jsonb)',"
	" 'ecstats.pusher_beat(text)']) AS f";

/* Only a database with sources has these. */
static const char check_source_sql[] =
	"SELECT f, COALESCE(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f), "
	"'EXECUTE'), pg_catalog.to_regprocedure('ecstats.source_claim(text,integer)') IS NULL),"
	" pg_catalog.to_regprocedure(f) IS NOT NULL FROM pg_catalog.unnest(ARRAY["
	"'ecstats.source_claim(text,integer)',"
	" 'ecstats.source_receive(text,bigint,integer,jsonb)']) AS f";

static const char check_tick_sql[] =
	"SELECT 'ecstats_tick', COALESCE(pg_catalog.has_function_privilege("
	"pg_catalog.to_regproc('ecstats_tick'), 'EXECUTE'), false),"
	" pg_catalog.to_regproc('ecstats_tick') IS NOT NULL";

static PGconn *check_connect(const Config *config);
static int check_version(PGconn *pq);
static bool check_rights(PGconn *pq, const char *sql);

/*
 * version_fits compares an extension's "major.minor" with ours, as numbers. *older is set when its
 * minor version is less than ours.
 */
bool
version_fits(const char *version, bool *older)
{
	int major;
	int minor;

	*older = false;
	if (sscanf(version, "%d.%d", &major, &minor) != 2 || major != PUSHER_MAJOR)
		return false;
	*older = minor < PUSHER_MINOR;
	return true;
}

/*
 * check_run prints one line for each thing checked and returns the exit code.
 */
int
check_run(const Config *config)
{
	PGconn *pq = check_connect(config);
	int code = EXIT_DATABASE;

	if (pq == NULL)
		return EXIT_DATABASE;
	code = check_version(pq);
	if (code == EXIT_SUCCESS)
	{
		if (!check_rights(pq, check_sql))
			code = EXIT_DATABASE;
		if (!check_rights(pq, check_source_sql))
			code = EXIT_DATABASE;
		if (config->tick && !check_rights(pq, check_tick_sql))
			code = EXIT_DATABASE;
	}
	PQfinish(pq);
	return code;
}

/*
 * check_connect waits for a connection; NULL after it has said why there is none.
 */
static PGconn *
check_connect(const Config *config)
{
	PgSettings settings = {config->dsn, config->connect_timeout, config->reconnect_max};
	PGconn *pq = pgconn_connect_start(&settings);
	int64_t deadline = monotonic_ms() + config->connect_timeout;
	PostgresPollingStatusType step = PGRES_POLLING_WRITING;

	while (PQstatus(pq) != CONNECTION_BAD && step != PGRES_POLLING_OK &&
		   step != PGRES_POLLING_FAILED)
	{
		struct pollfd fd = {.fd = PQsocket(pq),
							.events = step == PGRES_POLLING_READING ? POLLIN : POLLOUT};
		int64_t left = deadline - monotonic_ms();

		if (left <= 0 || poll(&fd, 1, (int) left) == 0)
		{
			printf("failed  connection: timed out\n");
			PQfinish(pq);
			return NULL;
		}
		step = PQconnectPoll(pq);
	}
	if (PQstatus(pq) != CONNECTION_OK)
	{
		printf("failed  connection: %s", PQerrorMessage(pq));
		PQfinish(pq);
		return NULL;
	}
	printf("ok      connection: database %s on %s port %s as %s\n", PQdb(pq), PQhost(pq),
		   PQport(pq), PQuser(pq));
	return pq;
}

/*
 * check_version prints whether the extension fits.
 */
static int
check_version(PGconn *pq)
{
	PGresult *result = PQexec(pq, "SELECT ecstats_version()");
	int code = EXIT_SUCCESS;
	bool older;

	if (pgconn_failure(result) != PG_FINE)
	{
		printf("failed  version: %s", PQresultErrorMessage(result));
		printf(
			"        is the extension created in this database, in a schema of the search_path,\n"
			"        and has this role the profile pusher (ecstats_grant)?\n");
		code = EXIT_DATABASE;
	}
	else if (!version_fits(PQgetvalue(result, 0, 0), &older))
	{
		printf("failed  version: the extension is %s, this pusher needs %d.%d or a later %d.x\n",
			   PQgetvalue(result, 0, 0), PUSHER_MAJOR, PUSHER_MINOR, PUSHER_MAJOR);
		code = EXIT_VERSION;
	}
	else
		printf("ok      version: extension %s, pusher %s\n", PQgetvalue(result, 0, 0),
			   PUSHER_VERSION);
	PQclear(result);
	return code;
}

/*
 * check_rights prints for each function whether it is there and may be called.
 */
static bool
check_rights(PGconn *pq, const char *sql)
{
	PGresult *result = PQexec(pq, sql);
	bool all = true;
	int row;

	if (pgconn_failure(result) != PG_FINE)
	{
		printf("failed  rights: %s", PQresultErrorMessage(result));
		PQclear(result);
		return false;
	}
	for (row = 0; row < PQntuples(result); row++)
	{
		bool may = PQgetvalue(result, row, 1)[0] == 't';
		bool exists = PQgetvalue(result, row, 2)[0] == 't';

		printf("%s  %s%s\n",
			   !may		? "failed"
			   : exists ? "ok    "
						: "off   ",
			   PQgetvalue(result, row, 0),
			   may		? exists ? "" : ": no such function in this older extension, no fetches"
			   : exists ? ": this role may not call it (ecstats_grant, profile pusher)"
						: ": no such function");
		all = all && may;
	}
	PQclear(result);
	return all;
}
