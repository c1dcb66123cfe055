/*
 * loop.h: the one poll loop of the pusher.
 */
#ifndef PUSHER_LOOP_H
#define PUSHER_LOOP_H

#include <signal.h>

#include "config.h"

/* What the signal handlers saw; fd becomes readable with each signal. */
typedef struct Signals
{
	volatile sig_atomic_t stops;
	volatile sig_atomic_t reload;
	int fd;
} Signals;

extern int loop_run(Config *config, const CommandLine *cmd, Signals *signals);

#endif
