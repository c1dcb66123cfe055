/* src/template_filter.c */
#include "postgres.h"
