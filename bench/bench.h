/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The benchmark's program runs twice: as the partner, which obeys, and as the
 * measurer, which gives the orders and prints what came of them.  They talk over a
 * plain vsock connection of their own, in these structures; what is measured
 * has its own channels.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/traffic.h"

#define RING 65536 /* what programs ask for, bytes */
#define MOST_CHANNELS 1000
#define MOST_SAMPLES 1000

/* Over what the bytes go. */
enum way {
	SOCKET,       /* AF_VSOCK with the kernel's own buffer */
	LARGE_SOCKET, /* the same with the buffer that the library sets */
	FRAMED,       /* libvchan */
	PLAIN,        /* libvchan with VCHAN_VSOCK_WIRE=plain */
	WAYS
};

enum what {
	ROUND_TRIP,        /* blocking: send, receive */
	POLLED_ROUND_TRIP, /* as programs do it that have more fds than one */
	STREAM_WRITE,      /* libvchan_write and libvchan_read */
	STREAM_SEND,       /* libvchan_send and libvchan_read */
	QREXEC,            /* a header, then a payload, as much as there is room for */
	SET_UP,            /* open, a byte each way, close */
	LONE,              /* one message after a pause, then no call for a while */
	BURST,             /* several in a row, then no call for a while */
	IDLE,              /* many open channels in which nothing happens */
	BUSY,              /* many streams at once */
	WHATS
};

struct order {
	uint32_t what, way;
	uint32_t size;     /* of a message, bytes */
	uint32_t inward;   /* streams: the partner writes */
	uint64_t count;    /* messages, or channels */
	uint32_t channels; /* BUSY */
	uint32_t ms;       /* BUSY, IDLE: for so long */
	int32_t port;      /* the first vchan port to use */
};

struct report {
	int32_t error;     /* errno that ended it; 0: none */
	uint32_t reserved;
	uint64_t ns;       /* on the clock */
	uint64_t cpu_ns;   /* of the process, user and system */
	uint64_t median, most; /* LONE, BURST: ns */
	uint64_t bytes, least; /* BUSY: through all channels, through the slowest */
	int64_t resident, fds, switches; /* IDLE: for all channels */
};

/* Which end we are, from the command line. */
struct self {
	bool is_partner;
	uint32_t cid;      /* the partner's */
	int domain;        /* the other one's */
	int control;       /* the connection for orders and reports */
};

/* ---- ends.c: channels.  -1 and errno on failure. ---- */

/* The partner: be ready for one that connects; *port for plain sockets. */
int end_serve(struct end *e, const struct self *self, const struct order *o,
	      unsigned number, uint32_t *port);
/* ... and it has come. */
int end_accept(struct end *e);
int end_connect(struct end *e, const struct self *self, const struct order *o,
		unsigned number, uint32_t port);

/* Plain sockets, also for the orders. */
int socket_listen(uint32_t *port, bool large);
int socket_connect(uint32_t cid, uint32_t port, bool large);

/* ---- cases.c: what is measured, at both ends ---- */

uint64_t now_ns(void);
void sort_ns(uint64_t *ns, size_t count);
/* Runs it; the partner has answered with its port already where there is one.
 * In *r what this end saw. */
void run_case(const struct self *self, const struct order *o, struct report *r);

/* ---- parts.c: of a set-up, at one end ---- */

enum part { PART_THREAD, PART_RINGS, PART_FDS, PART_LISTENER, PARTS };

/* Medians, ns; 0: it failed. */
void measure_parts(uint64_t ns[PARTS]);

#endif
