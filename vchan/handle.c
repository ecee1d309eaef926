/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "handle.h"

#include <stdlib.h>

libvchan_t *handle_new(void)
{
	libvchan_t *h = calloc(1, sizeof *h);

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
	ring_free(&h->in);
	ring_free(&h->out);
	free(h);
}
