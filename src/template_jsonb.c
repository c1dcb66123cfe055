/* src/template_jsonb.c */
#include "postgres.h"
