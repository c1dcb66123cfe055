/* src/event_json.c */
#include "postgres.h"
