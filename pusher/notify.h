/*
 * notify.h: tells the service manager how the pusher is.
 */
#ifndef PUSHER_NOTIFY_H
#define PUSHER_NOTIFY_H

#include <stdint.h>

extern void notify_send(const char *state);
extern int64_t notify_watchdog_interval(void);

#endif
