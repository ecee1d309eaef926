/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handle: who owns which part of it.
 *
 *   reader   the thread in read, recv, data_ready.  Holds `reading`, also
 *            while it sleeps in the kernel.  Takes from the read ring, for which
 *            it needs no lock; into it puts whoever holds `reading`.
 *   writer   the thread in write, send, buffer_space.  Puts into the write
 *            ring, without a lock.  May send to the socket itself only while
 *            that ring is empty, which only the writer can change.
 *   drainer  whoever holds `draining`: takes from the write ring and sends.
 *            The connection thread, or a caller that needs it done now.
 *   driver   the connection thread, or the caller of libvchan_client_init until
 *            it is connected: listeners, connecting sockets, retries.
 *
 * On the framed wire every send is a drainer's, also the writer's direct one,
 * and whoever waits for room takes input in: the writer or the driver may hold
 * `reading` too, for one receive that does not block.
 *
 * A caller can be stopped anywhere, for good, by a signal handler that calls
 * exit(); what runs then must find the write ring usable and wait for no lock
 * that the stopped frame holds.  Therefore `draining` is held only with all
 * signals blocked, and a writer that sends directly does so with the write
 * ring empty: there is never a byte of which nobody knows whether it went.
 *
 * Who asks, who looks again and who wakes is modelled in tests/model, by these names.
 *
 * States: see libvchan.h.  CONNECTING is a client's WAITING; FAILED, its end.
 *   WAITING -> CONNECTED -> DISCONNECTED, WAITING -> DISCONNECTED
 *   CONNECTING -> CONNECTED -> DISCONNECTED, CONNECTING -> FAILED
 */
#ifndef VCHAN_HANDLE_H
#define VCHAN_HANDLE_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "events.h"
#include "frame.h"
#include "libvchan.h"
#include "log.h"
#include "relay.h"
#include "ring.h"

#define CANDIDATES 4
/* Both listeners, a plain connection that is held back, the candidates. */
#define CONN_FDS (3 + CANDIDATES)

/* Somebody at the framed port who has not said all of his hello. */
struct candidate {
	int fd;          /* -1: none */
	int64_t until;   /* ns */
	unsigned heard;  /* bytes */
	unsigned char hello[HELLO_SIZE];
};

/* Packets that are under way, in groups: when the peer has taken in all bytes
 * up to `end`, they are gone. */
#define BATCHES 16
struct batch {
	uint64_t end;
	uint32_t packets;
};

/* Headers that are to be sent: */
#define DUE_ASK 1u       /* for an acknowledgement; */
#define DUE_ACK 2u       /* with one; */
#define DUE_ASK_COUNT 4u /* for what the peer has taken in; */
#define DUE_COUNT 8u     /* with what we have */

/* The framed wire's.  Counters are bytes of payload since the connection. */
struct flow {
	/* Fixed when connected. */
	uint32_t tx_window, rx_window;
	uint32_t packets_max;

	/* The drainer's. */
	_Atomic uint64_t announced; /* in frames whose header was sent */
	uint32_t frame_left;        /* of the last: it lies at the front of the ring */
	unsigned char head[FRAME_HEADER]; /* a header of which ... */
	_Atomic unsigned head_left; /* ... so much the kernel did not take */
	struct batch batches[BATCHES]; /* oldest first */
	unsigned batch_count;
	uint32_t packets;           /* their sum */

	/* The receiver's. */
	_Atomic uint64_t received;  /* over either wire; of a frame from its header on */
	_Atomic uint64_t whole;     /* of that, in frames that are here to their end */
	uint32_t left;              /* of the frame that is being received */
	unsigned char part[FRAME_HEADER]; /* of the next header ... */
	unsigned part_len;          /* ... so much is here */
	_Atomic unsigned receipts;  /* how often somebody has looked at the socket */

	/* The writer's. */
	_Atomic uint64_t accepted;

	/* Anybody's. */
	_Atomic uint64_t acked;     /* the peer's program has had */
	atomic_bool made_room;      /* that has grown, since somebody looked */
	_Atomic uint64_t handed;    /* our program has had */
	_Atomic uint64_t told;      /* of that, the peer was told */
	_Atomic uint64_t taken;     /* the peer has taken in, at least */
	atomic_bool asked;          /* we have asked for an acknowledgement */
	atomic_bool counting;       /* we have asked how much it has taken in */
	_Atomic unsigned due;       /* DUE_*, to be sent by whoever can */
	atomic_bool asked_us;       /* the peer has asked ... */
	atomic_bool pressed;        /* ... ever */
	atomic_bool untold;         /* the driver knows that the peer may ask */
};

enum wire_kind { PLAIN, FRAMED };

enum state { WAITING, CONNECTING, CONNECTED, DISCONNECTED, FAILED };

struct libvchan {
	/* Fixed at init. */
	struct config config;
	struct log log;
	uint32_t peer_cid;  /* whom to connect to, or whom to admit */
	uint32_t own_cid;   /* a second CID to admit, or 0 */
	bool between_guests; /* the host's relay may be in between */
	uint32_t port;      /* the vsock port, of the plain wire */
	uint32_t vchan_port;
	bool server;

	/* Anybody's. */
	_Atomic int state;         /* enum state; a futex */
	_Atomic int error;         /* why it FAILED or was cut off; set before the state */
	atomic_bool nonblocking;
	atomic_bool finished;      /* not an asynchronous connect, or it is done */
	atomic_bool orphan;        /* a forked child's copy: fds closed, no thread */
	atomic_bool closing;
	atomic_bool answered;      /* a client has our hello: it is connected, we will be */
	int64_t linger_until;      /* ns; set before closing */
	struct events events;
	atomic_bool fd_used;       /* the program sleeps on the fd, or may do so */
	int sock;                  /* connected; set before the state */
	bool framed;               /* which wire; set before the state */
	struct flow flow;
	size_t in_size, out_size;  /* the rings as the API has them, in bytes; the
	                            * memory may be more */

	/* The reader's; all but taking from the ring under `reading`. */
	pthread_mutex_t reading;
	_Atomic pthread_t receiver; /* who holds it; 0: nobody, exit(), or who has just begun
	                             * or is about to stop */
	struct ring in;
	bool eof;                  /* nothing will ever come again */
	bool fresh;                /* wait has just filled the read ring */
	bool heard;                /* something came, if only headers, of which `taken`
	                            * does not tell yet */
	bool ahead;                /* the last small read found more than it wanted */
	size_t portion;            /* bytes for the next wire_pull_some */
	atomic_bool rest;          /* the socket may hold more than was asked of it; */
	atomic_bool armed;         /* the fd tells of that, until the next wait; or
	                            * will, once it is used */
	atomic_bool missed;        /* a wait in another thread could not look there */
	atomic_bool capped;        /* data_ready told of less than there is */
	atomic_bool taken;         /* data was received, or a driver's work done of which
	                            * the fd told, since the last wait */
	atomic_bool waiting;       /* a thread is in wait, or about to sleep there */

	/* The writer's. */
	struct ring out;
	_Atomic int streak;        /* small writes in a row, nothing between them */
	int64_t last_write;        /* ns, end of the last direct small one */
	atomic_bool want_room;     /* somebody saw too little: */
	_Atomic size_t room_seen;  /* this */
	atomic_bool writer_waits;  /* a thread is in conn_await_room: */
	_Atomic pthread_t waiter;  /* this */
	int room_wake;             /* eventfd, to end that; -1 before the first time */
	atomic_bool sending;       /* it blocks in the kernel; the ring is empty */

	/* The drainer's. */
	pthread_mutex_t draining;
	atomic_bool stalled;       /* the kernel had no room: the thread waits for it */
	atomic_bool blocked;       /* the peer had none: an acknowledgement will tell */
	atomic_bool starved;       /* its memory is short, not its room: no event tells */
	atomic_bool dead;          /* the kernel takes nothing any more */

	/* The driver's: of driver_thread.c ... */
	pthread_t thread;
	/* ... of driver_caller.c ... */
	int timer;                 /* timerfd, in `wake` */
	int64_t timer_until;       /* ns, CLOCK_NEVER */
	struct pollfd watched[CONN_FDS]; /* what else is in `wake` */
	unsigned watched_count;
	atomic_bool has_watched;
	atomic_bool input_sleeper; /* a thread sleeps on `wake` for room, too */
	_Atomic int handovers;     /* a futex: somebody has stopped driving */
	_Atomic int successors;    /* so many wait for that */
	/* ... and of both. */
	int wake;                  /* eventfd; or epoll fd */
	atomic_bool idle;          /* the thread sleeps until it is woken; or nobody
	                            * drives now */
	atomic_bool wants_input;   /* another thread was receiving: it shall kick us */
	int64_t look_at;           /* ns; when to look for who asks; 0: never */
	int64_t look_pause;        /* ns; the last time until then */
	uint64_t looked_handed;    /* flow.handed then, */
	unsigned looked_receipts;  /* and flow.receipts */
	bool looks;                /* all the time: the program does not */
	int listeners[2];          /* WAITING; by enum wire_kind; -1: none */
	struct candidate candidates[CANDIDATES]; /* of a client, the first */
	int plain;                 /* connected, in case that no framed one comes */
	int64_t plain_until;       /* ns */
	bool plain_is_ours;        /* a framed one will come */
	bool settling;             /* a client's: for that, unless it ends until then */
	bool unprivileged;         /* ... which may not take a port below 1024 */
	unsigned turned_away[2];   /* at each listener: of the next crowd */
	int64_t rest_until[2];     /* ns; nobody is let in there before */
	int attempt;               /* CONNECTING: the socket to connect, or -1 */
	enum wire_kind attempted;
	bool trying;               /* its connect is under way */
	bool asking;               /* it is connected to the relay, which has not answered */
	bool direct;               /* not to the relay, though there may be one */
	unsigned char answer[RELAY_ANSWER_SIZE]; /* the relay's ... */
	unsigned answer_len;       /* ... so much is here */
	int64_t answer_until;      /* ns */
	int64_t relay_missing_since; /* ns; 0: not missing */
	int64_t retry_at, retry_after; /* ns */
	int64_t started, missing_since; /* ns; 0: not missing */
	int64_t probe_at;          /* ns */
	bool peer_seen, peer_missing;
	bool gathered;             /* small writes had their moment to gather */
	_Atomic int64_t nudge_at;  /* ns; 0: not yet known */
	unsigned nudged;           /* times, of all */
	unsigned nudges;           /* since the peer was heard: */
	uint64_t nudge_heard;      /* bytes received and acknowledged then */

	struct libvchan *next, *prev; /* life.h */
	uint64_t exit_mark;           /* out.put when exit() began */
	unsigned nameless;            /* looks in a row of exit() at a lock without a name */
};

HOT enum state handle_state(const libvchan_t *h)
{
	return (enum state)atomic_load(&h->state);
}

/* Connected, or was, over the framed wire. */
HOT bool handle_is_framed(const libvchan_t *h)
{
	enum state s = handle_state(h);

	return (s == CONNECTED || s == DISCONNECTED) && h->framed;
}

/* A handle with no fds, no rings, no thread; NULL/ENOMEM. */
libvchan_t *handle_new(void);
/* Frees all memory; the fds must be closed, the thread gone. */
void handle_free(libvchan_t *h);

/* For tests: a connected handle on any stream socket, which it then owns; all
 * but the addresses and the set-up works without vsock. */
libvchan_t *handle_adopt(int sock, size_t read_min, size_t write_min, bool framed);

/* Rings for what the API is to show as read_min and write_min: 0, or -1 and
 * errno.  Also to replace those that are there. */
int handle_open_rings(libvchan_t *h, size_t read_min, size_t write_min);

/* While a handler that may call exit() must not run. */
void signals_block(sigset_t *saved);
void signals_restore(const sigset_t *saved);

#endif
