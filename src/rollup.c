/* src/rollup.c */
#include "postgres.h"
