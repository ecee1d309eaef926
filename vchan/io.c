/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls that move bytes, and those that tell how many could move. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

#include "clock.h"
#include "conn.h"
#include "driver.h"
#include "handle.h"
#include "wire.h"

#define EXPORT __attribute__((visibility("default")))

#define PAUSE (250 * CLOCK_US)    /* between writes: not a stream */
#define SMALL_WRITE ((size_t)8192) /* bytes */

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static int fail(int err)
{
	errno = err;
	return -1;
}

/* Not (yet, or any more) a channel in this process. */
static bool is_unusable(const libvchan_t *h)
{
	return !h || atomic_load(&h->orphan) || !atomic_load(&h->finished) ||
	       atomic_load(&h->state) == FAILED;
}

/* The errno for a call on such a handle. */
static int unusable(const libvchan_t *h, int when_gone)
{
	if (!h)
		return EINVAL;
	if (atomic_load(&h->orphan) || atomic_load(&h->finished))
		return when_gone;
	return EAGAIN;
}

/* 1: go on; 0: nothing to do; -1: errno. */
static int check_slowly(const libvchan_t *h, const void *data, size_t size, int when_gone)
{
	if (is_unusable(h)) {
		if (h && size == 0 && atomic_load(&h->orphan))
			return 0;
		return fail(unusable(h, when_gone));
	}
	if (size == 0)
		return 0;
	return data ? 1 : fail(EINVAL);
}

HOT int check(const libvchan_t *h, const void *data, size_t size, int when_gone)
{
	if (h && data && size && !atomic_load(&h->orphan) && atomic_load(&h->finished) &&
	    handle_state(h) == CONNECTED)
		return 1;
	return check_slowly(h, data, size, when_gone);
}

/* As a call begins that tells, or depends on, whether the peer is still there. */
HOT void look_after(libvchan_t *h)
{
	if (driver_attends || !h)
		return;
	driver_help(h);
	if (!atomic_load(&h->orphan))
		conn_look(h);
}

/* A frame's header tells what we owe; and who speaks frames does not leave by halves,
 * so that the kernel takes nothing for a peer that is gone. */
HOT void look_before_writing(libvchan_t *h)
{
	if (h && handle_is_framed(h))
		driver_help(h);
	else
		look_after(h);
}

/* The program turns to something else than writing: what has gathered goes.
 * When there is no room the driver is waiting for it already. */
static void end_streak(libvchan_t *h)
{
	if (atomic_load(&h->streak))
		atomic_store(&h->streak, 0);
	if (wire_unsent(h) && !wire_is_stuck(h))
		conn_flush(h);
}

/* ---- writing ---- */

/* Larger writes gain nothing by gathering. */
HOT bool is_small(const libvchan_t *h, size_t size)
{
	return size <= SMALL_WRITE && size <= h->out_size / 4;
}

/* Counts this write; true: it belongs to a stream.  The first of a streak, which
 * most often is a request or an answer, needs no clock. */
static bool is_stream(libvchan_t *h, size_t size)
{
	int streak = atomic_load(&h->streak);

	if (!is_small(h, size) || !driver_attends) {
		if (streak)
			atomic_store(&h->streak, 0);
		return false;
	}
	if (streak >= CONN_STREAK)
		return true;
	if (streak > 1 && clock_now() - h->last_write > PAUSE)
		streak = 0;
	atomic_store(&h->streak, streak + 1);
	return false;
}

static size_t put(libvchan_t *h, const char *data, size_t size)
{
	size_t n = min_size(size, wire_room(h));
	bool first = ring_fill(&h->out) == 0;

	if (n == 0)
		return 0;
	wire_put(h, data, n);
	/* Behind what waits for an acknowledgement there is nothing to do. */
	if (handle_state(h) != WAITING && (first || !atomic_load(&h->blocked)))
		driver_kick(h);
	return n;
}

/* Somebody has seen so little: he is to be told of more.  What the peer says
 * of its room comes with its input (tests/model/room.pml). */
static void want_more_than(libvchan_t *h, size_t room)
{
	atomic_store(&h->room_seen, room);
	atomic_store(&h->want_room, true);
	if (wire_ask(h))
		conn_take_in(h);
}

/* Nothing was sent, so that the kernel has not told whether the peer is gone. */
static bool is_there(libvchan_t *h)
{
	if (!driver_attends)
		conn_look(h);
	return handle_state(h) != DISCONNECTED;
}

/* "I saw too little", then look again; true: there is enough now. */
static bool ask_for_room(libvchan_t *h, size_t enough)
{
	want_more_than(h, wire_room(h));
	return is_there(h) && wire_room(h) >= enough;
}

/* The kernel wakes this for room and for a peer that reads no more, but not
 * for one that only writes no more; whoever sees that end sees `sending`, or
 * we see the state that it has set. */
static ssize_t send_waiting(libvchan_t *h, const char *data, size_t size)
{
	ssize_t n = 0;

	atomic_store(&h->sending, true);
	if (handle_state(h) == CONNECTED)
		n = wire_send(h, data, size, true);
	atomic_store(&h->sending, false);
	return n;
}

/* The write ring is empty: straight into the kernel, the rest into the ring.
 * The bytes that are dealt with; -1: the peer is gone. */
static ssize_t put_directly(libvchan_t *h, const char *data, size_t size, bool blocking)
{
	ssize_t n = wire_send(h, data, size, false);

	if (n < 0)
		return -1;
	if ((size_t)n == size) {
		if (atomic_load(&h->streak) > 1)
			h->last_write = clock_now();
		return n;
	}
	if (h->framed)
		return n || is_there(h) ? n + (ssize_t)put(h, data + n, size - (size_t)n) : -1;
	/* What no ring could hold waits in the kernel, not here. */
	if (blocking && size - (size_t)n > h->out_size) {
		ssize_t more = driver_await_output(h) ?
			send_waiting(h, data + n, size - (size_t)n) : 0;

		return more < 0 ? -1 : n + more;
	}
	atomic_store(&h->stalled, true);
	return n + (ssize_t)put(h, data + n, size - (size_t)n);
}

/* Connected, with something in the ring before us. */
static size_t put_behind(libvchan_t *h, const char *data, size_t size, bool stream)
{
	if (size > wire_room(h) || (!stream && !wire_is_stuck(h)))
		conn_flush(h);
	if (ring_fill(&h->out) == 0)
		return 0; /* now directly */
	return put(h, data, size);
}

/* One step of a write: the bytes that are dealt with, 0 when none now; -1. */
static ssize_t put_some(libvchan_t *h, const char *data, size_t size, bool stream,
			bool blocking)
{
	if (handle_state(h) == WAITING)
		return (ssize_t)put(h, data, size);
	if (ring_fill(&h->out))
		return (ssize_t)put_behind(h, data, size, stream);
	if (stream)
		return (ssize_t)put(h, data, size);
	return put_directly(h, data, size, blocking);
}

/* The errno when the connection is over: EPROTO when that was the peer's doing. */
static int gone(const libvchan_t *h, int usual)
{
	return atomic_load(&h->error) == EPROTO ? EPROTO : usual;
}

static bool is_gone(libvchan_t *h)
{
	if (atomic_load(&h->dead))
		conn_ended(h, true);
	return handle_state(h) == DISCONNECTED;
}

/* What a write returns when it has done nothing. */
static int nothing_fits(libvchan_t *h)
{
	return is_gone(h) ? fail(gone(h, EPIPE)) : 0;
}

/* A step of a non-blocking write has done nothing; true: another one may. */
static bool may_go_on(libvchan_t *h)
{
	if (ring_fill(&h->out) == 0 && wire_room(h))
		return true; /* what was in the ring has gone: now directly */
	return ask_for_room(h, 1);
}

/* The first `done` bytes have gone already. */
static int write_rest(libvchan_t *h, const char *data, size_t size, size_t done, bool blocking)
{
	bool stream = is_stream(h, size);
	ssize_t n;

	while (done < size) {
		if (is_gone(h))
			return fail(gone(h, EPIPE));
		n = put_some(h, data + done, size - done, stream, blocking);
		if (n < 0)
			continue; /* gone */
		done += (size_t)n;
		if (done == size)
			break;
		if (blocking)
			conn_await_room(h, 1);
		else if (n == 0 && !may_go_on(h))
			break;
	}
	return done ? (int)done : nothing_fits(h);
}

static int write_all(libvchan_t *h, const char *data, size_t size, bool blocking)
{
	return write_rest(h, data, size, 0, blocking);
}

/* A small write that follows none, most often a request or an answer: straight into
 * the kernel.  The bytes that are dealt with; 0: none, and there was no harm. */
HOT size_t go_at_once(libvchan_t *h, const void *data, size_t size)
{
	ssize_t n;

	if (!h || !data || !size || !atomic_load(&h->finished) ||
	    handle_state(h) != CONNECTED || atomic_load(&h->orphan) || atomic_load(&h->dead) ||
	    atomic_load(&h->streak) || !is_small(h, size) || wire_unsent(h) ||
	    wire_room(h) < size)
		return 0;
	atomic_store(&h->streak, 1);
	n = wire_send(h, data, size, false);
	return n > 0 ? (size_t)n : 0;
}

/* A stream goes on: behind what waits in the write ring already.  Most of all
 * writes of small messages end here. */
HOT bool gathers(libvchan_t *h, const void *data, size_t size)
{
	/* Before there was a streak, the rings may be the driver's. */
	if (!h || !data || atomic_load(&h->streak) < CONN_STREAK || !size || !is_small(h, size) ||
	    handle_state(h) != CONNECTED || atomic_load(&h->orphan) || atomic_load(&h->dead) ||
	    ring_fill(&h->out) == 0 || wire_room(h) < size)
		return false;
	wire_put(h, data, size);
	if (!atomic_load(&h->blocked))
		driver_kick(h);
	return true;
}

/* What can be done at once: all, some or nothing of it. */
HOT size_t begin_write(libvchan_t *h, const void *data, size_t size)
{
	if (!driver_attends) {
		look_before_writing(h);
		return 0;
	}
	return gathers(h, data, size) ? size : go_at_once(h, data, size);
}

/* There is room for the rest. */
HOT int end_write(libvchan_t *h, const void *data, size_t size, size_t done)
{
	if (done == size)
		return (int)size;
	return write_rest(h, data, size, done, !atomic_load(&h->nonblocking));
}

EXPORT int libvchan_write(libvchan_t *h, const void *data, size_t size)
{
	size_t done = begin_write(h, data, size);
	int go;

	if (done)
		return end_write(h, data, size, done);
	go = check(h, data, size, EPIPE);
	if (go <= 0)
		return go;
	if (size > INT_MAX)
		return fail(EINVAL);
	return write_all(h, data, size, !atomic_load(&h->nonblocking));
}

/* Room for all of it; blocking: waits for it. */
static bool await_room_for(libvchan_t *h, size_t size, bool blocking)
{
	while (wire_room(h) < size && !is_gone(h)) {
		if (handle_state(h) == CONNECTED)
			conn_flush(h);
		if (wire_room(h) >= size)
			break;
		if (!blocking)
			return ask_for_room(h, size);
		conn_await_room(h, size);
	}
	return true;
}

/* More than a ring, over the framed wire: all of it, although the peer has no
 * room for all of it.  There is memory: wire_send_most. */
static int send_over(libvchan_t *h, const char *data, size_t size)
{
	ssize_t n;

	if (!await_room_for(h, h->out_size, false))
		return nothing_fits(h);
	if (is_gone(h))
		return fail(gone(h, EPIPE));
	n = wire_send(h, data, size, false);
	if (n < 0)
		return fail(gone(h, EPIPE));
	if ((size_t)n < size) {
		wire_put(h, data + n, size - (size_t)n);
		driver_kick(h);
	}
	return (int)size;
}

EXPORT int libvchan_send(libvchan_t *h, const void *data, size_t size)
{
	size_t done = begin_write(h, data, size);
	bool blocking;
	int go;

	if (done)
		return end_write(h, data, size, done);
	go = check(h, data, size, EPIPE);
	if (go <= 0)
		return go;
	if (size > wire_send_most(h))
		return fail(EMSGSIZE);
	blocking = !atomic_load(&h->nonblocking);
	/* Over an exact ring to wait for all of the room can be to wait for ever:
	 * for a peer that waits for all of the data.  So let it have what fits. */
	if (blocking && handle_is_framed(h))
		return write_all(h, data, size, true);
	if (size > h->out_size)
		return send_over(h, data, size);
	if (!await_room_for(h, size, blocking))
		return nothing_fits(h);
	return write_all(h, data, size, blocking);
}

EXPORT int libvchan_buffer_space(libvchan_t *h)
{
	size_t room;

	look_after(h);
	if (is_unusable(h) || handle_state(h) == DISCONNECTED)
		return 0;
	room = wire_room(h);
	if (room < h->out_size / 2 && handle_state(h) == CONNECTED && !wire_is_stuck(h)) {
		conn_flush(h);
		room = wire_room(h);
	}
	if (room < h->out_size) {
		want_more_than(h, room);
		room = wire_room(h);
	}
	return (int)room;
}

/* ---- reading: `reading` is held, but for what lies in the ring ---- */

static void start_reading(libvchan_t *h)
{
	pthread_mutex_lock(&h->reading);
	conn_sign(h);
}

static void after_pulling(libvchan_t *h, size_t n)
{
	conn_something_came(h, n > 0);
	if (h->eof)
		conn_ended(h, true);
	conn_received(h, true);
}

/* When the program was told of less than there was, no event will tell of the
 * rest. */
HOT void tell_of_capped(libvchan_t *h)
{
	if (atomic_load(&h->capped) && ring_fill(&h->in) &&
	    atomic_exchange(&h->capped, false))
		conn_raise(h);
}

/* Behind what was read the peer may have asked for the room, and no other call may
 * come.  One that has asked before need not. */
HOT void look_for_question(libvchan_t *h)
{
	if (!driver_attends && handle_is_framed(h) && framed_owes_news(h) &&
	    (atomic_load(&h->rest) || (framed_owes_room(h) && !atomic_load(&h->flow.pressed))))
		conn_look(h);
}

/* The program has had n bytes, or the call has failed. */
static int end_reading(libvchan_t *h, int n)
{
	int err;

	if (n > 0) {
		conn_stop_receiving(h);
		wire_handed(h, (size_t)n);
		look_for_question(h);
		tell_of_capped(h);
		return n;
	}
	err = errno;
	conn_stop_receiving(h);
	errno = err;
	return n;
}

/* All of it lies in the read ring, which only the reader takes from, so that it needs
 * no lock; and nothing else is to be done.  Most of all reads of small messages end
 * here. */
HOT bool was_ready(libvchan_t *h, void *data, size_t size)
{
	/* Until it is finished a client's rings are the driver's. */
	if (!h || !data || !atomic_load(&h->finished) || ring_fill(&h->in) < size ||
	    atomic_load(&h->orphan) || atomic_load(&h->streak) || ring_fill(&h->out) ||
	    size - 1 >= h->in_size || (!driver_attends && atomic_load(&h->has_watched)))
		return false;
	ring_get(&h->in, data, size);
	wire_handed(h, size);
	look_for_question(h);
	conn_tell_of_more(h);
	tell_of_capped(h);
	return true;
}

static size_t take(libvchan_t *h, char *data, size_t size)
{
	size_t n = min_size(size, ring_fill(&h->in));

	if (n == 0)
		return 0;
	ring_get(&h->in, data, n);
	return n;
}

/* The read ring is empty.  As wire_recv. */
static ssize_t receive(libvchan_t *h, char *data, size_t size, bool blocking)
{
	ssize_t n;

	if (h->eof)
		return -1;
	n = wire_recv(h, data, min_size(size, h->in_size), blocking && driver_await_input(h));
	after_pulling(h, n > 0 ? (size_t)n : 0);
	return n;
}

/* False: the peer has not come, and we may not wait for it. */
static bool await_peer(libvchan_t *h, bool blocking)
{
	if (handle_state(h) == WAITING && blocking)
		driver_await_peer(h);
	return handle_state(h) != WAITING;
}

/* Was there ever a connection?  A server's client may die before it comes. */
static bool has_socket(const libvchan_t *h)
{
	return h->sock >= 0;
}

static int read_some(libvchan_t *h, char *data, size_t size, bool blocking)
{
	size_t got;
	ssize_t n = 0;

	if (!await_peer(h, blocking))
		return 0;
	if (!has_socket(h))
		return fail(gone(h, ECONNRESET));
	got = take(h, data, size);
	/* All that may be had without waiting is more than lay in the ring. */
	if (got == size || (got && blocking && !atomic_load(&h->rest)))
		return (int)got;
	blocking &= got == 0;
	do
		n = receive(h, data + got, size - got, blocking);
	while (n == 0 && blocking);
	if (n < 0 && got == 0)
		return fail(gone(h, ECONNRESET));
	return (int)(got + (n > 0 ? (size_t)n : 0));
}

EXPORT int libvchan_read(libvchan_t *h, void *data, size_t size)
{
	int go;

	if (was_ready(h, data, size))
		return (int)size;
	driver_help(h);
	go = check(h, data, size, ECONNRESET);
	if (go <= 0)
		return go;
	end_streak(h);
	start_reading(h);
	return end_reading(h, read_some(h, data, min_size(size, h->in_size),
					!atomic_load(&h->nonblocking)));
}

/* The read ring is empty: all of it straight from the socket, or what came of
 * it into the ring.  True: all of it. */
static bool receive_exactly(libvchan_t *h, char *data, size_t size)
{
	ssize_t n = wire_recv(h, data, size, driver_await_input(h));

	if (n < 0) {
		after_pulling(h, 0);
		return false;
	}
	if ((size_t)n < size && n > 0)
		ring_put(&h->in, data, (size_t)n);
	after_pulling(h, (size_t)n);
	return (size_t)n == size;
}

static int recv_all(libvchan_t *h, char *data, size_t size, bool blocking)
{
	if (!await_peer(h, blocking))
		return 0;
	if (!has_socket(h))
		return fail(gone(h, ECONNRESET));
	if (blocking && ring_fill(&h->in) == 0 && !h->eof &&
	    receive_exactly(h, data, size))
		return (int)size;
	while (ring_fill(&h->in) < size) {
		size_t lacks = size - ring_fill(&h->in);
		bool wait = blocking && !h->eof && driver_await_input(h);
		size_t n = wire_pull(h, lacks > PORTION ? lacks : PORTION, wait);

		after_pulling(h, n);
		if (h->eof && ring_fill(&h->in) < size)
			return fail(gone(h, ECONNRESET));
		if (n == 0 && !blocking)
			return 0;
	}
	return (int)take(h, data, size);
}

EXPORT int libvchan_recv(libvchan_t *h, void *data, size_t size)
{
	int go;

	if (was_ready(h, data, size))
		return (int)size;
	driver_help(h);
	go = check(h, data, size, ECONNRESET);
	if (go <= 0)
		return go;
	if (size > h->in_size)
		return fail(EMSGSIZE);
	end_streak(h);
	start_reading(h);
	return end_reading(h, recv_all(h, data, size, !atomic_load(&h->nonblocking)));
}

/* A ring's worth is what a program can ask for in one call. */
static int ready(libvchan_t *h)
{
	size_t n = ring_fill(&h->in);

	if (n <= h->in_size)
		return (int)n;
	atomic_store(&h->capped, true);
	return (int)h->in_size;
}

/* At the end of the connection 0 says that nothing is left, now or later. */
static bool is_last_word(const libvchan_t *h)
{
	return handle_state(h) == DISCONNECTED && !ring_fill(&h->in);
}

/* False: another thread is receiving, and takes in what comes.  At the end we wait until it
 * has: the driver may be in the middle of the last bytes. */
static bool may_look(libvchan_t *h)
{
	if (conn_may_receive(h))
		return true;
	if (!is_last_word(h))
		return false;
	start_reading(h);
	return true;
}

static void look_for_data(libvchan_t *h)
{
	bool last;

	do {
		last = is_last_word(h);
		after_pulling(h, wire_pull_some(h, false));
	} while (last && !h->eof && is_last_word(h)); /* behind many headers */
}

EXPORT int libvchan_data_ready(libvchan_t *h)
{
	driver_help(h);
	if (is_unusable(h) || handle_state(h) == WAITING || !has_socket(h))
		return 0;
	end_streak(h);
	if (!may_look(h))
		return ready(h);
	if (h->fresh && ring_fill(&h->in))
		h->fresh = false;
	else
		look_for_data(h);
	conn_stop_receiving(h);
	return ready(h);
}

/* ---- waiting ---- */

/* The edge is spent: take in what there is, or leave word that there is something. */
static void take_in(libvchan_t *h)
{
	atomic_store(&h->missed, true);
	if (!conn_may_receive(h))
		return; /* whoever reads looks at `missed` after unlocking */
	atomic_store(&h->missed, false);
	/* News of room may come behind the data. */
	if (conn_awaits_news(h))
		wire_pull(h, SIZE_MAX, false);
	else
		wire_pull_some(h, false);
	h->heard = false;
	h->fresh = true;
	if (h->eof)
		conn_ended(h, false);
	conn_leave_socket(h);
	conn_received(h, false);
	/* Quiet, though there may be more; but not for a thread that wants room and
	 * could not look for it while we did. */
	if (conn_awaits_news(h))
		conn_tell_of_more(h);
}

EXPORT int libvchan_wait(libvchan_t *h)
{
	bool at_once;
	int seen = 0;

	if (!h)
		return fail(EINVAL);
	if (is_unusable(h)) {
		driver_help(h);
		return 0;
	}
	conn_use_fd(h);
	end_streak(h);
	/* "I am about to wait", then look: a reader in another thread sets
	 * `taken` and then looks at `waiting` (tests/model/events.pml). */
	atomic_store(&h->waiting, true);
	at_once = atomic_exchange(&h->taken, false);
	if (handle_state(h) != DISCONNECTED)
		seen = driver_wait(h, at_once);
	else
		driver_help(h);
	atomic_store(&h->waiting, false);
	if (seen & EVENTS_END)
		conn_ended(h, false);
	events_lock(&h->events);
	events_clear(&h->events);
	events_unlock(&h->events);
	atomic_store(&h->armed, false);
	if (handle_state(h) != WAITING && has_socket(h))
		take_in(h);
	return 0;
}

/* ---- asking ---- */

EXPORT EVTCHN libvchan_fd_for_select(libvchan_t *h)
{
	if (is_unusable(h))
		return fail(unusable(h, EPIPE));
	conn_use_fd(h);
	driver_help(h);
	return h->events.epoll;
}

EXPORT int libvchan_is_open(libvchan_t *h)
{
	look_after(h);
	if (!h || atomic_load(&h->orphan))
		return VCHAN_DISCONNECTED;
	if (!atomic_load(&h->finished))
		return VCHAN_WAITING;
	switch (handle_state(h)) {
	case WAITING:
	case CONNECTING:
		return VCHAN_WAITING;
	case CONNECTED:
		return VCHAN_CONNECTED;
	default:
		return VCHAN_DISCONNECTED;
	}
}

EXPORT void libvchan_set_blocking(libvchan_t *h, bool blocking)
{
	if (h)
		atomic_store(&h->nonblocking, !blocking);
}
