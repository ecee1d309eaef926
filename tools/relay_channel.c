/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "relay_log.h"
#include "vchan/address.h"
#include "vchan/clock.h"
#include "vchan/nudge.h"
#include "vchan/vsock.h"

#define REQUEST_WAIT (5 * CLOCK_S)
#define CONNECT_WAIT (10 * CLOCK_S) /* the kernel is faster */
#define LINGER (60 * CLOCK_S)       /* without a byte that is taken */
#define LINGER_LEAST (2 * CLOCK_S)  /* even where its place is wanted */
#define TICK_LEAST (10 * CLOCK_MS)

#define INPUT (EPOLLIN | EPOLLRDHUP | EPOLLET)

static const char *const side_names[] = { "source", "target" };

static void tick_by(struct relay *relay, int64_t when)
{
	if (when < relay->tick_at)
		relay->tick_at = when;
}

static void enqueue(struct relay *relay, struct channel *c)
{
	if (c->queued)
		return;
	c->queued = true;
	c->behind = NULL;
	*relay->queue_end = c;
	relay->queue_end = &c->behind;
}

/* After a pause, at a whole second: so that all of them are nudged in one go. */
static int64_t nudge_time(int64_t now, int64_t pause)
{
	return (now + pause + NUDGE_EVERY - 1) / NUDGE_EVERY * NUDGE_EVERY;
}

static int watch(struct relay *relay, struct channel *c, unsigned side, int op, uint32_t events)
{
	struct epoll_event e;

	memset(&e, 0, sizeof e);
	e.events = events;
	e.data.ptr = &c->watch[side];
	return epoll_ctl(relay->epoll, op, c->pair.side[side].fd, &e);
}

/* ---- lines ---- */

static void log_address(struct entry *e, const struct channel *c)
{
	relay_log_number(e, "id", c->id);
	relay_log_number(e, "source", c->source);
	relay_log_number(e, "source_port", c->source_port);
	if (c->stage == HEARING)
		return;
	relay_log_number(e, "target", c->wanted.target);
	relay_log_number(e, "port", c->wanted.port);
	relay_log_text(e, "wire", c->wanted.framed ? "framed" : "plain");
}

static void log_refused(const struct channel *c, const char *event, const char *why)
{
	struct entry e;

	relay_log(&e, SAY_NOTICE, SAY_STRANGERS, event);
	log_address(&e, c);
	relay_log_text(&e, "why", why);
	relay_log_end(&e);
}

static void log_opened(const struct channel *c)
{
	struct entry e;

	relay_log(&e, SAY_INFO, SAY_CHANNELS, "opened");
	log_address(&e, c);
	relay_log_number(&e, "from", c->from);
	relay_log_end(&e);
}

static void log_closed(const struct channel *c, const char *by)
{
	const struct pair_side *sides = c->pair.side;
	size_t undelivered = pair_undelivered(&c->pair);
	struct entry e;

	relay_log(&e, SAY_INFO, SAY_CHANNELS, "closed");
	log_address(&e, c);
	relay_log_number(&e, "to_target", sides[SOURCE_SIDE].received);
	relay_log_number(&e, "to_source", sides[TARGET_SIDE].received);
	relay_log_seconds(&e, "seconds", clock_now() - c->since);
	relay_log_text(&e, "by", by);
	for (int i = 0; i < 2; i++)
		if (sides[i].error)
			relay_log_text(&e, i == SOURCE_SIDE ? "source_error" : "target_error",
				       strerror(sides[i].error));
	if (undelivered)
		relay_log_number(&e, "undelivered", undelivered);
	relay_log_end(&e);
}

/* ---- birth and death ---- */

static void link_channel(struct relay *relay, struct channel *c)
{
	c->next = relay->channels;
	if (c->next)
		c->next->previous = c;
	relay->channels = c;
	relay->count++;
}

static void unlink_channel(struct relay *relay, struct channel *c)
{
	if (c->next)
		c->next->previous = c->previous;
	if (c->previous)
		c->previous->next = c->next;
	else
		relay->channels = c->next;
	relay->count--;
}

static bool is_privileged(const struct channel *c)
{
	return c->source_port < ORDINARY_PORTS;
}

static void bury(struct relay *relay, struct channel *c)
{
	pair_close(&c->pair);
	if (c->share == SHARE_UNFINISHED)
		limits_heard(c->source);
	else if (c->share == SHARE_CHANNEL)
		limits_close(c->source, is_privileged(c));
	if (c->from)
		ports_release(c->from, c->source, c->wanted.target, clock_now());
	unlink_channel(relay, c);
	c->stage = DEAD;
	enqueue(relay, c); /* where it is freed */
}

static void finish(struct relay *relay, struct channel *c, const char *by)
{
	log_closed(c, by);
	bury(relay, c);
}

/* It has of what `who` needs. */
static bool could_give_way(const struct channel *c, const struct channel *who,
			   enum verdict shortage)
{
	if (c->stage != OPEN || !c->lingers_since || !pair_lingers(&c->pair))
		return false;
	switch (shortage) {
	case LIMITS_CHANNELS:
		return c->source == who->source;
	case LIMITS_PRIVILEGED:
		return c->source == who->source && is_privileged(c);
	case LIMITS_PORTS:
		return is_privileged(c) == is_privileged(who);
	default:
		return true;
	}
}

/* Who takes nothing, or a byte a minute, shall not use up what the other side may have: so
 * of those that linger one gives way, unless all of them are new and may be only slow.
 * It is freed in a turn of its own. */
static bool make_room(struct relay *relay, const struct channel *who, enum verdict shortage)
{
	struct channel *longest = NULL;

	for (struct channel *c = relay->channels; c; c = c->next)
		if (could_give_way(c, who, shortage) &&
		    (!longest || c->lingers_since < longest->lingers_since))
			longest = c;
	if (!longest || clock_now() < longest->lingers_since + LINGER_LEAST)
		return false;
	finish(relay, longest, "gave-way");
	return true;
}

static void answer(int fd, enum relay_status status)
{
	unsigned char bytes[RELAY_ANSWER_SIZE];

	relay_encode_answer(status, bytes);
	/* There is room for it; who is not there any more is noticed later. */
	(void)vsock_send(fd, bytes, sizeof bytes, false);
}

static void refuse(struct relay *relay, struct channel *c, enum relay_status status,
		   const char *why)
{
	log_refused(c, "refused", why);
	answer(c->pair.side[SOURCE_SIDE].fd, status);
	bury(relay, c);
}

/* It gets no answer: one that speaks so is none of ours. */
static void drop(struct relay *relay, struct channel *c, const char *why)
{
	log_refused(c, "malformed", why);
	bury(relay, c);
}

static void turn_away(int fd, uint32_t source, uint32_t port, const char *why)
{
	struct entry e;

	relay_log(&e, SAY_NOTICE, SAY_STRANGERS, "refused");
	relay_log_number(&e, "source", source);
	relay_log_number(&e, "source_port", port);
	relay_log_text(&e, "why", why);
	relay_log_end(&e);
	close(fd);
}

static struct channel *new_channel(struct relay *relay, int fd, uint32_t source, uint32_t port)
{
	struct channel *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	pair_init(&c->pair, fd, -1);
	for (unsigned i = 0; i < 2; i++) {
		c->watch[i].channel = c;
		c->watch[i].side = i;
	}
	c->id = ++relay->ids;
	c->source = source;
	c->source_port = port;
	c->until = clock_now() + REQUEST_WAIT;
	if (watch(relay, c, SOURCE_SIDE, EPOLL_CTL_ADD, INPUT) == 0)
		return c;
	free(c);
	return NULL;
}

void channel_accepted(struct relay *relay, int fd, uint32_t source, uint32_t port)
{
	struct channel *c;
	enum verdict verdict;

	if (source < POLICY_CID_LEAST || source > POLICY_SOURCE_MOST) {
		turn_away(fd, source, port, "not-a-guest");
		return;
	}
	verdict = limits_enter(&relay->limits, source, clock_now());
	if (verdict != LIMITS_FINE) {
		answer(fd, RELAY_BUSY);
		turn_away(fd, source, port, limits_words(verdict));
		return;
	}
	c = new_channel(relay, fd, source, port);
	if (!c) {
		limits_heard(source);
		turn_away(fd, source, port, "memory");
		return;
	}
	link_channel(relay, c);
	tick_by(relay, c->until);
	c->pair.side[SOURCE_SIDE].readable = true;
	enqueue(relay, c); /* its request may be here */
}

/* ---- connecting ---- */

static void open_channel(struct relay *relay, struct channel *c)
{
	int64_t now = clock_now();

	if (watch(relay, c, TARGET_SIDE, EPOLL_CTL_MOD, INPUT) < 0) {
		refuse(relay, c, RELAY_BUSY, "memory");
		return;
	}
	answer(c->pair.side[SOURCE_SIDE].fd, RELAY_OK);
	c->stage = OPEN;
	c->since = now;
	for (int i = 0; i < 2; i++) {
		c->nudging[i].at = nudge_time(now, NUDGE_EVERY);
		c->pair.side[i].readable = true; /* it may have spoken already */
	}
	tick_by(relay, c->nudging[0].at);
	log_opened(c);
	enqueue(relay, c);
}

static void connect_failed(struct relay *relay, struct channel *c, int err)
{
	switch (err) {
	case ECONNRESET:
	case ECONNREFUSED:
		refuse(relay, c, RELAY_REFUSED, "nobody-serves-it");
		break;
	case ENODEV:
	case EHOSTUNREACH:
	case ENETUNREACH:
		refuse(relay, c, RELAY_NO_MACHINE, "no-machine");
		break;
	case ETIMEDOUT:
		refuse(relay, c, RELAY_SILENT, "silent");
		break;
	default:
		refuse(relay, c, RELAY_BUSY, strerror(err));
	}
}

static void finish_connecting(struct relay *relay, struct channel *c)
{
	struct pollfd p = { c->pair.side[TARGET_SIDE].fd, POLLOUT, 0 };

	/* While it is under way it has no error either. */
	if (poll(&p, 1, 0) <= 0)
		return;
	if (vsock_connected(c->pair.side[TARGET_SIDE].fd) == 0)
		open_channel(relay, c);
	else
		connect_failed(relay, c, errno);
}

/* The kernel may keep the port of one that gave way until its target has answered; then it
 * is for who comes next. */
static int bind_target(struct relay *relay, struct channel *c)
{
	bool ours = c->wanted.ours && !c->wanted.framed;
	int fd = c->pair.side[TARGET_SIDE].fd;

	if (ports_bind(fd, is_privileged(c), ours, &c->from) == 0)
		return 0;
	if (errno != EADDRINUSE || !make_room(relay, c, LIMITS_PORTS))
		return -1;
	return ports_bind(fd, is_privileged(c), ours, &c->from);
}

static int open_target(struct relay *relay, struct channel *c)
{
	int fd = vsock_socket(relay->config.buffer_size);

	c->pair.side[TARGET_SIDE].fd = fd;
	if (fd < 0 || bind_target(relay, c) < 0)
		return -1;
	return watch(relay, c, TARGET_SIDE, EPOLL_CTL_ADD, EPOLLOUT | EPOLLET);
}

static void connect_target(struct relay *relay, struct channel *c, uint32_t port)
{
	if (open_target(relay, c) < 0) {
		refuse(relay, c, RELAY_BUSY, errno == EADDRINUSE ?
		       limits_words(LIMITS_PORTS) : strerror(errno));
		return;
	}
	c->until = clock_now() + CONNECT_WAIT;
	tick_by(relay, c->until);
	if (vsock_connect(c->pair.side[TARGET_SIDE].fd, c->wanted.target, port) == 0)
		open_channel(relay, c);
	else if (errno != EINPROGRESS)
		connect_failed(relay, c, errno);
}

/* ---- the request ---- */

static bool is_allowed(const struct relay *relay, const struct channel *c)
{
	/* Nobody reaches this host through it, whatever the policy says. */
	return c->wanted.target >= POLICY_CID_LEAST && c->wanted.target <= POLICY_TARGET_MOST &&
	       policy_allows(relay->policy, c->source, c->wanted.target, c->wanted.port);
}

static enum verdict take_share(struct relay *relay, struct channel *c)
{
	enum verdict verdict;

	if (!ports_may_open(c->source, c->wanted.target, is_privileged(c), clock_now()))
		return LIMITS_HELD;
	verdict = limits_open(&relay->limits, c->source, is_privileged(c));
	if (verdict != LIMITS_FINE && make_room(relay, c, verdict))
		verdict = limits_open(&relay->limits, c->source, is_privileged(c));
	return verdict;
}

/* The request is complete, and well-formed. */
static void decide(struct relay *relay, struct channel *c)
{
	enum verdict verdict;
	const char *why;
	uint32_t port;

	limits_heard(c->source);
	c->share = SHARE_NONE;
	c->stage = CONNECTING;
	if (!is_allowed(relay, c)) {
		refuse(relay, c, RELAY_DENIED, "policy");
		return;
	}
	verdict = take_share(relay, c);
	if (verdict != LIMITS_FINE) {
		refuse(relay, c, RELAY_BUSY, limits_words(verdict));
		return;
	}
	c->share = SHARE_CHANNEL;
	if (address_port(false, relay->config.port_base, c->wanted.target, c->source,
			 c->wanted.port, &port, &why) < 0)
		refuse(relay, c, RELAY_REFUSED, why);
	else
		connect_target(relay, c, c->wanted.framed ? port | FRAMED_PORT : port);
}

/* Not a byte more than the request: what follows is for the target. */
static void hear(struct relay *relay, struct channel *c)
{
	ssize_t n = vsock_recv(c->pair.side[SOURCE_SIDE].fd, c->request + c->heard,
			       sizeof c->request - c->heard, false);
	const char *why;

	c->starved = n < 0 && vsock_is_short_of_memory(errno) &&
		     !vsock_has_ended(c->pair.side[SOURCE_SIDE].fd);
	if (c->starved) {
		tick_by(relay, clock_now() + TICK_LEAST);
		return;
	}
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		drop(relay, c, "it left before its request");
		return;
	}
	c->heard += (unsigned)n;
	if (c->heard < sizeof c->request) {
		enqueue(relay, c);
		return;
	}
	why = relay_decode_request(c->request, &c->wanted);
	if (why)
		drop(relay, c, why);
	else
		decide(relay, c);
}

/* ---- an open one ---- */

static const char *ended_by(const struct pair *p)
{
	for (int i = 0; i < 2; i++)
		if (p->side[i].gone && p->side[i].ended)
			return side_names[i];
	return "both";
}

/* EPOLLOUT is asked for only while it is needed: each packet that comes would wake us
 * once more with it. */
static void watch_room(struct relay *relay, struct channel *c, unsigned side)
{
	bool wanted = c->pair.side[side].blocked;

	if (c->watches_room[side] == wanted)
		return;
	c->watches_room[side] = wanted;
	/* It was added, so there is nothing that can fail. */
	(void)watch(relay, c, side, EPOLL_CTL_MOD, INPUT | (wanted ? EPOLLOUT : 0));
}

static void pass_on(struct relay *relay, struct channel *c)
{
	enum pair_state state = pair_turn(&c->pair);

	if (state == PAIR_OVER) {
		finish(relay, c, ended_by(&c->pair));
		return;
	}
	for (unsigned i = 0; i < 2; i++)
		watch_room(relay, c, i);
	if (state == PAIR_MORE)
		enqueue(relay, c);
	c->starved = state == PAIR_STARVED;
	if (c->starved)
		tick_by(relay, clock_now() + TICK_LEAST);
	if (pair_lingers(&c->pair) && !c->lingers_since)
		c->lingers_since = clock_now();
	/* Who speaks again is nudged often again, and who has gone is waited for. */
	if (c->resting || c->lingers_since) {
		c->resting = false;
		tick_by(relay, clock_now() + NUDGE_EVERY);
	}
}

void channel_event(struct relay *relay, const struct watch *w, uint32_t events)
{
	struct channel *c = w->channel;

	pair_event(&c->pair.side[w->side], events);
	if (c->stage == CONNECTING && w->side == TARGET_SIDE)
		finish_connecting(relay, c);
	else if (c->stage == HEARING || c->stage == OPEN)
		enqueue(relay, c);
}

static void turn(struct relay *relay, struct channel *c)
{
	switch (c->stage) {
	case HEARING:
		hear(relay, c);
		break;
	case CONNECTING:
		break;
	case OPEN:
		pass_on(relay, c);
		break;
	case DEAD:
		free(c);
	}
}

void channels_turn(struct relay *relay)
{
	struct channel *c = relay->queue, *next;

	/* Who is queued meanwhile has his turn after the next look at all others. */
	relay->queue = NULL;
	relay->queue_end = &relay->queue;
	for (; c; c = next) {
		next = c->behind;
		c->queued = false;
		turn(relay, c);
	}
}

/* ---- time ---- */

static void nudge(struct relay *relay, struct channel *c, unsigned side, int64_t now)
{
	struct nudging *n = &c->nudging[side];
	const struct pair_side *s = &c->pair.side[side];

	if (s->received != n->heard) {
		n->heard = s->received;
		n->count = 0;
		n->at = nudge_time(now, 0);
	} else if (now >= n->at) {
		vsock_nudge(s->fd, relay->config.buffer_size, ++n->all);
		n->at = nudge_time(now, nudge_pause(++n->count));
	}
	c->resting |= n->count > NUDGES_OFTEN;
	tick_by(relay, n->at);
}

/* False: there was no progress for too long. */
static bool may_linger(struct relay *relay, struct channel *c, int64_t now)
{
	const struct pair_side *s = c->pair.side;
	uint64_t count = s[0].received + s[1].received - pair_undelivered(&c->pair);

	if (!c->linger_until || count != c->lingering_at) {
		c->lingering_at = count;
		c->linger_until = now + LINGER;
	}
	tick_by(relay, c->linger_until);
	return now < c->linger_until;
}

static void tick_open(struct relay *relay, struct channel *c, int64_t now)
{
	if (c->starved)
		enqueue(relay, c);
	if (pair_lingers(&c->pair) && !may_linger(relay, c, now)) {
		finish(relay, c, ended_by(&c->pair));
		return;
	}
	c->resting = false;
	for (unsigned i = 0; i < 2; i++)
		if (!c->pair.side[i].gone)
			nudge(relay, c, i, now);
}

static void tick_other(struct relay *relay, struct channel *c, int64_t now)
{
	if (c->starved)
		enqueue(relay, c);
	if (now < c->until)
		tick_by(relay, c->until);
	else if (c->stage == HEARING)
		drop(relay, c, "no request came");
	else
		connect_failed(relay, c, ETIMEDOUT);
}

void channels_tick(struct relay *relay, int64_t now)
{
	relay->tick_at = CLOCK_NEVER;
	for (struct channel *c = relay->channels, *next; c; c = next) {
		next = c->next;
		if (c->stage == OPEN)
			tick_open(relay, c, now);
		else
			tick_other(relay, c, now);
	}
	if (relay->tick_at < now + TICK_LEAST)
		relay->tick_at = now + TICK_LEAST;
}

void channels_stop(struct relay *relay, bool open_ones, const char *why)
{
	for (struct channel *c = relay->channels, *next; c; c = next) {
		next = c->next;
		if (c->stage != OPEN)
			refuse(relay, c, RELAY_BUSY, why);
		else if (open_ones)
			finish(relay, c, why);
	}
}
