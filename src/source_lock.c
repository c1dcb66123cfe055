/*
 * source_lock.c
 *		Session-level advisory locks that the query of a source took: they would outlive its transaction
 *		and its error, in a session that is not its own.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/elog.h"
#include "utils/guc.h"

#include "compat.h"
#include "source.h"

/* An advisory lock, in one mode. */
typedef struct HeldLock
{
	LOCKTAG tag;
	LOCKMODE mode;
	int64 times; /* that the session took it, not the transaction */
} HeldLock;

struct SourceLocks
{
	int n;
	HeldLock *locks;
};

/*
 * session_times counts how often the session holds a lock that it holds, by the transaction or the
 * session. Only taking it once more, which never waits, shows what the session knows of it.
 */
static int64
session_times(const LOCKTAG *tag, LOCKMODE mode)
{
	LOCALLOCK *local = NULL;
	int64 times = 0;
	int i;

	(void) ecstats_lock_again(tag, mode, &local);
	for (i = 0; local != NULL && i < local->numLockOwners; i++)
	{
		if (local->lockOwners[i].owner == NULL)
			times = local->lockOwners[i].nLocks - 1;
	}
	(void) LockRelease(tag, mode, true);
	return times;
}

/*
 * ecstats_source_locks lists the advisory locks that this session holds.
 */
SourceLocks *
ecstats_source_locks(void)
{
	SourceLocks *held = palloc0(sizeof(SourceLocks));
	LockData *data = GetLockStatusData();
	int most = 16;
	int i;
	LOCKMODE mode;

	held->locks = palloc(sizeof(HeldLock) * most);
	for (i = 0; i < data->nelements; i++)
	{
		const LockInstanceData *lock = &data->locks[i];

		if (lock->pid != MyProcPid || lock->locktag.locktag_lockmethodid != USER_LOCKMETHOD)
			continue;
		for (mode = 1; mode < MAX_LOCKMODES; mode++)
		{
			if ((lock->holdMask & LOCKBIT_ON(mode)) == 0)
				continue;
			if (held->n == most)
				held->locks = repalloc(held->locks, sizeof(HeldLock) * (most *= 2));
			held->locks[held->n].tag = lock->locktag;
			held->locks[held->n].mode = mode;
			held->locks[held->n].times = session_times(&lock->locktag, mode);
			held->n++;
		}
	}
	return held;
}

/*
 * times_before says how often a lock was held before.
 */
static int64
times_before(const SourceLocks *before, const HeldLock *lock)
{
	int i;

	for (i = 0; i < before->n; i++)
	{
		if (before->locks[i].mode == lock->mode &&
			memcmp(&before->locks[i].tag, &lock->tag, sizeof(LOCKTAG)) == 0)
			return before->locks[i].times;
	}
	return 0;
}

/*
 * ecstats_source_unlock releases what the session has taken since, as often as it did; the
 * transaction's own have gone with the subtransaction.
 */
void
ecstats_source_unlock(SourceLocks *before)
{
	SourceLocks *now = ecstats_source_locks();
	int i;

	for (i = 0; i < now->n; i++)
	{
		HeldLock *lock = &now->locks[i];
		int64 more = lock->times - times_before(before, lock);

		for (; more > 0; more--)
			(void) LockRelease(&lock->tag, lock->mode, true);
	}
}
