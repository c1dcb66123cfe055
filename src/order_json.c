/* src/order_json.c */
#include "postgres.h"
