/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "handle.h"

#include <signal.h>
#include <stdlib.h>

/* A signal handler that calls exit(), and from there libvchan_close, must not
 * find the allocator locked by the frame that it has stopped. */
static void block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static libvchan_t *allocate(void)
{
	sigset_t saved;
	libvchan_t *h;

	block_signals(&saved);
	h = calloc(1, sizeof *h);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return h;
}

libvchan_t *handle_new(void)
{
	libvchan_t *h = allocate();

	if (!h)
		return NULL;
	h->sock = h->wake = h->listener = h->attempt = -1;
	h->events.epoll = h->events.eventfd = -1;
	pthread_mutex_init(&h->events.lock, NULL);
	pthread_mutex_init(&h->reading, NULL);
	pthread_mutex_init(&h->draining, NULL);
	return h;
}

/* The mutexes stay: with the GNU libc there is nothing in them to free, and a
 * frame that exit() has stopped for good may still hold one. */
void handle_free(libvchan_t *h)
{
	sigset_t saved;

	ring_free(&h->in);
	ring_free(&h->out);
	block_signals(&saved);
	free(h);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}
