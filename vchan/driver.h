/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who drives the connection: calls conn_step when there is something to do.
 * Here a thread per handle does (driver_thread.c), asleep whenever the caller
 * can do the work itself.
 */
#ifndef VCHAN_DRIVER_H
#define VCHAN_DRIVER_H

#include "handle.h"

/* -1: EMFILE, ENFILE, ENOMEM, EAGAIN. */
int driver_start(libvchan_t *h);
/* Returns when what was written has been handed over, or linger_until is over. */
void driver_stop(libvchan_t *h);

/* A caller: there is something for conn_step to do. */
void driver_kick(libvchan_t *h);

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
