/* src/cron.c */
#include "postgres.h"
