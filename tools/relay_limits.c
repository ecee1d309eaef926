/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_limits.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "relay_policy.h"
#include "vchan/address.h"
#include "vchan/clock.h"
#include "vchan/relay.h"
#include "vchan/vsock.h"

#define TOKEN ((uint64_t)CLOCK_S)

/* Of requests that are not complete.  They cost a guest nothing. */
#define UNFINISHED_PER_SOURCE 64u
#define UNFINISHED_MOST 1024u

#define OURS_FROM OUR_PRIVILEGED_PORTS
#define OURS_TO (OUR_PRIVILEGED_PORTS + OUR_PRIVILEGED_COUNT - 1)

struct account {
	struct bucket bucket;
	uint32_t unfinished, channels, privileged;
	bool known;
};

static struct account accounts[POLICY_SOURCE_MOST + 1];
static unsigned unfinished_in_all, channels_in_all;

void bucket_init(struct bucket *b, unsigned burst)
{
	b->tokens = burst * TOKEN;
	b->filled_at = clock_now();
}

bool bucket_take(struct bucket *b, unsigned rate, unsigned burst, int64_t now)
{
	uint64_t full = burst * TOKEN, passed = (uint64_t)(now - b->filled_at);

	/* So long that nothing can overflow, and whatever is empty is full. */
	if (passed > full / rate)
		b->tokens = full;
	else
		b->tokens += passed * rate;
	if (b->tokens > full)
		b->tokens = full;
	b->filled_at = now;
	if (b->tokens < TOKEN)
		return false;
	b->tokens -= TOKEN;
	return true;
}

const char *limits_words(enum verdict verdict)
{
	static const char *const words[] = {
		"", "rate", "unfinished", "channels", "privileged", "total", "ports", "held",
	};

	return words[verdict];
}

/* A source that was quiet for a while may have two seconds' worth at once. */
static bool is_too_fast(const struct limits *limits, struct account *a, int64_t now)
{
	if (!a->known)
		bucket_init(&a->bucket, 2 * limits->rate);
	a->known = true;
	return !bucket_take(&a->bucket, limits->rate, 2 * limits->rate, now);
}

enum verdict limits_enter(const struct limits *limits, uint32_t source, int64_t now)
{
	struct account *a = &accounts[source];

	if (is_too_fast(limits, a, now))
		return LIMITS_RATE;
	if (a->unfinished >= UNFINISHED_PER_SOURCE || unfinished_in_all >= UNFINISHED_MOST)
		return LIMITS_UNFINISHED;
	a->unfinished++;
	unfinished_in_all++;
	return LIMITS_FINE;
}

void limits_heard(uint32_t source)
{
	accounts[source].unfinished--;
	unfinished_in_all--;
}

enum verdict limits_open(const struct limits *limits, uint32_t source, bool privileged)
{
	struct account *a = &accounts[source];

	if (a->channels >= limits->channels)
		return LIMITS_CHANNELS;
	if (privileged && a->privileged >= (limits->channels + 3) / 4)
		return LIMITS_PRIVILEGED;
	if (channels_in_all >= limits->total)
		return LIMITS_TOTAL;
	a->channels++;
	a->privileged += privileged;
	channels_in_all++;
	return LIMITS_FINE;
}

void limits_close(uint32_t source, bool privileged)
{
	accounts[source].channels--;
	accounts[source].privileged -= privileged;
	channels_in_all--;
}

/* ---- ports ---- */

/* Of a channel that was closed the kernel keeps the port until the target has read all and
 * has answered that, and for 8 s if it does not.  By one guest that opens and closes channels
 * and another one whose kernel does not answer all ports would be gone in a second, though
 * no other limit is reached.
 *
 * Either of the two may be the one to blame, so it is the pair that may keep some and has no
 * more channels while it does: neither the source's to others nor others' to the target
 * suffer.  And a source may keep as many as SUCH_PAIRS pairs may.
 *
 * Only a bind tells whether a port is free again, so none is tried as long as there are few
 * that may be not. */
#define HELD_MOST 64u
#define HELD_PRIVILEGED 16u
#define SUCH_PAIRS 3u
#define HELD_FOR (9 * CLOCK_S)
#define HELD_LOOK (100 * CLOCK_MS) /* at one of them */
#define LEAST_BUFFER 128u

struct closed {
	uint32_t source, target; /* 0: none, or it is known to be free */
	int64_t until, look_at;
};

static bool taken[RELAY_TO + 1];
static struct closed closed[RELAY_TO + 1];

static bool is_privileged(uint32_t port)
{
	return port <= RELAY_PRIVILEGED_TO;
}

static bool is_free(uint32_t port)
{
	int fd = vsock_socket(LEAST_BUFFER);
	bool is = fd >= 0 && vsock_bind(fd, port) == 0;

	if (fd >= 0)
		close(fd);
	return is;
}

static void look_whether_free(uint32_t port, int64_t now)
{
	struct closed *c = &closed[port];

	if (now < c->until && now < c->look_at)
		return;
	c->look_at = now + HELD_LOOK;
	if (now >= c->until || is_free(port))
		c->source = 0;
}

static bool keep_too_many(uint32_t source, uint32_t target, bool privileged)
{
	unsigned most = privileged ? HELD_PRIVILEGED : HELD_MOST, of_source = 0, of_pair = 0;

	for (uint32_t p = 0; p <= RELAY_TO; p++)
		if (closed[p].source == source && is_privileged(p) == privileged) {
			of_source++;
			of_pair += closed[p].target == target;
		}
	return of_pair >= most || of_source >= SUCH_PAIRS * most;
}

bool ports_may_open(uint32_t source, uint32_t target, bool privileged, int64_t now)
{
	if (!keep_too_many(source, target, privileged))
		return true;
	for (uint32_t p = 0; p <= RELAY_TO; p++)
		if (closed[p].source == source && is_privileged(p) == privileged)
			look_whether_free(p, now);
	return !keep_too_many(source, target, privileged);
}

/* One after the other, as the kernel may keep one for a while that was just closed. */
static int bind_one_of(int fd, uint32_t from, uint32_t to, uint32_t *port)
{
	static uint32_t turn;
	uint32_t count = to - from + 1;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t p = from + turn++ % count;

		if (taken[p] || p == RELAY_PORT)
			continue;
		if (vsock_bind(fd, p) == 0) {
			taken[p] = true;
			closed[p].source = 0;
			*port = p;
			return 0;
		}
		if (errno != EADDRINUSE)
			return -1; /* else another program of the host has it */
	}
	errno = EADDRINUSE;
	return -1;
}

int ports_bind(int fd, bool privileged, bool ours, uint32_t *port)
{
	static const uint32_t privileged_ones[][2] = {
		{ RELAY_PRIVILEGED_FROM, RELAY_PRIVILEGED_TO }, { 0, 0 }
	};
	static const uint32_t our_ones[][2] = {
		{ OURS_FROM, OURS_TO }, { OURS_TO + 1, RELAY_TO },
		{ RELAY_FROM, OURS_FROM - 1 }, { 0, 0 }
	};
	static const uint32_t other_ones[][2] = {
		{ OURS_TO + 1, RELAY_TO }, { RELAY_FROM, OURS_FROM - 1 },
		{ OURS_FROM, OURS_TO }, { 0, 0 }
	};
	const uint32_t (*ranges)[2] = privileged ? privileged_ones : ours ? our_ones : other_ones;

	errno = EADDRINUSE;
	for (; (*ranges)[0] && errno == EADDRINUSE; ranges++)
		if (bind_one_of(fd, (*ranges)[0], (*ranges)[1], port) == 0)
			return 0;
	return -1;
}

void ports_release(uint32_t port, uint32_t source, uint32_t target, int64_t now)
{
	taken[port] = false;
	closed[port] = (struct closed){ source, target, now + HELD_FOR, now };
}
