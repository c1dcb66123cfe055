/*
 * replay.c
 *		Runs a fuzz target over files, where there is no libFuzzer: each in a buffer of its exact size, so
 *		that the sanitizers see the first byte behind it.
 */
#include <string.h>

#include "fuzz.h"

/* replay runs one file. */
static int
replay(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
	{
		perror(path);
		return 1;
	}
	rewind(file);
	data = malloc(size > 0 ? size : 1);
	if (data == NULL || fread(data, 1, size, file) != (size_t) size)
	{
		perror(path);
		return 1;
	}
	fclose(file);
	(void) LLVMFuzzerTestOneInput(data, size);
	free(data);
	return 0;
}

int
main(int argc, char **argv)
{
	int failed = 0;
	int i;

	for (i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	return failed;
}
