/* src/rollup_order.c */
#include "postgres.h"
