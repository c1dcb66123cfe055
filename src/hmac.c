/* src/hmac.c */
#include "postgres.h"
