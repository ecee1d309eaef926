/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE
#include "wake.h"

#include <errno.h>

#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "life.h"

int wake_open(int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	*fd = fd_above_standard(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	life_leave(&saved);
	return *fd < 0 ? -1 : 0;
}

void wake_signal(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof one) < 0) {
		/* Full means readable, which is the aim. */
	}
}

void wake_clear(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof count) < 0) {
		/* EAGAIN: somebody else's wake-up was merged into it. */
	}
}

int wake_poll(struct pollfd *fds, unsigned count, const struct timespec *limit,
	      const sigset_t *mask)
{
	const struct timespec moment = { 0, CLOCK_MS };
	int n = ppoll(fds, count, limit, mask);

	if (n < 0 && errno != EINTR)
		ppoll(NULL, 0, &moment, mask);
	return n;
}

void wake_await_change(_Atomic int *word, int seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

void wake_changed(_Atomic int *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
