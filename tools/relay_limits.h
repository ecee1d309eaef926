/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much of the relay each source, and all of them, may have: requests per second,
 * requests that are not complete, channels; and the ports that channels come from.
 */
#ifndef TOOLS_RELAY_LIMITS_H
#define TOOLS_RELAY_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

/* So many per second, and `burst` at once. */
struct bucket {
	uint64_t tokens; /* in billionths */
	int64_t filled_at;
};

void bucket_init(struct bucket *b, unsigned burst);
bool bucket_take(struct bucket *b, unsigned rate, unsigned burst, int64_t now);

struct limits {
	unsigned channels, total, rate; /* of a source, of all, of a source per second */
};

enum verdict {
	LIMITS_FINE,
	LIMITS_RATE,
	LIMITS_UNFINISHED,
	LIMITS_CHANNELS,
	LIMITS_PRIVILEGED,
	LIMITS_TOTAL,
	LIMITS_PORTS,
	LIMITS_HELD,
};
const char *limits_words(enum verdict verdict);

/* A connection of this source has come; unless it is fine, nothing was counted. */
enum verdict limits_enter(const struct limits *limits, uint32_t source, int64_t now);
/* Its request is complete, or it has gone: it is unfinished no more. */
void limits_heard(uint32_t source);
/* It becomes a channel.  There are few ports for privileged ones: of these a source has a
 * quarter of its channels at most. */
enum verdict limits_open(const struct limits *limits, uint32_t source, bool privileged);
void limits_close(uint32_t source, bool privileged);

/* Binds `fd` to a port for the channel.  0, or -1/EADDRINUSE: none is free, EACCES. */
int ports_bind(int fd, bool privileged, bool ours, uint32_t *port);
/* The channel is closed; source 0: there was none. */
void ports_release(uint32_t port, uint32_t source, uint32_t target, int64_t now);
/* False: the kernel keeps too many that were theirs. */
bool ports_may_open(uint32_t source, uint32_t target, bool privileged, int64_t now);

#endif
