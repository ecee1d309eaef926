/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end that serves.  Each run has a process of its own, so that whatever a driver
 * does, the next one is served.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_case.h"
#include "bench_ends.h"
#include "tool.h"

#define CANNOT_SERVE 3 /* a run's process, whose next one could not either */

static int obey_all(const struct bench_options *options, libvchan_t *control)
{
	struct bench_place place = bench_place(control, options->domain, options->port);
	unsigned char bytes[BENCH_ORDER_SIZE];
	struct bench_order order;
	const char *why;

	for (;;) {
		bench_watch(options);
		if (libvchan_recv(control, bytes, sizeof bytes) < 0)
			return tool_failed("domain %d has gone in the middle of a run",
					   options->domain);
		why = bench_decode_order(bytes, &order);
		if (why)
			return tool_failed("domain %d: %s", options->domain, why);
		if (order.what == BENCH_BYE)
			return TOOL_OK;
		if (bench_obey(&place, &order) < 0)
			return tool_failed("domain %d has gone in the middle of a run",
					   options->domain);
	}
}

static int obey_driver(const struct bench_options *options, libvchan_t *control)
{
	struct bench_hello other;
	const char *why;

	bench_watch(options);
	why = bench_meet(control, &other);
	if (why)
		return tool_failed("domain %d: %s", options->domain, why);
	tool_say("domain %d drives, with vchan-vsock %s on Linux %s", options->domain,
		 other.version, other.kernel);
	return obey_all(options, control);
}

static int serve_run(const struct bench_options *options)
{
	libvchan_t *control = libvchan_server_init(options->domain, options->port, BENCH_RING,
						   BENCH_RING);
	int status;

	if (!control)
		return CANNOT_SERVE;
	tool_say("serves domain %d on port %d", options->domain, options->port);
	while (libvchan_is_open(control) == VCHAN_WAITING)
		libvchan_wait(control);
	status = obey_driver(options, control);
	libvchan_close(control);
	bench_watch_no_more();
	if (status == TOOL_OK)
		tool_say("domain %d has measured", options->domain);
	return status;
}

static int serve_in_child(const struct bench_options *options)
{
	pid_t parent = getpid(), child = fork();
	int status;

	if (child < 0)
		return tool_failed("no process for a run: %s", tool_reason(errno));
	if (child == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
			exit(CANNOT_SERVE);
		exit(serve_run(options));
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return tool_failed("a run's process is lost: %s", tool_reason(errno));
	if (WIFSIGNALED(status))
		return tool_failed("a run was ended by signal %d", WTERMSIG(status));
	return WEXITSTATUS(status) == CANNOT_SERVE ? TOOL_FAILED : TOOL_OK;
}

int bench_serve(const struct bench_options *options)
{
	int status;

	if (options->once) {
		status = serve_run(options);
		return status == CANNOT_SERVE ? TOOL_FAILED : status;
	}
	do
		status = serve_in_child(options);
	while (status == TOOL_OK);
	return status;
}
