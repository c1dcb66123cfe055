/* src/order.c */
#include "postgres.h"
