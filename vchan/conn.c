/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection's life; how it comes about is in setup_*.c.
 *
 * When connected the driver sleeps until the peer hangs up, or until there is
 * something in the write ring.  Small writes that follow one another get a
 * moment there to gather (GATHER) before they are sent in one go; when the
 * next such moment passes without a write the streak is over, and small writes
 * go out directly again.
 *
 * The end is seen by the driver (POLLRDHUP), by a wait (EPOLLRDHUP), by a read
 * (end of file) or by a write (EPIPE), whoever comes first.  The peer's end of
 * stream counts as the end; the socket stays until close: to read what is
 * left, and, on the plain wire, to send what was written before.
 *
 * On the framed wire, who waits for the peer's room waits for input, and takes
 * it in: a writer that blocks (conn_await_room), or the driver while something
 * is left in the write ring.  One thread at a time may receive.  Who finds
 * another one receiving sleeps without the socket; the other wakes it when
 * there is room, and when it leaves: then it is its turn to look
 * (tests/model/room.pml).
 */
#define _GNU_SOURCE
#include "conn.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "address.h"
#include "clock.h"
#include "driver.h"
#include "life.h"
#include "nudge.h"
#include "setup.h"
#include "vsock.h"
#include "wake.h"
#include "wire.h"

#define GATHER (200 * CLOCK_US)
#define RETRY_SOON (20 * CLOCK_MS)
#define HELP_MS 100
/* How soon a peer that asks for room is heard when the program reads without
 * receiving; with a large window it hardly waits for so little.  So long as the
 * program receives, and hears it, the pauses grow up to LOOK_RARELY times that. */
#define LARGE_WINDOW (64u << 10)
#define LOOK_EXACT (2 * CLOCK_MS)
#define LOOK_LARGE (20 * CLOCK_MS)
#define LOOK_RARELY 5

/* ---- the lock of the events, for the driver ---- */

/* False: the handle is being closed, and nobody is left to be told. */
static bool lock_events(libvchan_t *h)
{
	const struct timespec pause = { 0, 100000 };

	while (!events_trylock(&h->events)) {
		if (atomic_load(&h->closing))
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

void conn_raise(libvchan_t *h)
{
	if (!lock_events(h))
		return;
	events_raise(&h->events);
	events_unlock(&h->events);
}

/* Not by itself, when it has received what it waits for. */
static void wake_writer(libvchan_t *h)
{
	if (atomic_load(&h->writer_waits) &&
	    !pthread_equal(atomic_load(&h->waiter), pthread_self()))
		wake_signal(h->room_wake);
}

void conn_watch(struct conn_sleep *s, int fd, short events)
{
	s->fds[s->count].fd = fd;
	s->fds[s->count].events = events;
	s->fds[s->count++].revents = 0;
}

/* ---- the end ---- */

/* Under the lock of the events. */
static void end_connection(libvchan_t *h, bool tell)
{
	if (handle_state(h) != CONNECTED)
		return;
	atomic_store(&h->state, DISCONNECTED);
	/* Later news of a dead connection is no event any more. */
	if (atomic_load(&h->fd_used))
		events_drop_socket(&h->events, h->sock);
	if (tell)
		events_raise(&h->events);
	/* Nothing is cut off by this: the ring is empty then. */
	if (atomic_load(&h->sending))
		shutdown(h->sock, SHUT_WR);
	/* Its program acknowledges nothing any more. */
	if (h->framed)
		atomic_store(&h->dead, true);
	wake_changed(&h->state);
	wake_writer(h);
	log_info(&h->log, "disconnected");
}

void conn_ended(libvchan_t *h, bool tell)
{
	if (!lock_events(h))
		return;
	end_connection(h, tell);
	events_unlock(&h->events);
}

void conn_give_up(libvchan_t *h, enum state state, int err)
{
	h->error = err;
	atomic_store(&h->dead, true);
	atomic_store(&h->state, state);
	wake_changed(&h->state);
	conn_raise(h);
}

/* ---- the beginning ---- */

/* Under the lock of the events. */
static bool watch_socket(libvchan_t *h)
{
	if (events_add_socket(&h->events, h->sock) == 0)
		return true;
	log_error(&h->log, "cannot watch the connection: %s", log_reason(errno).text);
	end_connection(h, true);
	return false;
}

void conn_established(libvchan_t *h, int sock)
{
	bool watched;

	h->sock = sock;
	if (!lock_events(h))
		return;
	/* The state first: the fd may be readable from the next line on. */
	atomic_store(&h->state, CONNECTED);
	watched = !atomic_load(&h->fd_used) || watch_socket(h);
	events_raise(&h->events);
	events_unlock(&h->events);
	wake_changed(&h->state);
	if (watched)
		log_info(&h->log, "connected, %s wire", h->framed ? "framed" : "plain");
}

void conn_begin_to_use_fd(libvchan_t *h)
{
	events_lock(&h->events);
	if (!atomic_exchange(&h->fd_used, true) && handle_state(h) == CONNECTED)
		watch_socket(h);
	events_unlock(&h->events);
}

/* ---- connected, and after ---- */

static void notice_end(libvchan_t *h)
{
	if (handle_state(h) == CONNECTED &&
	    (vsock_has_ended(h->sock) || atomic_load(&h->dead)))
		conn_ended(h, true);
}

/* Somebody had seen too little room, and now there is more. */
static bool has_room_news(libvchan_t *h)
{
	if (handle_state(h) == DISCONNECTED)
		return false; /* nobody can use it */
	return atomic_load(&h->want_room) && wire_room(h) > atomic_load(&h->room_seen) &&
	       atomic_exchange(&h->want_room, false);
}

/* False: it took longer than HELP_MS. */
static bool lock_for_a_while(pthread_mutex_t *m)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += HELP_MS * CLOCK_MS;
	until.tv_sec += until.tv_nsec / CLOCK_S;
	until.tv_nsec %= CLOCK_S;
	return pthread_mutex_timedlock(m, &until) == 0;
}

/* When the handle is closed nobody else is in a call any more, but a send that
 * exit() has stopped may hold the lock for good, at a place in the stream that
 * nobody knows; somebody who only helps at exit soon gives it back.  The close
 * may begin while we wait. */
static bool lock_to_drain(libvchan_t *h)
{
	bool closing;

	if (pthread_mutex_trylock(&h->draining) == 0)
		return true;
	do {
		closing = atomic_load(&h->closing);
		if (lock_for_a_while(&h->draining))
			return true;
	} while (!closing);
	atomic_store(&h->dead, true);
	return false;
}

/* False: another thread is sending, and our work, to look for what it leaves. */
static bool drain(libvchan_t *h)
{
	if (driver_attends || atomic_load(&h->closing)) {
		if (!lock_to_drain(h))
			return true;
	} else if (pthread_mutex_trylock(&h->draining) != 0) {
		return false;
	}
	wire_drain(h);
	wire_unlock(h);
	/* It may have looked while the kernel seemed to have room. */
	wake_writer(h);
	return true;
}

static bool is_streaming(libvchan_t *h)
{
	return atomic_load(&h->streak) >= CONN_STREAK;
}

/* The write ring has something.  False: it shall gather first. */
static bool is_due(libvchan_t *h, bool streaming)
{
	return !streaming || h->gathered || wire_is_stuck(h) ||
	       atomic_load(&h->closing) || ring_fill(&h->out) >= h->out_size / 2;
}

static void send_what_is_due(libvchan_t *h, struct conn_sleep *s)
{
	bool streaming = is_streaming(h);

	if (!wire_unsent(h)) {
		/* A whole moment without a write: the streak is over. */
		if (h->gathered)
			atomic_store(&h->streak, 0);
		h->gathered = false;
		return;
	}
	if (is_due(h, streaming)) {
		s->busy = !drain(h);
		if (has_room_news(h))
			conn_raise(h);
		notice_end(h);
	}
	h->gathered = streaming && !wire_is_stuck(h);
	if (h->gathered)
		s->until = clock_now() + GATHER;
}

/* The driver: as conn_take_in, or whoever receives now will kick us. */
static bool take_in_or_wait(libvchan_t *h, struct conn_sleep *s)
{
	if (conn_take_in(h))
		return true;
	atomic_store(&h->wants_input, true);
	if (!conn_take_in(h)) {
		s->for_input = true;
		return false;
	}
	atomic_store(&h->wants_input, false);
	return true;
}

/* What is in the ring waits for the peer's room: look for news of it. */
static short await_acknowledgement(libvchan_t *h, struct conn_sleep *s)
{
	if (!wire_unsent(h) || !atomic_load(&h->blocked))
		return 0;
	if (!take_in_or_wait(h, s)) {
		s->for_ack = true;
		return 0;
	}
	s->for_ack = wire_unsent(h) && atomic_load(&h->blocked);
	return s->for_ack ? POLLIN : 0;
}

static int64_t look_every(const libvchan_t *h)
{
	return h->flow.rx_window < LARGE_WINDOW ? LOOK_EXACT : LOOK_LARGE;
}

static int64_t longer(const libvchan_t *h)
{
	int64_t twice = 2 * h->look_pause, most = LOOK_RARELY * look_every(h);

	if (atomic_load(&h->flow.asked_us))
		return look_every(h);
	return twice < most ? twice : most;
}

/* The peer is told.  Or is it?  (tests/model/due.pml) */
static bool stop_looking(libvchan_t *h)
{
	if (framed_owes_news(h) && !atomic_load(&h->dead))
		return false;
	atomic_store(&h->flow.untold, false);
	h->look_at = 0;
	h->looks = false;
	if (!framed_owes_news(h) || atomic_load(&h->dead))
		return true;
	atomic_store(&h->flow.untold, true);
	return false;
}

static void look_later(libvchan_t *h, uint64_t handed, int64_t pause)
{
	h->looked_handed = handed;
	h->looked_receipts = atomic_load(&h->flow.receipts);
	h->look_pause = pause;
	h->look_at = clock_now() + pause;
}

static void look_for_who_asks(libvchan_t *h, struct conn_sleep *s)
{
	uint64_t handed = atomic_load(&h->flow.handed);
	bool active = handed != h->looked_handed &&
		      atomic_load(&h->flow.receipts) != h->looked_receipts;

	/* A program that receives hears who asks. */
	if (!active && stop_looking(h))
		return;
	if (!active && !take_in_or_wait(h, s)) {
		h->look_at = 0;
		h->looks = false;
	} else {
		/* One that reads is left alone for a while. */
		h->looks = handed == h->looked_handed;
		look_later(h, handed, active ? longer(h) : look_every(h));
	}
	if (atomic_load(&h->flow.asked_us))
		wire_acknowledge(h);
}

/* Our program has had something, and the peer may ask after that. */
static short tell_who_asks(libvchan_t *h, struct conn_sleep *s)
{
	if (!atomic_load(&h->flow.untold) || s->for_input)
		return 0;
	if (!h->look_at)
		look_later(h, atomic_load(&h->flow.handed), look_every(h));
	else if (h->looks || clock_now() >= h->look_at)
		look_for_who_asks(h, s);
	if (h->looks)
		return POLLIN;
	if (h->look_at && h->look_at < s->until)
		s->until = h->look_at;
	return 0;
}

static void nudge(libvchan_t *h, struct conn_sleep *s)
{
	uint64_t heard = atomic_load(&h->flow.received) + atomic_load(&h->flow.acked);
	int64_t now = clock_now(), at = atomic_load(&h->nudge_at);

	if (heard != h->nudge_heard || !at) {
		h->nudge_heard = heard;
		h->nudges = 0;
		if (!at || at > now + NUDGE_EVERY)
			at = now + NUDGE_EVERY;
	}
	if (now >= at) {
		vsock_nudge(h->sock, h->config.buffer_size, ++h->nudged);
		at = now + nudge_pause(++h->nudges);
	}
	atomic_store(&h->nudge_at, at);
	if (driver_attends && at < s->until)
		s->until = at;
}

static void step_open(libvchan_t *h, struct conn_sleep *s)
{
	int events = 0;

	notice_end(h);
	send_what_is_due(h, s);
	if (h->framed) {
		events |= await_acknowledgement(h, s);
		events |= tell_who_asks(h, s);
	}
	if (handle_state(h) == CONNECTED)
		events |= POLLRDHUP;
	if (handle_state(h) == CONNECTED && setup_is_for_guest(h))
		nudge(h, s);
	s->patient = h->gathered;
	if (wire_unsent(h) && atomic_load(&h->stalled)) {
		s->patient = true;
		if (!atomic_load(&h->starved))
			events |= POLLOUT;
		/* No event tells of memory that is free again, nor, on a full
		 * socket, of the peer's other half. */
		if (atomic_load(&h->starved) || handle_state(h) == DISCONNECTED)
			s->until = clock_now() + RETRY_SOON;
	}
	if (events)
		conn_watch(s, h->sock, (short)events);
}

bool conn_has_work(libvchan_t *h, const struct conn_sleep *s)
{
	if (s->for_input && !atomic_load(&h->wants_input))
		return true;
	if (atomic_load(&h->flow.untold) && !s->for_input && !h->look_at)
		return true;
	/* A caller that tries to send unsets `blocked` for a moment: who looks then
	 * does not await what he must. */
	return wire_unsent(h) && !s->busy && !(atomic_load(&h->blocked) && s->for_ack);
}

/* `tell`: as conn_ended. */
static void flush(libvchan_t *h, bool tell)
{
	sigset_t saved;

	signals_block(&saved); /* handle.h */
	drain(h);
	signals_restore(&saved);
	if (atomic_load(&h->dead))
		conn_ended(h, tell);
	if (has_room_news(h) && tell)
		conn_raise(h);
	if (wire_unsent(h))
		driver_kick(h);
}

void conn_flush(libvchan_t *h)
{
	flush(h, true);
}

/* ---- receiving, by whoever does ---- */

void conn_use_room(libvchan_t *h, bool tell)
{
	if (!atomic_exchange(&h->flow.made_room, false))
		return;
	if (wire_unsent(h))
		flush(h, tell);
	if (has_room_news(h) && tell)
		conn_raise(h);
	wake_writer(h);
}

void conn_data_came(libvchan_t *h)
{
	if (ring_fill(&h->in) || atomic_load(&h->waiting))
		conn_raise(h);
}

void conn_headers_came(libvchan_t *h)
{
	if (atomic_load(&h->waiting))
		conn_raise(h);
}

bool conn_may_receive(libvchan_t *h)
{
	if (pthread_mutex_trylock(&h->reading) != 0)
		return false;
	conn_sign(h);
	return true;
}

/* The fd is readable so long as the socket is. */
static void arm(libvchan_t *h)
{
	if (!atomic_load(&h->fd_used))
		return; /* it will be, when it is */
	if (handle_state(h) != CONNECTED || events_rearm_socket(&h->events, h->sock) < 0)
		conn_raise(h);
}

void conn_say_that_more_is(libvchan_t *h)
{
	/* Of more than a ring data_ready says nothing; but news of room may come
	 * behind it, for a thread that could not receive while we did. */
	if (ring_fill(&h->in) >= h->in_size && !conn_awaits_news(h))
		return;
	if (atomic_load(&h->missed) && atomic_exchange(&h->missed, false))
		conn_raise(h);
	if (atomic_load(&h->rest) && !atomic_exchange(&h->armed, true))
		arm(h);
}

void conn_let_others_in(libvchan_t *h)
{
	if (h->framed)
		wake_writer(h);
	if (atomic_load(&h->wants_input) && atomic_exchange(&h->wants_input, false))
		driver_kick(h);
}

static void take_in(libvchan_t *h)
{
	conn_something_came(h, wire_pull(h, SIZE_MAX, false) > 0);
	if (h->eof)
		conn_ended(h, true);
	conn_received(h, true);
}

static void pause_shortly(void)
{
	const struct timespec pause = { 0, CLOCK_MS };

	nanosleep(&pause, NULL);
}

bool conn_take_in(libvchan_t *h)
{
	bool closing = atomic_load(&h->closing), mine = conn_may_receive(h);

	if (!mine && !closing)
		return false;
	/* Nobody else is in a call any more, but a frame that exit() has stopped may hold
	 * the lock for good; and exit() itself for a moment, without a name. */
	for (int look = 0; !mine && !atomic_load(&h->receiver) && look < CONN_LOOKS; look++) {
		pause_shortly();
		mine = conn_may_receive(h);
	}
	take_in(h);
	if (mine)
		conn_stop_receiving(h);
	return true;
}

void conn_look(libvchan_t *h)
{
	struct pollfd p = { -1, POLLRDHUP, 0 };
	int n;

	if (handle_state(h) != CONNECTED)
		return;
	p.fd = h->sock;
	if (h->framed && framed_owes_news(h) && !atomic_load(&h->dead))
		p.events |= POLLIN;
	n = poll(&p, 1, 0);
	if (n == 0)
		return;
	if (n < 0)
		p.revents = (short)((p.events & POLLIN) |
				    (vsock_has_ended(h->sock) ? POLLRDHUP : 0));
	if (p.revents & POLLIN)
		conn_take_in(h);
	if (p.revents & ~POLLIN)
		conn_ended(h, true);
}

/* ---- waiting for room ---- */

/* What the writer sleeps for.  Who receives meanwhile, or sends what lies in the ring, or
 * finds the end, may be first: then nothing shows at the socket any more, and he wakes
 * the writer (writer_waits). */
static short room_events(libvchan_t *h)
{
	short events = POLLRDHUP;

	if (h->framed && conn_take_in(h))
		events |= POLLIN;
	if (atomic_load(&h->stalled) && !atomic_load(&h->starved))
		events |= POLLOUT;
	return events;
}

/* On the plain wire, if the kernel is not seen to be full, somebody is just sending. */
static bool is_short_of_room(libvchan_t *h, size_t enough, short events)
{
	return wire_room(h) < enough && handle_state(h) == CONNECTED &&
	       (h->framed || (events & POLLOUT) || atomic_load(&h->starved));
}

static void await_room(libvchan_t *h, size_t enough)
{
	/* Without an fd to be woken by, look again and again. */
	bool can_wake = h->room_wake >= 0 || wake_open(&h->room_wake) == 0;
	const struct timespec soon = { 0, CLOCK_MS };
	struct pollfd p[2] = { { h->room_wake, POLLIN, 0 }, { h->sock, 0, 0 } };

	atomic_store(&h->waiter, pthread_self());
	atomic_store(&h->writer_waits, can_wake);
	if (wire_unsent(h))
		conn_flush(h);
	wire_ask(h);
	p[1].events = room_events(h);
	/* Without room and without a peer there is neither POLLOUT nor POLLHUP. */
	if (is_short_of_room(h, enough, p[1].events) &&
	    wake_poll(p, 2, atomic_load(&h->starved) || !can_wake ? &soon : NULL, NULL) > 0) {
		if (p[0].revents)
			wake_clear(h->room_wake);
		if (p[1].revents & POLLRDHUP)
			conn_ended(h, true);
	}
	atomic_store(&h->writer_waits, false);
}

void conn_await_room(libvchan_t *h, size_t enough)
{
	if (handle_state(h) == WAITING)
		driver_await_peer(h);
	else if (wire_room(h) < enough)
		await_room(h, enough);
	else if (atomic_load(&h->starved))
		pause_shortly();
}

/* ---- all of it ---- */

/* False: closing, and there is nothing left to hand over, or no time. */
static bool lingers(libvchan_t *h, struct conn_sleep *s)
{
	if (!wire_unsent(h))
		return false;
	if (clock_now() >= h->linger_until) {
		log_error(&h->log,
			  "close: %zu bytes dropped, the peer did not read them in %u ms",
			  ring_fill(&h->out), h->config.linger_ms);
		atomic_store(&h->dead, true);
		return false;
	}
	if (h->linger_until < s->until)
		s->until = h->linger_until;
	return true;
}

bool conn_step(libvchan_t *h, struct conn_sleep *s)
{
	enum state before;
	bool closing;

	do {
		before = handle_state(h);
		/* One that begins meanwhile is for the next step: this one has perhaps let
		 * small writes gather. */
		closing = atomic_load(&h->closing);
		s->count = 0;
		s->until = CLOCK_NEVER;
		s->patient = s->busy = s->for_input = s->for_ack = false;
		if (before == WAITING && !closing)
			setup_step_waiting(h, s);
		else if (before == CONNECTING && !closing)
			setup_step_connecting(h, s);
		else if (before == CONNECTED || before == DISCONNECTED)
			step_open(h, s);
	} while (handle_state(h) != before);
	if (!closing || lingers(h, s))
		return true;
	wire_end(h);
	return false;
}
