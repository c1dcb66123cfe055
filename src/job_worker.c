/* src/job_worker.c */
#include "postgres.h"
