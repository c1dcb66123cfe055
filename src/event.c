/* src/event.c */
#include "postgres.h"
