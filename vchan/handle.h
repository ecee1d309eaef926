/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handle: who owns which part of it.
 *
 *   reader   the thread in read, recv, data_ready.  Holds `reading`, also
 *            while it sleeps in the kernel.  Owns the read ring.
 *   writer   the thread in write, send, buffer_space.  Puts into the write
 *            ring, without a lock.  May send to the socket itself only while
 *            that ring is empty, which only the writer can change.
 *   drainer  whoever holds `draining`: takes from the write ring and sends.
 *            The connection thread, or a caller that needs it done now.
 *   driver   the connection thread: listener, connecting socket, retries.
 *
 * A caller can be stopped anywhere, for good, by a signal handler that calls
 * exit(); what runs then must find the write ring usable and wait for no lock
 * that the stopped frame holds.  Therefore `draining` is held only with all
 * signals blocked, and a writer that sends directly does so with the write
 * ring empty: there is never a byte of which nobody knows whether it went.
 *
 * States: see libvchan.h.  CONNECTING is a client's WAITING; FAILED, its end.
 *   WAITING -> CONNECTED -> DISCONNECTED, WAITING -> DISCONNECTED
 *   CONNECTING -> CONNECTED -> DISCONNECTED, CONNECTING -> FAILED
 */
#ifndef VCHAN_HANDLE_H
#define VCHAN_HANDLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "events.h"
#include "libvchan.h"
#include "log.h"
#include "ring.h"

enum state { WAITING, CONNECTING, CONNECTED, DISCONNECTED, FAILED };

struct libvchan {
	/* Fixed at init. */
	struct config config;
	struct log log;
	uint32_t peer_cid;  /* whom to connect to, or whom to admit */
	uint32_t own_cid;   /* a second CID to admit, or 0 */
	uint32_t port;      /* the vsock port */
	bool server;

	/* Anybody's. */
	_Atomic int state;         /* enum state; a futex */
	int error;                 /* why it FAILED; set before the state */
	atomic_bool nonblocking;
	atomic_bool finished;      /* not an asynchronous connect, or it is done */
	atomic_bool orphan;        /* a forked child's copy: fds closed, no thread */
	atomic_bool closing;
	int64_t linger_until;      /* ns; set before closing */
	struct events events;
	int sock;                  /* connected; set before the state */

	/* The reader's, under `reading`. */
	pthread_mutex_t reading;
	struct ring in;
	bool eof;                  /* nothing will ever come again */
	bool fresh;                /* wait has just filled the read ring */
	atomic_bool more;          /* the socket may hold what the ring could not */
	atomic_bool taken;         /* data was received since the last wait */
	atomic_bool waiting;       /* a thread is in wait, or about to sleep there */

	/* The writer's. */
	struct ring out;
	_Atomic int streak;        /* small writes in a row, nothing between them */
	int64_t last_write;        /* ns, end of the last direct small one */
	atomic_bool want_room;     /* somebody saw too little */
	atomic_bool sending;       /* it blocks in the kernel; the ring is empty */

	/* The drainer's. */
	pthread_mutex_t draining;
	atomic_bool stalled;       /* the kernel had no room: the thread waits for it */
	atomic_bool starved;       /* its memory is short, not its room: no event tells */
	atomic_bool dead;          /* the kernel takes nothing any more */

	/* The driver's. */
	pthread_t thread;
	int wake;                  /* eventfd */
	atomic_bool idle;          /* the thread sleeps until it is woken */
	int listener;              /* WAITING */
	int attempt;               /* CONNECTING: the socket to connect, or -1 */
	bool trying;               /* its connect is under way */
	int64_t retry_at, retry_after; /* ns */
	int64_t started, missing_since; /* ns; 0: not missing */
	int64_t probe_at;          /* ns */
	bool peer_seen, peer_missing;
	bool gathered;             /* small writes had their moment to gather */

	struct libvchan *next, *prev; /* life.h */
	uint64_t exit_mark;           /* out.put when exit() began */
};

static inline enum state handle_state(libvchan_t *h)
{
	return (enum state)atomic_load(&h->state);
}

/* A handle with no fds, no rings, no thread; NULL/ENOMEM. */
libvchan_t *handle_new(void);
/* Frees all memory; the fds must be closed, the thread gone. */
void handle_free(libvchan_t *h);

/* For tests: a connected handle on any stream socket, which it then owns; all
 * but the addresses and the set-up works without vsock. */
libvchan_t *handle_adopt(int sock, size_t read_min, size_t write_min);

#endif
