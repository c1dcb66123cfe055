/* src/jsonb_get.c */
#include "postgres.h"
