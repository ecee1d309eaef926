/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE
#include "driver.h"

#include <poll.h>
#include <time.h>

#include "clock.h"
#include "wake.h"

static struct timespec time_left(int64_t until)
{
	int64_t left = until - clock_now();
	struct timespec t = { 0, 0 };

	if (left > 0) {
		t.tv_sec = (time_t)(left / CLOCK_S);
		t.tv_nsec = (long)(left % CLOCK_S);
	}
	return t;
}

bool driver_sleep(struct pollfd *fds, unsigned count, int64_t until, const sigset_t *mask)
{
	struct timespec left, *limit = NULL;
	int state, n;

	if (until != CLOCK_NEVER) {
		left = time_left(until);
		limit = &left;
	}
	for (unsigned i = 0; i < count; i++)
		fds[i].revents = 0; /* so they stay when a signal comes */
	/* Who is cancelled here would keep what he holds for good. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	n = wake_poll(fds, count, limit, mask);
	pthread_setcancelstate(state, &state);
	return n >= 0;
}

void driver_run(libvchan_t *h, bool (*enough)(const libvchan_t *h))
{
	struct conn_sleep s;
	sigset_t saved;

	/* As in a thread of ours; only while it sleeps may a handler run. */
	signals_block(&saved);
	while (conn_step(h, &s) && !enough(h))
		driver_sleep(s.fds, s.count, s.until, &saved);
	signals_restore(&saved);
}

static bool has_tried(const libvchan_t *h)
{
	return handle_state(h) != CONNECTING;
}

void driver_connect(libvchan_t *h)
{
	driver_run(h, has_tried);
}
