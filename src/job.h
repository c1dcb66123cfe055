/*
 * job.h
 *		What the launching backend hands to the background worker of a run.
 */
#ifndef ECSTATS_JOB_H
#define ECSTATS_JOB_H

#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"

/*
 * Travels in bgw_extra. It says which claim the worker is for and nothing of what to do: the worker
 * reads that from ecstats.job_runs, and gives up unless the run is still under this very claim.
 */
typedef struct JobWorkerArg
{
	int64 run_id;
	TimestampTz claimed_at; /* the claim's mark: a run that was given back has another one */
	Oid database;
	Oid role;	/* the job's owner, whom the worker logs in as */
	bool chain; /* launch a waiting run when done; no ticker waits for this one */
} JobWorkerArg;

extern List *ecstats_job_parse(const char *command);

#endif /* ECSTATS_JOB_H */
