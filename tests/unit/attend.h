/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Somebody who works while a test does not, for the flavour of the library where
 * only calls do: a program that sleeps on a handle's fd and makes a call when that
 * is readable, in a thread of its own.  With the other flavour there is nobody.
 */
#ifndef ATTEND_H
#define ATTEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "libvchan.h"
#include "vchan/driver.h"

struct attendant {
	libvchan_t *chan;
	pthread_t thread;
	atomic_bool dismissed;
	int epoll;
};

static void *attend_on(void *attendant)
{
	struct attendant *a = attendant;
	struct epoll_event ev;

	/* Edge-triggered: he never clears the fd, which is for libvchan_wait. */
	while (!atomic_load(&a->dismissed))
		if (epoll_wait(a->epoll, &ev, 1, 10) > 0)
			libvchan_is_open(a->chan);
	return NULL;
}

static inline void attend(struct attendant *a, libvchan_t *chan)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	if (driver_attends)
		return;
	a->chan = chan;
	atomic_store(&a->dismissed, false);
	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(epoll_ctl(a->epoll, EPOLL_CTL_ADD, libvchan_fd_for_select(chan), &ev), 0);
	assert_int_equal(pthread_create(&a->thread, NULL, attend_on, a), 0);
}

static inline void dismiss(struct attendant *a)
{
	if (driver_attends)
		return;
	atomic_store(&a->dismissed, true);
	pthread_join(a->thread, NULL);
	close(a->epoll);
}

/* What a writer does that ends then: it stays until all has been handed over. */
static inline void hand_over(libvchan_t *chan)
{
	while (!driver_attends && wire_unsent(chan)) {
		libvchan_is_open(chan);
		usleep(1000);
	}
}

#endif
