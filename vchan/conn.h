/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection: how it comes about, how it ends, who is told.
 *
 * conn_step does whatever can be done now, in any state, without blocking, and
 * says what to sleep for; it does not care who calls it, as long as one does
 * (driver.h).  The rest is for callers and may run beside it.
 */
#ifndef VCHAN_CONN_H
#define VCHAN_CONN_H

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

#include "handle.h"

/* So many small writes in a row are a stream: they gather in the ring. */
#define CONN_STREAK 5

/* Both listeners, a plain connection that is held back, the candidates. */
#define CONN_FDS (3 + CANDIDATES)

struct conn_sleep {
	struct pollfd fds[CONN_FDS];
	unsigned count;
	int64_t until; /* ns, CLOCK_NEVER */
	bool patient;  /* what comes into the write ring can wait for that */
};

void conn_watch(struct conn_sleep *s, int fd, short events);

/* The driver.  False: closing, and all is handed over; never call it again. */
bool conn_step(libvchan_t *h, struct conn_sleep *s);
/* The driver, about to sleep: has something come up meanwhile? */
bool conn_has_work(libvchan_t *h);

/* The driver: this connected socket is the peer. */
void conn_established(libvchan_t *h, int sock);
/* The driver: never connected, and never will be. */
void conn_give_up(libvchan_t *h, enum state state, int err);

void conn_raise(libvchan_t *h);

/* A caller found the connection's end.  `tell`: raise the event; false only
 * in libvchan_wait, which is about to report it. */
void conn_ended(libvchan_t *h, bool tell);

/* A caller: send what lies in the write ring, now, in this thread. */
void conn_flush(libvchan_t *h);

/* A writer: block until there may be room for `enough` bytes, or the end. */
void conn_await_room(libvchan_t *h, size_t enough);

/* Whoever receives holds `reading`, and tells afterwards: that data came, and,
 * with conn_received, what the peer said beside it.  `tell`: as above. */
bool conn_may_receive(libvchan_t *h);
void conn_data_came(libvchan_t *h);
void conn_received(libvchan_t *h, bool tell);
void conn_stop_receiving(libvchan_t *h);
/* When the ring was full, or a wait in another thread could not take in what it
 * was told of, the socket may hold data of which no edge will tell: this says so
 * once there is room. */
void conn_tell_of_more(libvchan_t *h);
/* As conn_stop_receiving, but without an event for what is left in the socket. */
void conn_leave_socket(libvchan_t *h);
/* All of that, for a thread that wants room, not data.  False: another thread
 * is receiving. */
bool conn_take_in(libvchan_t *h);

#endif
