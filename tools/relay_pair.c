/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vchan/vsock.h"

static unsigned char piece[PAIR_PIECE];

void pair_init(struct pair *p, int first, int second)
{
	memset(p, 0, sizeof *p);
	p->side[0].fd = first;
	p->side[1].fd = second;
}

static void drop_unsent(struct pair_side *to)
{
	free(to->unsent);
	to->unsent = NULL;
	to->unsent_from = to->unsent_to = 0;
	to->blocked = to->starved = false;
}

/* Nothing goes there any more; so what comes from the other has nowhere to go. */
static void lose(struct pair_side *to, struct pair_side *from)
{
	to->gone = true;
	drop_unsent(to);
	from->cut = !from->ended;
	from->ended = true;
	from->readable = false;
}

/* Whoever lives on until he has all bytes shall not wait meanwhile for his to be taken. */
static void tell_who_is_cut(struct pair_side *side)
{
	if (side->cut)
		shutdown(side->fd, SHUT_RD);
	side->cut = false;
}

/* How much of it was taken; the rest waits for an event. */
static size_t push(struct pair_side *to, struct pair_side *from, const void *data, size_t size)
{
	ssize_t n = vsock_send(to->fd, data, size, false);

	if (n >= 0) {
		to->blocked = (size_t)n < size;
		to->starved = false;
		return (size_t)n;
	}
	to->starved = vsock_is_short_of_memory(errno);
	to->blocked = errno == EAGAIN;
	if (!to->starved && !to->blocked)
		lose(to, from);
	return 0;
}

static void keep(struct pair_side *to, struct pair_side *from, const void *data, size_t size)
{
	to->unsent = malloc(size);
	if (!to->unsent) {
		to->error = ENOMEM;
		lose(to, from);
		to->ended = true;
		return;
	}
	memcpy(to->unsent, data, size);
	to->unsent_from = 0;
	to->unsent_to = size;
}

static void push_unsent(struct pair_side *to, struct pair_side *from)
{
	to->unsent_from += push(to, from, to->unsent + to->unsent_from,
				to->unsent_to - to->unsent_from);
	if (to->unsent_from == to->unsent_to)
		drop_unsent(to);
}

/* Nothing can be sent, not even nothing, to who has closed.  Nor to whom we have closed
 * our half, but then there is nothing left to do anyway. */
static void look_whether_gone(struct pair_side *side, struct pair_side *other)
{
	if (!side->gone && !side->told && vsock_send(side->fd, "", 0, false) < 0 &&
	    !vsock_will_go_again(errno))
		lose(side, other);
}

static void end(struct pair_side *from, struct pair_side *to)
{
	from->ended = true;
	from->readable = false;
	look_whether_gone(from, to);
}

static void break_off(struct pair_side *from, struct pair_side *to)
{
	from->error = errno;
	from->ended = true;
	from->readable = false;
	lose(from, to);
}

/* A short piece was all there is, unless the end is behind it. */
static void pull(struct pair_side *from, struct pair_side *to)
{
	ssize_t n = vsock_recv(from->fd, piece, sizeof piece, false);
	size_t taken;

	if (n > 0) {
		from->received += (uint64_t)n;
		from->readable = (size_t)n == sizeof piece || from->hung;
		taken = push(to, from, piece, (size_t)n);
		if (taken < (size_t)n && !to->gone)
			keep(to, from, piece + taken, (size_t)n - taken);
	} else if (n == 0) {
		end(from, to);
	} else if (errno == EAGAIN) {
		from->readable = false;
	} else if (vsock_is_short_of_memory(errno) && !vsock_has_ended(from->fd)) {
		from->unread = true; /* the bytes are there; one that was reset is not */
	} else {
		break_off(from, to);
	}
}

static void forward(struct pair_side *from, struct pair_side *to)
{
	if (to->unsent && !to->blocked)
		push_unsent(to, from);
	from->unread = false;
	if (from->readable && !from->ended && !to->unsent && !to->gone)
		pull(from, to);
	/* Who has gone wholly is the end of both. */
	if (from->ended && !from->gone && !to->unsent && !to->gone && !to->told) {
		to->told = true;
		shutdown(to->fd, SHUT_WR);
	}
}

void pair_event(struct pair_side *side, uint32_t events)
{
	bool hung = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);

	side->hung |= hung;
	side->changed |= hung;
	side->readable |= hung || (events & EPOLLIN);
	if (hung || (events & EPOLLOUT))
		side->blocked = false;
}

/* All that it sent has been delivered, as far as it can be. */
static bool is_done(const struct pair_side *from, const struct pair_side *to)
{
	return from->ended && (to->gone || !to->unsent);
}

static bool is_over(const struct pair *p)
{
	const struct pair_side *a = &p->side[0], *b = &p->side[1];

	return (is_done(a, b) && is_done(b, a)) || (a->gone && is_done(a, b)) ||
	       (b->gone && is_done(b, a));
}

static bool can_go_on(const struct pair_side *from, const struct pair_side *to)
{
	return from->readable && !from->unread && !from->ended && !to->unsent && !to->gone;
}

static bool is_short(const struct pair_side *side)
{
	return side->starved || side->unread;
}

enum pair_state pair_turn(struct pair *p)
{
	struct pair_side *a = &p->side[0], *b = &p->side[1];

	for (int i = 0; i < 2; i++)
		if (p->side[i].changed) {
			p->side[i].changed = false;
			look_whether_gone(&p->side[i], &p->side[!i]);
		}
	forward(a, b);
	forward(b, a);
	if (is_over(p))
		return PAIR_OVER;
	tell_who_is_cut(a);
	tell_who_is_cut(b);
	if (can_go_on(a, b) || can_go_on(b, a))
		return PAIR_MORE;
	return is_short(a) || is_short(b) ? PAIR_STARVED : PAIR_ASLEEP;
}

/* One that was told its end cannot be asked whether it has gone, and what the other does
 * not take keeps us from reading its own end: so what the kernel has said of it counts. */
static bool has_left(const struct pair_side *side, const struct pair_side *other)
{
	return side->gone || (side->told && side->hung && other->unsent);
}

bool pair_lingers(const struct pair *p)
{
	const struct pair_side *a = &p->side[0], *b = &p->side[1];

	return has_left(a, b) || has_left(b, a);
}

size_t pair_undelivered(const struct pair *p)
{
	return p->side[0].unsent_to - p->side[0].unsent_from +
	       p->side[1].unsent_to - p->side[1].unsent_from;
}

void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		drop_unsent(&p->side[i]);
		if (p->side[i].fd >= 0)
			close(p->side[i].fd);
		p->side[i].fd = -1;
	}
}
