/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection through the proxy: two ends, and what goes from each to the other.
 *
 * Bytes are read from one end only while the other one takes them, and what it then does
 * not take waits here: at most PAIR_PIECE in each direction.  So whoever does not read
 * holds up his peer, nobody else.
 *
 * The ends of a connection:
 *
 *   - A socket's end of sending is passed on to a socket.  A vchan has no such thing, its
 *     end is both directions': it stays until its own side ends, too, or until the socket
 *     is closed for good.  TCP does not tell the one from the other: there it stays for a
 *     client, who may wait for his reply, and for a server, who has given his, it ends.
 *   - Whoever is gone for good ends the connection, once the other one has got what came
 *     before.  What still comes from there is thrown away, since a peer that is busy
 *     writing may not read.
 *   - At last a vchan is closed when its ring is empty, as close would block; a socket,
 *     when its peer closes too, as close would reset the connection if something was
 *     unread, and take from the peer what is still on the way.
 */
#ifndef TOOLS_PROXY_PAIR_H
#define TOOLS_PROXY_PAIR_H

#include "proxy_end.h"

#define PAIR_PIECE (64u << 10)

struct proxy;

/* From an end to the other. */
struct way {
	char *left;         /* what was read and not taken yet, from `at` on */
	size_t at, size;
	uint64_t carried;   /* bytes */
	bool done;          /* nothing more is to be carried; what comes is thrown away */
};

struct pair {
	struct proxy *proxy;
	struct pair *next, *prev; /* all that there are */
	struct pair *next_ready;
	bool is_ready;            /* it is in that queue */
	int64_t wake_at;          /* ns; CLOCK_NEVER */
	unsigned long number;
	int64_t began;            /* ns */
	bool connected;
	bool failed;              /* it was never made, or broken off */
	unsigned address;         /* that is being tried */
	int64_t give_up_at;       /* ns; the connect, and at last a socket's own close */
	uint64_t discarded;       /* bytes */
	struct end ends[2];       /* who came; whom we have connected to */
	struct way ways[2];       /* from ends[0]; from ends[1] */
};

/* Somebody has come: a socket, or else a vchan.  The rest is pair_run's. */
void pair_begin(struct proxy *proxy, int socket, libvchan_t *vchan);
/* All that can be done now, or a good deal of it.  May free it. */
void pair_run(struct pair *p);
/* At once, whatever is on the way. */
void pair_cut_off(struct pair *p);

#endif
