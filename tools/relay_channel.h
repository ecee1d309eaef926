/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel between two guests, from the moment when one of them has come.
 *
 *   HEARING     its request is not complete; REQUEST_WAIT
 *   CONNECTING  to the other; the kernel gives up after 2 s
 *   OPEN        bytes pass (relay_pair.h)
 *   DEAD        closed; its memory is needed until all events are looked at
 *
 * Both guests are nudged while they are silent, as one that has started anew does not
 * know its connections any more, and its host's kernel does not notice: each second at
 * first, more and more rarely later.
 */
#ifndef TOOLS_RELAY_CHANNEL_H
#define TOOLS_RELAY_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "relay_limits.h"
#include "relay_pair.h"
#include "relay_policy.h"
#include "vchan/config.h"
#include "vchan/relay.h"

struct channel;

/* What an event of epoll's is about: a side of a channel, or else something of ours. */
struct watch {
	struct channel *channel;
	unsigned side;
};

enum stage { HEARING, CONNECTING, OPEN, DEAD };
enum { SOURCE_SIDE, TARGET_SIDE };
/* What it has of its source's limits. */
enum share { SHARE_UNFINISHED, SHARE_NONE, SHARE_CHANNEL };

struct nudging {
	uint64_t heard;
	int64_t at;
	unsigned count; /* since it was heard */
	unsigned all;
};

struct channel {
	struct pair pair;
	struct watch watch[2];
	enum stage stage;
	enum share share;
	bool queued, starved, resting;
	bool watches_room[2]; /* EPOLLOUT is in its mask */
	struct channel *next, *previous; /* of all that live */
	struct channel *behind;          /* in the queue */

	uint64_t id;
	uint32_t source, source_port;
	struct relay_request wanted;
	uint32_t from; /* our port at the target */
	unsigned char request[RELAY_REQUEST_SIZE];
	unsigned heard;

	int64_t since, until;
	struct nudging nudging[2];
	int64_t lingers_since, linger_until; /* 0: it does not linger */
	uint64_t lingering_at; /* the count of bytes then */
};

struct relay {
	struct config config;
	struct limits limits;
	struct policy *policy;
	int epoll;
	struct channel *channels; /* that live */
	unsigned count;
	struct channel *queue, **queue_end; /* that have something to do */
	uint64_t ids;
	int64_t tick_at;
};

/* A connection; it is closed when it may not stay. */
void channel_accepted(struct relay *relay, int fd, uint32_t source, uint32_t port);
void channel_event(struct relay *relay, const struct watch *watch, uint32_t events);
/* Works once on each channel that has something to do. */
void channels_turn(struct relay *relay);
/* Once relay->tick_at has come: deadlines, and nudges. */
void channels_tick(struct relay *relay, int64_t now);
/* All that are not open, or all. */
void channels_stop(struct relay *relay, bool open_ones, const char *why);

#endif
