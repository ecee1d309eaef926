/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection thread.  It sleeps in poll on its eventfd and on the one fd
 * that conn_step names.
 *
 * Nobody pays for waking it while it is awake, or soon will be (conn_sleep's
 * `patient`): else it sets `idle`, looks at the write ring again, then sleeps; a
 * writer puts into the ring, then looks at `idle`.  All four are sequentially
 * consistent, so one sees the other.
 */
#define _GNU_SOURCE
#include "driver.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "conn.h"
#include "fd.h"
#include "life.h"

#define STACK_SIZE (256 << 10) /* it never goes deep */

static void signal_eventfd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof one) < 0) {
		/* Full means readable, which is the aim. */
	}
}

static void clear_eventfd(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof count) < 0) {
		/* EAGAIN: somebody else's wake-up was merged into it. */
	}
}

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

static void poll_until(struct pollfd *fds, unsigned count, int64_t until, const sigset_t *mask)
{
	struct timespec left, *limit = NULL;

	if (until != CLOCK_NEVER) {
		left = time_left(until);
		limit = &left;
	}
	ppoll(fds, count, limit, mask);
}

static void sleep_until(libvchan_t *h, const struct conn_sleep *s)
{
	struct pollfd fds[1 + CONN_FDS] = { { h->wake, POLLIN, 0 } };

	memcpy(fds + 1, s->fds, s->count * sizeof *fds);
	if (!s->patient) {
		/* Only from such a sleep must somebody wake us for new work. */
		atomic_store(&h->idle, true);
		if (conn_has_work(h)) {
			atomic_store(&h->idle, false);
			return;
		}
	}
	poll_until(fds, 1 + s->count, s->until, NULL);
	atomic_store(&h->idle, false);
	if (fds[0].revents)
		clear_eventfd(h->wake);
}

static void *drive(void *handle)
{
	libvchan_t *h = handle;
	struct conn_sleep s;

	while (conn_step(h, &s))
		sleep_until(h, &s);
	return NULL;
}

void driver_connect(libvchan_t *h)
{
	struct conn_sleep s;
	sigset_t saved;

	/* As in the thread; only while it sleeps may a handler run. */
	signals_block(&saved);
	while (conn_step(h, &s) && handle_state(h) == CONNECTING)
		poll_until(s.fds, s.count, s.until, &saved);
	signals_restore(&saved);
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

static int open_eventfd(int *fd)
{
	sigset_t saved;
	int err;

	life_enter(&saved);
	*fd = fd_above_standard(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	err = errno;
	life_leave(&saved);
	errno = err;
	return *fd < 0 ? -1 : 0;
}

int driver_open(libvchan_t *h)
{
	return open_eventfd(&h->wake);
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
	signal_eventfd(h->wake);
	pthread_join(h->thread, NULL);
}

void driver_wake(libvchan_t *h)
{
	if (atomic_exchange(&h->idle, false))
		signal_eventfd(h->wake);
}

void driver_await_peer(libvchan_t *h)
{
	int s;

	while ((s = atomic_load(&h->state)) == WAITING || s == CONNECTING)
		syscall(SYS_futex, &h->state, FUTEX_WAIT_PRIVATE, s, NULL, NULL, 0);
}

void driver_state_changed(libvchan_t *h)
{
	syscall(SYS_futex, &h->state, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

bool driver_ready_writer(libvchan_t *h)
{
	return h->room_wake >= 0 || open_eventfd(&h->room_wake) == 0;
}

void driver_wake_writer(libvchan_t *h)
{
	signal_eventfd(h->room_wake);
}

void driver_writer_woke(libvchan_t *h)
{
	clear_eventfd(h->room_wake);
}
