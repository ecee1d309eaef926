/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `vchan-vsock bench` measures, and how either end of it does its part. */
#ifndef TOOLS_BENCH_CASE_H
#define TOOLS_BENCH_CASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libvchan.h"
#include "tools/bench_wire.h"

#define BENCH_RING 65536 /* what programs ask for, bytes */
#define BENCH_WHY 256     /* bytes of what is said about a failure */

struct bench_case {
	const char *name;
	enum bench_what what;
	bool inward;
	uint32_t size;
};

extern const struct bench_case bench_cases[];
extern const size_t bench_case_count;

/* Does a name, or one without its last words ("stream", "stream-64"), mean this case? */
bool bench_is_named(const struct bench_case *c, const char *name);

/* Where the channels are that are measured. */
struct bench_place {
	libvchan_t *control;
	int domain;          /* the other one */
	int port;            /* the control channel's */
	bool loopback;
	uint32_t cid, other_cid; /* the other one's; and another that it has, or 0 */
	uint32_t plain_port; /* the first vsock port of plain sockets */
};

/* With the control channel connected. */
struct bench_place bench_place(libvchan_t *control, int domain, int port);

/* The server's part: opens, answers, takes part in the traffic, closes, answers.
 * -1 and errno: the control channel is lost. */
int bench_obey(const struct bench_place *place, const struct bench_order *order);

/* The driver's part. */
enum bench_outcome {
	BENCH_MEASURED,
	BENCH_DIED,   /* the channel did; the control channel works, so go on */
	BENCH_FAILED, /* there is no going on */
};
struct bench_result {
	int64_t ns;    /* measured: on the driver's clock */
	char why[BENCH_WHY]; /* else; "" when the library has said it */
};
enum bench_outcome bench_drive(const struct bench_place *place, const struct bench_order *order,
			       struct bench_result *result);

#endif
