/* src/rollup_event.c */
#include "postgres.h"
