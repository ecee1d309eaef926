/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench_ends.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/tool.h"

/* What the watch says; written before it begins. */
static char late[256];

static void too_late(int signal_number)
{
	(void)signal_number;
	if (write(STDERR_FILENO, late, strlen(late)) < 0)
		_exit(TOOL_FAILED);
	/* Not exit, which would wait for the other side to take what was written. */
	_exit(TOOL_FAILED);
}

void bench_watch(const struct bench_options *options)
{
	struct sigaction action = { .sa_handler = too_late };

	alarm(0);
	snprintf(late, sizeof late, "%svchan-vsock bench: domain %d has been silent for %u s\n",
		 isatty(STDERR_FILENO) ? "\r\033[K" : "", options->domain, options->patience);
	sigaction(SIGALRM, &action, NULL);
	alarm(options->patience);
}

void bench_watch_no_more(void)
{
	alarm(0);
}

const char *bench_meet(libvchan_t *control, struct bench_hello *other)
{
	unsigned char bytes[BENCH_HELLO_SIZE];
	struct bench_hello own;
	const char *why;

	bench_own_hello(&own);
	bench_encode_hello(&own, bytes);
	if (libvchan_send(control, bytes, sizeof bytes) < 0 ||
	    libvchan_recv(control, bytes, BENCH_PREFIX_SIZE) < 0)
		return "it has gone";
	why = bench_decode_prefix(bytes);
	if (why)
		return why;
	if (libvchan_recv(control, bytes + BENCH_PREFIX_SIZE,
			  BENCH_HELLO_SIZE - BENCH_PREFIX_SIZE) < 0)
		return "it has gone";
	return bench_decode_hello(bytes, other);
}

void bench_show(const char *progress)
{
	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[K%s", progress ? progress : "");
	fflush(stderr);
}
