/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * async_connect SERVER PORT SECONDS: says "Hello" to a server that comes in time, and
 * prints its answer, one line.
 *
 * A connect that does not block.  Its rules:
 *
 *  1. watch_fd becomes readable when the outcome is known, success *or* failure: which of
 *     them, libvchan_client_init_async_finish says.  Poll it for POLLIN; POLLOUT means
 *     nothing.
 *  2. finish may be called early, and may say "not yet" (1) although the fd was readable:
 *     then wait on the same fd again, with what is left of the time.
 *  3. The fd is the library's: never read or close it.
 *  4. Until finish has returned 0 the handle is good for nothing but is_open, which says
 *     VCHAN_WAITING, and for libvchan_close: that is how one gives up.  After -1, for
 *     libvchan_close alone.
 *  5. Afterwards the fd to sleep on is libvchan_fd_for_select's.
 */
#include <errno.h>
#include <libvchan.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "number.h"

static long long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* 0: connected, -1: it failed, or ETIMEDOUT. */
static int await_outcome(libvchan_t *vchan, EVTCHN watch_fd, int seconds)
{
	struct pollfd watch = { watch_fd, POLLIN, 0 };
	long long until = milliseconds() + seconds * 1000LL, left;
	int outcome;

	while ((outcome = libvchan_client_init_async_finish(vchan, true)) > 0) {
		left = until - milliseconds();
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		/* A program with an event loop returns to it here. */
		poll(&watch, 1, left < INT_MAX ? (int)left : INT_MAX);
	}
	return outcome;
}

/* Says hello, and prints the answer up to the end of its line. */
static int greet(libvchan_t *vchan)
{
	char c = 0;

	if (libvchan_write(vchan, "Hello\n", 6) != 6)
		return -1;
	while (c != '\n') {
		if (libvchan_read(vchan, &c, 1) != 1)
			return -1;
		putchar(c);
	}
	return 0;
}

int main(int argc, char **argv)
{
	EVTCHN watch_fd;
	libvchan_t *vchan;
	int status;

	if (argc != 4 || number(argv[3]) < 0)
		return 2;
	vchan = libvchan_client_init_async(number(argv[1]), number(argv[2]), &watch_fd);
	if (!vchan)
		return 1; /* the library has said why, on stderr */
	status = await_outcome(vchan, watch_fd, number(argv[3]));
	if (status == 0)
		status = greet(vchan);
	if (status < 0)
		perror("async_connect");
	libvchan_close(vchan);
	return status < 0 ? 1 : 0;
}
