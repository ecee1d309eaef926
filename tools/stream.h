/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel joined to standard input and output, or to a command's.
 *
 * Two directions, a buffer each, and one loop that sleeps in poll on the channel, the
 * input, the output and the signals.  A direction whose buffer is full reads no more,
 * so whoever writes faster than the other end reads is held up.
 *
 * The end.  A channel has no half-close, so "I send nothing more" cannot be said, only
 * "I am gone".  Hence:
 *   - Where the input has ended, all of it is delivered; then the peer may still speak.
 *     We close when it has been silent for a while (--linger).
 *   - With no input at all (/dev/null, closed, --recv-only) we never close first.
 *   - The peer's end: what it had sent is written out, and that is the end.
 *   - A command closes the channel by ending (and its standard output with it).
 */
#ifndef TOOLS_STREAM_H
#define TOOLS_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libvchan.h"

struct stream_plan {
	const char *exec;   /* NULL: standard input and output */
	bool send_only;     /* what comes is thrown away */
	bool recv_only;     /* the input is left alone */
	int64_t linger;     /* ns; CLOCK_NEVER */
	bool progress, progress_always;
	uint64_t size;      /* in all; 0: not known */
};

struct stream_input {
	int fd;         /* -1: none */
	off_t start;    /* of a file, which each peer gets from here on; else -1 */
	bool ended;
	bool broken;    /* it, or standard output: no peer can be served any more */
};

/* Before anything else is opened: 0, 1 and 2 are taken afterwards, by /dev/null where
 * they were closed. */
void stream_open_input(struct stream_input *input, const struct stream_plan *plan);

/* Until the end; returns the exit status, which was said why.  After a signal
 * (stop_signal) it is for the caller to die of it. */
int stream_run(libvchan_t *vchan, const struct stream_plan *plan, struct stream_input *input,
	       int stop_fd);

#endif
