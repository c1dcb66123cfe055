/*
 * faults.c: preloaded into the pusher to make what cannot be had otherwise: memory that is refused, a
 * statement that libpq cannot send, time that has passed. The environment says which:
 *
 *   FAULT_MEMORY=n      the n-th allocation fails: one of the program's own, or a call of a library
 *                       that answers NULL without memory
 *   FAULT_MEMORY_LOG=f  to that file "n" is appended when the n-th allocation was asked for
 *   FAULT_SEND=n        PQsendQueryParams fails for a fourth parameter of more than n bytes
 *   FAULT_CLOCK=f       while the file is there, the monotonic clock is an hour ahead
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>
#include <jansson.h>
#include <libpq-fe.h>
#include <link.h>

/* glibc's own, under names that this library does not take. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

static long count;
static long fatal = -1;
static uintptr_t program_begin;
static uintptr_t program_end;

/*
 * segment_note remembers where the program itself is mapped; it comes first.
 */
static int
segment_note(struct dl_phdr_info *info, size_t size, void *arg)
{
	int i;

	(void) size;
	(void) arg;
	program_begin = info->dlpi_addr;
	for (i = 0; i < info->dlpi_phnum; i++)
	{
		uintptr_t end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type == PT_LOAD && end > program_end)
			program_end = end;
	}
	return 1;
}

__attribute__((constructor)) static void
begin(void)
{
	const char *text = getenv("FAULT_MEMORY");

	dl_iterate_phdr(segment_note, NULL);
	fatal = text ? atol(text) : -1;
}

/*
 * refused counts an allocation asked for from caller, and says whether it is the one to fail.
 */
static bool
refused(const void *caller)
{
	const char *path;
	int fd;

	if (fatal < 0 || (uintptr_t) caller < program_begin || (uintptr_t) caller >= program_end)
		return false;
	if (++count != fatal)
		return false;
	path = getenv("FAULT_MEMORY_LOG");
	fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
	if (fd >= 0)
	{
		(void) !write(fd, "n", 1);
		close(fd);
	}
	return true;
}

#define HERE	   __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

void *
malloc(size_t size)
{
	return refused(HERE) ? NULL : __libc_malloc(size);
}

void *
calloc(size_t number, size_t size)
{
	return refused(HERE) ? NULL : __libc_calloc(number, size);
}

void *
realloc(void *old, size_t size)
{
	return refused(HERE) ? NULL : __libc_realloc(old, size);
}

char *
strdup(const char *text)
{
	size_t length = strlen(text) + 1;
	char *copy = refused(HERE) ? NULL : __libc_malloc(length);

	return copy ? memcpy(copy, text, length) : NULL;
}

json_t *
json_object(void)
{
	return refused(HERE) ? NULL : REAL(json_object)();
}

json_t *
json_array(void)
{
	return refused(HERE) ? NULL : REAL(json_array)();
}

json_t *
json_string(const char *value)
{
	return refused(HERE) ? NULL : REAL(json_string)(value);
}

json_t *
json_integer(json_int_t value)
{
	return refused(HERE) ? NULL : REAL(json_integer)(value);
}

json_t *
json_loads(const char *text, size_t flags, json_error_t *error)
{
	return refused(HERE) ? NULL : REAL(json_loads)(text, flags, error);
}

json_t *
json_pack(const char *format, ...)
{
	bool refuse = refused(HERE);
	va_list args;
	json_t *value;

	va_start(args, format);
	value = json_vpack_ex(NULL, 0, format, args);
	va_end(args);
	if (!refuse)
		return value;
	json_decref(value);
	return NULL;
}

int
json_array_append_new(json_t *array, json_t *value)
{
	if (refused(HERE))
	{
		json_decref(value);
		return -1;
	}
	return REAL(json_array_append_new)(array, value);
}

int
json_object_set_new(json_t *object, const char *key, json_t *value)
{
	if (refused(HERE))
	{
		json_decref(value);
		return -1;
	}
	return REAL(json_object_set_new)(object, key, value);
}

char *
json_dumps(const json_t *json, size_t flags)
{
	return refused(HERE) ? NULL : REAL(json_dumps)(json, flags);
}

struct curl_slist *
curl_slist_append(struct curl_slist *list, const char *text)
{
	return refused(HERE) ? NULL : REAL(curl_slist_append)(list, text);
}

CURL *
curl_easy_init(void)
{
	return refused(HERE) ? NULL : REAL(curl_easy_init)();
}

PGconn *
PQconnectStartParams(const char *const *keywords, const char *const *values, int expand)
{
	return refused(HERE) ? NULL : REAL(PQconnectStartParams)(keywords, values, expand);
}

int
PQsendQueryParams(PGconn *conn, const char *command, int nparams, const Oid *types,
				  const char *const *values, const int *lengths, const int *formats, int format)
{
	const char *most = getenv("FAULT_SEND");

	if (refused(HERE))
		return 0;
	if (most && nparams == 4 && strlen(values[3]) > strtoul(most, NULL, 10))
		return 0;
	return REAL(PQsendQueryParams)(conn, command, nparams, types, values, lengths, formats, format);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int status = REAL(clock_gettime)(clock, now);
	const char *path = getenv("FAULT_CLOCK");

	if (path && clock == CLOCK_MONOTONIC && access(path, F_OK) == 0)
		now->tv_sec += 3600;
	return status;
}
