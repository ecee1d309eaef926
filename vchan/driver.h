/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who drives the connection: calls conn_step when there is something to do.
 * That is all in which the two flavours of the library differ:
 *
 *   driver_thread.c  a thread per handle, asleep whenever the caller can do the
 *                    work itself.  libvchan-vsock.
 *   driver_caller.c  the caller, in each of its calls.  libvchan-vsock-simple.
 *   driver.c         what both have.
 */
#ifndef VCHAN_DRIVER_H
#define VCHAN_DRIVER_H

#include "conn.h"

/* Does somebody work while the program does not?  If not, no byte may be left for
 * later that could go now, nor may the peer's questions be waited for. */
extern const bool driver_attends;

/* First of all: -1 with EMFILE, ENFILE, ENOMEM. */
int driver_open(libvchan_t *h);
/* A caller, before driver_start: drive until it is connected, or never will be. */
void driver_connect(libvchan_t *h);
/* -1: ENOMEM, EAGAIN. */
int driver_start(libvchan_t *h);
/* Returns when what was written has been handed over, or linger_until is over. */
void driver_stop(libvchan_t *h);
/* Inside of life_enter: close the driver's fds. */
void driver_close(libvchan_t *h);
/* Whoever is about to close an fd that conn_step may have named. */
void driver_forget(libvchan_t *h, int fd);

/* There is work: wakes the driver, or does it. */
void driver_wake(libvchan_t *h);
/* A caller: there is something for conn_step to do. */
HOT void driver_kick(libvchan_t *h)
{
	if (atomic_load(&h->idle))
		driver_wake(h);
}

/* A caller, as a call begins: do what nobody has done since the last one. */
void driver_catch_up(libvchan_t *h);
HOT void driver_help(libvchan_t *h)
{
	if (!driver_attends && h)
		driver_catch_up(h);
}

/* A caller: block until the state is neither WAITING nor CONNECTING. */
void driver_await_peer(libvchan_t *h);
/* A caller: as events_wait. */
int driver_wait(libvchan_t *h, bool at_once);
/* The receiver, who would wait for input.  True: let it do so in the kernel; false: it
 * has waited, and there may be some. */
bool driver_await_input(libvchan_t *h);
/* The same for the writer, who has more than a ring for the plain wire. */
bool driver_await_output(libvchan_t *h);

/* ---- for the two ---- */

/* Drive, in this thread, until it is enough, or conn_step says that it is all. */
void driver_run(libvchan_t *h, bool (*enough)(const libvchan_t *h));
/* False: interrupted, or the kernel did not look at them. */
bool driver_sleep(struct pollfd *fds, unsigned count, int64_t until, const sigset_t *mask);

#endif
