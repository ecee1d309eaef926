/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who drives the connection: calls conn_step when there is something to do.
 * Here a thread per handle does (driver_thread.c), asleep whenever the caller
 * can do the work itself.
 */
#ifndef VCHAN_DRIVER_H
#define VCHAN_DRIVER_H

#include "handle.h"

/* First of all: -1 with EMFILE, ENFILE, ENOMEM. */
int driver_open(libvchan_t *h);
/* A caller, before driver_start: drive until it is connected, or never will be. */
void driver_connect(libvchan_t *h);
/* -1: ENOMEM, EAGAIN. */
int driver_start(libvchan_t *h);
/* Returns when what was written has been handed over, or linger_until is over. */
void driver_stop(libvchan_t *h);

/* Ends the driver's sleep, if it is one that somebody has to end. */
void driver_wake(libvchan_t *h);
/* A caller: there is something for conn_step to do. */
HOT void driver_kick(libvchan_t *h)
{
	if (atomic_load(&h->idle))
		driver_wake(h);
}

/* A caller: block until the state is neither WAITING nor CONNECTING. */
void driver_await_peer(libvchan_t *h);
/* Whoever changes the state: wake those callers. */
void driver_state_changed(libvchan_t *h);

/* The writer: there is a room_wake now.  False: no fd is left. */
bool driver_ready_writer(libvchan_t *h);
/* Make room_wake readable, and no more. */
void driver_wake_writer(libvchan_t *h);
void driver_writer_woke(libvchan_t *h);

#endif
