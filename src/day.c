/* src/day.c */
#include "postgres.h"
void ecstats_day_init(void);void ecstats_day_init(void){}
void ecstats_day_mark_init(void);void ecstats_day_mark_init(void){}
