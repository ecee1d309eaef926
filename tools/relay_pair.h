/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two connected sockets, and what comes out of one goes into the other.
 *
 * Bytes are received into one large buffer that all pairs share, and sent from there at
 * once.  What the kernel does not take is kept in memory of its own, and until that is
 * gone its sender is not read: so a pair has at most PAIR_PIECE bytes per direction in
 * our memory, and mostly none.  A turn moves at most one piece per direction.
 *
 * The sockets are watched edge-triggered: an event only marks its side, and what is
 * marked is worked on until the kernel has nothing more.
 *
 * The end.  Whoever sends no more (a half-close) has the other told so, once it has all
 * bytes.  Who has gone wholly, or was reset, has its last bytes delivered, and then the
 * pair is over: both are closed.  vsock's poll shows one like the other; what tells them
 * apart is that nothing can be sent to who has gone, not even nothing.
 */
#ifndef TOOLS_RELAY_PAIR_H
#define TOOLS_RELAY_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAIR_PIECE ((size_t)256 << 10)

struct pair_side {
	int fd;
	bool readable; /* there may be more than was read */
	bool hung;     /* its end has been seen, behind what there is to read */
	bool changed;  /* it may have gone */
	bool ended;    /* all that it sent was read */
	bool gone;     /* it takes nothing any more */
	bool cut;      /* nothing that it sends is wanted; it does not know yet */
	bool told;     /* it knows that nothing more will come */
	bool blocked;  /* wants EPOLLOUT: it has not taken all of this */
	bool starved;  /* the kernel's memory was short for it: no event will tell */
	bool unread;   /* the same, for what it has sent */
	unsigned char *unsent;
	size_t unsent_from, unsent_to;
	uint64_t received; /* bytes, from it */
	int error;         /* what its end was, other than a close */
};

struct pair {
	struct pair_side side[2];
};

enum pair_state {
	PAIR_ASLEEP,  /* until an event */
	PAIR_MORE,    /* there may be more to do at once */
	PAIR_STARVED, /* the same, a little later */
	PAIR_OVER,
};

void pair_init(struct pair *p, int first, int second);
/* epoll's, of the side. */
void pair_event(struct pair_side *side, uint32_t events);
enum pair_state pair_turn(struct pair *p);
/* Somebody has gone, and what he sent is not delivered yet. */
bool pair_lingers(const struct pair *p);
/* Bytes that nobody will have. */
size_t pair_undelivered(const struct pair *p);
void pair_close(struct pair *p);

#endif
