/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection thread.  It sleeps in poll on its eventfd and on the one fd
 * that conn_step names.
 *
 * Nobody pays for waking it while it is awake, or soon will be (conn_sleep's
 * `patient`): else it sets `idle`, looks at the write ring again, then sleeps; a
 * writer puts into the ring, then looks at `idle`.  All four are sequentially
 * consistent, so one sees the other (tests/model/idle.pml).
 */
#include "driver.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "life.h"
#include "wake.h"

#define STACK_SIZE (256 << 10) /* it never goes deep */

const bool driver_attends = true;

static void sleep_until(libvchan_t *h, const struct conn_sleep *s)
{
	struct pollfd fds[1 + CONN_FDS] = { { h->wake, POLLIN, 0 } };

	memcpy(fds + 1, s->fds, s->count * sizeof *fds);
	if (!s->patient) {
		/* Only from such a sleep must somebody wake us for new work. */
		atomic_store(&h->idle, true);
		if (conn_has_work(h, s)) {
			atomic_store(&h->idle, false);
			return;
		}
	}
	driver_sleep(fds, 1 + s->count, s->until, NULL);
	atomic_store(&h->idle, false);
	if (fds[0].revents)
		wake_clear(h->wake);
}

static void *drive(void *handle)
{
	libvchan_t *h = handle;
	struct conn_sleep s;

	while (conn_step(h, &s))
		sleep_until(h, &s);
	return NULL;
}

static int create_thread(libvchan_t *h)
{
	pthread_attr_t attr;
	sigset_t saved;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	signals_block(&saved);
	err = pthread_create(&h->thread, &attr, drive, h);
	if (err == EINVAL) /* the program's thread-local data is larger */
		err = pthread_create(&h->thread, NULL, drive, h);
	signals_restore(&saved);
	pthread_attr_destroy(&attr);
	return err;
}

int driver_open(libvchan_t *h)
{
	return wake_open(&h->wake);
}

int driver_start(libvchan_t *h)
{
	int err = create_thread(h);

	errno = err;
	return err ? -1 : 0;
}

void driver_stop(libvchan_t *h)
{
	atomic_store(&h->closing, true);
	wake_signal(h->wake);
	pthread_join(h->thread, NULL);
}

void driver_close(libvchan_t *h)
{
	life_close(&h->wake);
}

void driver_forget(libvchan_t *h, int fd)
{
	/* The thread itself closes them, and names them no more. */
	(void)h;
	(void)fd;
}

void driver_wake(libvchan_t *h)
{
	if (atomic_exchange(&h->idle, false))
		wake_signal(h->wake);
}

void driver_catch_up(libvchan_t *h)
{
	(void)h; /* the thread has */
}

void driver_await_peer(libvchan_t *h)
{
	enum state s;

	while ((s = handle_state(h)) == WAITING || s == CONNECTING)
		wake_await_change(&h->state, s);
}

int driver_wait(libvchan_t *h, bool at_once)
{
	return events_wait(&h->events, at_once);
}

bool driver_await_input(libvchan_t *h)
{
	(void)h;
	return true;
}

bool driver_await_output(libvchan_t *h)
{
	(void)h;
	return true;
}
