/* src/template.c */
#include "postgres.h"
