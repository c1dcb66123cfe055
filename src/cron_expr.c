/* src/cron_expr.c */
#include "postgres.h"
