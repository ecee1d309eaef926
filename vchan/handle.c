/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "handle.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

void signals_block(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

void signals_restore(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/* A signal handler that calls exit(), and from there libvchan_close, must not
 * find the allocator locked by the frame that it has stopped. */
static libvchan_t *allocate(void)
{
	sigset_t saved;
	libvchan_t *h;

	signals_block(&saved);
	h = calloc(1, sizeof *h);
	signals_restore(&saved);
	return h;
}

libvchan_t *handle_new(void)
{
	libvchan_t *h = allocate();

	if (!h)
		return NULL;
	h->sock = h->wake = h->timer = h->room_wake = h->plain = h->attempt = -1;
	h->listeners[PLAIN] = h->listeners[FRAMED] = -1;
	for (int i = 0; i < CANDIDATES; i++)
		h->candidates[i].fd = -1;
	h->portion = PORTION;
	h->events.epoll = h->events.eventfd = -1;
	pthread_mutex_init(&h->events.lock, NULL);
	pthread_mutex_init(&h->reading, NULL);
	pthread_mutex_init(&h->draining, NULL);
	return h;
}

/* One send of so much goes through a smaller ring too (the framed wire). */
#define OUT_LEAST ((size_t)128 << 10)

/* Room for a window of payload, and always for the headers between. */
static size_t in_memory(size_t ring)
{
	return (size_t)frame_window((uint32_t)ring) + 1;
}

/* Often there is one of the right size already. */
static int open_ring(struct ring *r, size_t min)
{
	if (r->base && r->size == ring_size_for(min))
		return 0;
	ring_free(r);
	return ring_init(r, min);
}

int handle_open_rings(libvchan_t *h, size_t read_min, size_t write_min)
{
	size_t in = ring_size_for(read_min), out = ring_size_for(write_min);

	if (read_min > RING_MAX || write_min > RING_MAX) {
		errno = EINVAL;
		return -1;
	}
	h->in_size = in;
	h->out_size = out;
	if (open_ring(&h->in, in_memory(in)) < 0)
		return -1;
	return open_ring(&h->out, out < OUT_LEAST ? OUT_LEAST : out);
}

/* The mutexes stay: with the GNU libc there is nothing in them to free, and a
 * frame that exit() has stopped for good may still hold one. */
void handle_free(libvchan_t *h)
{
	sigset_t saved;

	ring_free(&h->in);
	ring_free(&h->out);
	signals_block(&saved);
	free(h);
	signals_restore(&saved);
}
