/* src/job.c */
#include "postgres.h"
