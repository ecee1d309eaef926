/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two ends of `vchan-vsock bench`, and what both do. */
#ifndef TOOLS_BENCH_ENDS_H
#define TOOLS_BENCH_ENDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libvchan.h"
#include "tools/bench_wire.h"

struct bench_options {
	int domain, port;
	unsigned patience;    /* s */

	bool serve, once;     /* the server's */

	unsigned seconds;     /* the driver's; */
	bool no_plain, json;
	const char **names;   /* of cases; */
	size_t name_count;    /* 0: all */
};

/* Each returns the exit status. */
int bench_serve(const struct bench_options *options);
int bench_measure(const struct bench_options *options);

/* For so long from now on the other side may be silent, whatever call waits for it;
 * then this process ends, with a line and TOOL_FAILED. */
void bench_watch(const struct bench_options *options);
void bench_watch_no_more(void);

/* Says who we are, and hears who the other side is: NULL, or what is wrong with it. */
const char *bench_meet(libvchan_t *control, struct bench_hello *other);

/* On a terminal: a line that the next one replaces; NULL takes it away. */
void bench_show(const char *progress);

#endif
