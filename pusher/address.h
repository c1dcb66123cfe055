/*
 * address.h: which addresses a delivery may not reach without allow_private.
 */
#ifndef PUSHER_ADDRESS_H
#define PUSHER_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

extern bool address_is_private(const struct sockaddr *address);
extern bool address_text_is_private(const char *text);

#endif
