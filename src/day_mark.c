/* src/day_mark.c */
#include "postgres.h"
