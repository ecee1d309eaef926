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

#include <stdint.h>
#include <sys/types.h>

#include "handle.h"

/* So many small writes in a row are a stream: they gather in the ring. */
#define CONN_STREAK 5

struct conn_sleep {
	int fd;        /* -1: none */
	short events;  /* for poll */
	int64_t until; /* ns, CLOCK_NEVER */
};

/* Open what cannot wait, so that its errors show at once: the listener of a
 * server, the first socket of a client.  -1 and errno. */
int conn_listen(libvchan_t *h, uint32_t cid);
int conn_prepare(libvchan_t *h);

/* The driver.  False: closing, and all is handed over; never call it again. */
bool conn_step(libvchan_t *h, struct conn_sleep *s);
/* The driver, about to sleep: is there something in the ring to send? */
bool conn_has_work(libvchan_t *h);

/* For tests too: this connected socket is the peer. */
void conn_established(libvchan_t *h, int sock);

/* A caller found the connection's end.  `tell`: raise the event; false only
 * in libvchan_wait, which is about to report it. */
void conn_ended(libvchan_t *h, bool tell);

/* A caller: send what lies in the write ring, now, in this thread. */
void conn_flush(libvchan_t *h);

#endif
