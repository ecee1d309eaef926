/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was measured, for people and for programs. */
#ifndef TOOLS_BENCH_REPORT_H
#define TOOLS_BENCH_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/bench_case.h"
#include "tools/bench_wire.h"

#define BENCH_MOST_ROUNDS 1000

struct bench_row {
	const struct bench_case *c;
	/* A round each, in the case's unit; NAN when the channel died. */
	double figures[BENCH_WAYS][BENCH_MOST_ROUNDS];
	uint32_t counts[BENCH_WAYS]; /* messages in a round */
};

struct bench_report {
	struct bench_hello driver, server;
	uint32_t driver_cid, server_cid;
	int port;
	bool framed;
	unsigned ways;   /* 1: no plain sockets */
	unsigned rounds;
	double seconds;
	struct bench_row *rows;
	size_t row_count;
};

/* What so many messages in so many ns are, in the case's unit. */
double bench_figure(const struct bench_case *c, uint32_t count, int64_t ns);

/* Did each case have a round that went well, over each way? */
bool bench_is_whole(const struct bench_report *report);

/* On standard output. */
void bench_print_json(const struct bench_report *report);
void bench_print_table(const struct bench_report *report);

#endif
