/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --progress: a line on standard error that is drawn again and again. */
#ifndef TOOLS_STREAM_PROGRESS_H
#define TOOLS_STREAM_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct stream_progress {
	bool shown;       /* at all */
	bool drawn;       /* something stands on the line */
	uint64_t size;    /* what will come or go in all; 0: not known */
	int64_t began, next; /* ns */
};

/* Nothing is shown where standard error is no terminal, unless `always`. */
void progress_begin(struct stream_progress *p, bool wanted, bool always, uint64_t size);
/* When to draw again, if bytes move; CLOCK_NEVER. */
int64_t progress_due(const struct stream_progress *p);
void progress_draw(struct stream_progress *p, uint64_t sent, uint64_t received);
/* The last time, and the line is left. */
void progress_end(struct stream_progress *p, uint64_t sent, uint64_t received);

#endif
