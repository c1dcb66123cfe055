/*
 * event_days.c
 *		Which recent days of a payload have no partition yet. Asked by each call of the intake: where all
 *		are there, it looks into caches only.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "ecstats.h"
#include "event.h"
#include "jsonb_get.h"

#define DAYS_BACK  7 /* the intake makes partitions for the days from here to tomorrow */
#define DAYS_AHEAD 1
#define N_DAYS	   (DAYS_BACK + 1 + DAYS_AHEAD)

PG_FUNCTION_INFO_V1(ecstats_event_days_wanted);

/*
 * name_taken tells whether there is a table of the name that ecstats.day_partition_name gives to a day's
 * partition. One that somebody has detached counts: as long as it is there, no partition can be made.
 */
static bool
name_taken(DateADT day, Oid schema)
{
	char name[NAMEDATALEN];
	int year, month, dom;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &dom);
	snprintf(name, sizeof(name), "events_%04d%02d%02d", year, month, dom);
	return OidIsValid(get_relname_relid(name, schema));
}

/*
 * days_missing returns the set of days, bit 0 being the first, whose partition could be made.
 */
static uint32
days_missing(DateADT first)
{
	Oid schema = get_namespace_oid("ecstats", false);
	uint32 missing = 0;
	int i;

	for (i = 0; i < N_DAYS; i++)
	{
		if (!name_taken(first + i, schema))
			missing |= (uint32) 1 << i;
	}
	return missing;
}

/*
 * element_time reads the time of an element, whatever else is wrong with it; false where it has none.
 */
static bool
element_time(const JsonbValue *element, TimestampTz *ts)
{
	EcstatsFault fault = {0};
	JsonbValue buffer;
	JsonbValue *value;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		return false;
	value = getKeyJsonValueFromContainer(element->val.binary.data, "timestamp", strlen("timestamp"),
										 &buffer);
	return value != NULL && ecstats_json_instant(value, "timestamp", ts, &fault);
}

/*
 * days_of_payload returns those of the missing days that elements belong to.
 */
static uint32
days_of_payload(Jsonb *payload, DateADT first, uint32 missing)
{
	EcstatsElements elements = ecstats_json_elements(payload, EVENT_PAYLOAD_MAX, "events");
	TimestampTz from = ecstats_day_start(first);
	TimestampTz to = ecstats_day_start(first + N_DAYS);
	MemoryContext per_element =
		AllocSetContextCreate(CurrentMemoryContext, "ecstats event", ALLOCSET_SMALL_SIZES);
	uint32 wanted = 0;
	JsonbValue element;
	TimestampTz ts;

	while (wanted != missing && ecstats_json_next_element(&elements, &element))
	{
		MemoryContext old = MemoryContextSwitchTo(per_element);

		CHECK_FOR_INTERRUPTS();
		if (element_time(&element, &ts) && ts >= from && ts < to)
			wanted |= missing & ((uint32) 1 << (ecstats_day_of(ts) - first));
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_element);
	}
	MemoryContextDelete(per_element);
	return wanted;
}

/*
 * ecstats_event_days_wanted(payload jsonb, at timestamptz) returns, as an ascending date[], the business
 * days of a payload's elements from 7 before at's to the one after it that have no partition; NULL where
 * there are none. The payload is not looked at where every such day has its partition.
 */
Datum
ecstats_event_days_wanted(PG_FUNCTION_ARGS)
{
	DateADT first = ecstats_day_of(PG_GETARG_TIMESTAMPTZ(1)) - DAYS_BACK;
	uint32 missing = days_missing(first);
	uint32 wanted = 0;
	Datum days[N_DAYS];
	int n = 0;
	int i;

	if (missing != 0)
		wanted = days_of_payload(PG_GETARG_JSONB_P(0), first, missing);
	if (wanted == 0)
		PG_RETURN_NULL();
	for (i = 0; i < N_DAYS; i++)
	{
		if (wanted & ((uint32) 1 << i))
			days[n++] = DateADTGetDatum(first + i);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(days, n, DATEOID, sizeof(DateADT), true, TYPALIGN_INT));
}
