/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Monotonic time in nanoseconds; never 0. */
#ifndef VCHAN_CLOCK_H
#define VCHAN_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CLOCK_US INT64_C(1000)
#define CLOCK_MS INT64_C(1000000)
#define CLOCK_S INT64_C(1000000000)
#define CLOCK_NEVER INT64_MAX

static inline int64_t clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * CLOCK_S + t.tv_nsec + 1;
}

#endif
