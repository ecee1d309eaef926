/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where bytes go to that the peer has sent.  A write must not block: the other
 * direction goes on meanwhile.  But O_NONBLOCK on standard output is everybody's who
 * has the same terminal or pipe open, so it is not touched.
 */
#ifndef TOOLS_STREAM_SINK_H
#define TOOLS_STREAM_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum sink_kind {
	SINK_NOWHERE, /* thrown away */
	SINK_PLAIN,   /* a file, a device, or what is non-blocking already */
	SINK_SOCKET,
	SINK_CAREFUL, /* as much as never blocks once poll has said that there is room */
};

struct stream_sink {
	enum sink_kind kind;
	int fd;    /* to write to */
	bool own;  /* opened here */
};

/* Fewer switches between who writes and who reads it; does nothing to what is no pipe, or
 * is large already, or may not become so. */
void pipe_enlarge(int fd);

/* For an fd of anybody's; -1: nowhere. */
void sink_open(struct stream_sink *s, int fd);
/* The bytes that went, 0 when there is no room now; -1: errno. */
ssize_t sink_write(const struct stream_sink *s, const void *data, size_t size);
void sink_close(struct stream_sink *s);

#endif
