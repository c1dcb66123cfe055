/*
 * hmac.c
 *		HMAC-SHA256 for the signatures of outgoing requests, on the server's own implementation.
 */
#include "postgres.h"

#include "common/hmac.h"
#include "common/sha2.h"
#include "fmgr.h"

#include "compat.h"
#include "ecstats.h"

PG_FUNCTION_INFO_V1(ecstats_hmac_sha256);

/*
 * ecstats_hmac_sha256 returns HMAC-SHA256 of message (argument 1) under key (argument 0), 32 bytes.
 * Either may be empty: Feishu signs an empty message. The context is freed before an error is
 * raised, because its memory lives longer than the call.
 */
Datum
ecstats_hmac_sha256(PG_FUNCTION_ARGS)
{
	bytea *key = PG_GETARG_BYTEA_PP(0);
	bytea *message = PG_GETARG_BYTEA_PP(1);
	bytea *result = (bytea *) palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	pg_hmac_ctx *ctx = pg_hmac_create(PG_SHA256);

	if (ctx == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));

	SET_VARSIZE(result, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	if (pg_hmac_init(ctx, (const uint8 *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) < 0 ||
		pg_hmac_update(ctx, (const uint8 *) VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message)) < 0 ||
		pg_hmac_final(ctx, (uint8 *) VARDATA(result), PG_SHA256_DIGEST_LENGTH) < 0)
	{
		char *reason = pstrdup(ecstats_hmac_reason(ctx));

		pg_hmac_free(ctx);
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not compute HMAC-SHA256: %s", reason)));
	}
	pg_hmac_free(ctx);
	PG_RETURN_BYTEA_P(result);
}
