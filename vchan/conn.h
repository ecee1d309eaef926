/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection: how it comes about, how it ends, who is told.
 *
 * conn_step does whatever can be done now, in any state, without blocking, and
 * says what to sleep for; it does not care who calls it, as long as one does
 * (driver.h).  The rest is for callers and may run beside it.
 */
#ifndef VCHAN_CONN_H
#define VCHAN_CONN_H

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

#include "handle.h"
#include "wire.h"

/* So many small writes in a row are a stream: they gather in the ring. */
#define CONN_STREAK 5

struct conn_sleep {
	struct pollfd fds[CONN_FDS];
	unsigned count;
	int64_t until; /* ns, CLOCK_NEVER */
	bool patient;  /* what comes into the write ring can wait for that */
	bool busy;     /* another thread was sending, and we could not */
	bool for_input; /* until another thread that is receiving wakes us */
	bool for_ack;   /* for input, or that, as the peer tells of its room there */
};

void conn_watch(struct conn_sleep *s, int fd, short events);

/* The driver.  False: closing, and all is handed over; never call it again. */
bool conn_step(libvchan_t *h, struct conn_sleep *s);
/* The driver, about to sleep: has something come up meanwhile? */
bool conn_has_work(libvchan_t *h, const struct conn_sleep *s);

/* The driver: this connected socket is the peer. */
void conn_established(libvchan_t *h, int sock);
/* The driver: never connected, and never will be. */
void conn_give_up(libvchan_t *h, enum state state, int err);

void conn_raise(libvchan_t *h);
/* A caller: from now on the program may sleep on the fd. */
void conn_begin_to_use_fd(libvchan_t *h);
HOT void conn_use_fd(libvchan_t *h)
{
	if (!atomic_load(&h->fd_used))
		conn_begin_to_use_fd(h);
}

/* A caller found the connection's end.  `tell`: raise the event; false only
 * in libvchan_wait, which is about to report it. */
void conn_ended(libvchan_t *h, bool tell);

/* A caller whom nobody helps, and who does not receive now: is the peer gone, and has
 * it asked for what we owe it? */
void conn_look(libvchan_t *h);

/* A caller: send what lies in the write ring, now, in this thread. */
void conn_flush(libvchan_t *h);

/* A writer: block until there may be room for `enough` bytes, or the end. */
void conn_await_room(libvchan_t *h, size_t enough);

/* Whoever receives holds `reading`, and tells afterwards: that data came, and,
 * with conn_received, what the peer said beside it.  `tell`: as above. */
bool conn_may_receive(libvchan_t *h);
void conn_data_came(libvchan_t *h);
/* ... or only headers. */
void conn_headers_came(libvchan_t *h);
HOT void conn_something_came(libvchan_t *h, bool data)
{
	if (!data && !h->heard)
		return;
	h->heard = false;
	/* A wait that this has deprived of its edge returns all the same. */
	if (!atomic_load(&h->taken))
		atomic_store(&h->taken, true);
	if (data)
		conn_data_came(h);
	else
		conn_headers_came(h);
}
/* Somebody in another thread may want to know what comes behind the data. */
HOT bool conn_awaits_news(const libvchan_t *h)
{
	return h->framed && atomic_load(&h->want_room);
}
void conn_use_room(libvchan_t *h, bool tell);
HOT void conn_received(libvchan_t *h, bool tell)
{
	if (!h->framed)
		return;
	/* In this order: what goes now tells the peer, too. */
	if (atomic_load(&h->flow.made_room) &&
	    (wire_unsent(h) || atomic_load(&h->want_room) || atomic_load(&h->writer_waits)))
		conn_use_room(h, tell);
	if (framed_has_to_tell(&h->flow))
		framed_tell(h);
}
/* When the socket was not emptied, or a wait in another thread could not take in what
 * it was told of, the socket may hold data of which no edge will tell: this says so
 * once there is room. */
void conn_say_that_more_is(libvchan_t *h);
HOT void conn_tell_of_more(libvchan_t *h)
{
	if (atomic_load(&h->missed) || (atomic_load(&h->rest) && !atomic_load(&h->armed)))
		conn_say_that_more_is(h);
}
/* Who could not receive meanwhile (tests/model/room.pml). */
void conn_let_others_in(libvchan_t *h);
/* Looks, a millisecond apart, after which a holder without a name is a frame that exit() has
 * stopped before it signed. */
#define CONN_LOOKS 1000
/* Who holds `reading` says so.  Relaxed: exit() looks for its own thread's name, a close
 * for any that stays. */
HOT void conn_sign(libvchan_t *h)
{
	atomic_store_explicit(&h->receiver, pthread_self(), memory_order_relaxed);
}
/* As conn_stop_receiving, but without an event for what is left in the socket. */
HOT void conn_leave_socket(libvchan_t *h)
{
	/* Or who receives next would pass for us until it has signed. */
	atomic_store_explicit(&h->receiver, 0, memory_order_relaxed);
	pthread_mutex_unlock(&h->reading);
	if (atomic_load(&h->writer_waits) || atomic_load(&h->wants_input))
		conn_let_others_in(h);
}
HOT void conn_stop_receiving(libvchan_t *h)
{
	conn_leave_socket(h);
	conn_tell_of_more(h);
}
/* All of that, for a thread that wants room, not data.  False: another thread
 * is receiving. */
bool conn_take_in(libvchan_t *h);

#endif
