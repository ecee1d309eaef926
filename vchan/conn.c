/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a connection.
 *
 * A server listens from init on.  The first peer with the right CID becomes
 * the connection; others are closed as they come.  The listener is closed
 * before anything else happens, so that a second client is refused and tries
 * again until there is a new server.
 *
 * A client tries a fresh socket each time, after 1 ms, 2, 4, up to 100 ms.
 * Nobody listening (ECONNRESET) and a machine that does not answer yet
 * (ETIMEDOUT, from the kernel, after 2 s) mean: try again.  No such machine
 * (ENODEV) is believed after boot_wait_ms in a row.
 *
 * A server whose client is on another machine asks every 2 s whether that
 * machine exists, by starting a connection to it and dropping it at once: only
 * on a host, for a guest's CID, does the kernel answer ENODEV.  A machine that
 * was there and was missing twice in a row has gone.
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
 * left, and to send what was written before.
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

#include <linux/vm_sockets.h>

#include "address.h"
#include "clock.h"
#include "driver.h"
#include "life.h"
#include "vsock.h"
#include "wire.h"

#define GATHER (200 * CLOCK_US)
#define RETRY_FIRST (1 * CLOCK_MS)
#define RETRY_SOON (20 * CLOCK_MS)
#define RETRY_MOST (100 * CLOCK_MS)
#define PROBE_EVERY (2 * CLOCK_S)
/* A program that another thread is starting holds the fds of a server that has
 * just been closed, between vfork and exec. */
#define LISTEN_AGAIN (100 * CLOCK_MS)

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

static void raise_event(libvchan_t *h)
{
	if (!lock_events(h))
		return;
	events_raise(&h->events);
	events_unlock(&h->events);
}

/* ---- the end ---- */

/* Under the lock of the events. */
static void end_connection(libvchan_t *h, bool tell)
{
	if (handle_state(h) != CONNECTED)
		return;
	atomic_store(&h->state, DISCONNECTED);
	/* Later news of a dead connection is no event any more. */
	events_drop_socket(&h->events, h->sock);
	if (tell)
		events_raise(&h->events);
	/* Nothing is cut off by this: the ring is empty then. */
	if (atomic_load(&h->sending))
		shutdown(h->sock, SHUT_WR);
	driver_state_changed(h);
	log_info(&h->log, "disconnected");
}

void conn_ended(libvchan_t *h, bool tell)
{
	events_lock(&h->events);
	end_connection(h, tell);
	events_unlock(&h->events);
}

/* The driver's. */
static void ended(libvchan_t *h)
{
	if (!lock_events(h))
		return;
	end_connection(h, true);
	events_unlock(&h->events);
}

/* The driver's: never connected, and never will be. */
static void give_up(libvchan_t *h, enum state state, int err)
{
	h->error = err;
	atomic_store(&h->dead, true);
	atomic_store(&h->state, state);
	driver_state_changed(h);
	raise_event(h);
}

/* ---- the beginning ---- */

void conn_established(libvchan_t *h, int sock)
{
	sigset_t saved;
	bool failed;
	int err = 0;

	life_enter(&saved);
	h->sock = sock;
	h->attempt = -1;
	life_close(&h->listener);
	life_leave(&saved);
	if (!lock_events(h))
		return;
	/* The state first: the fd may be readable from the next line on. */
	atomic_store(&h->state, CONNECTED);
	failed = events_add_socket(&h->events, sock) < 0;
	if (failed) {
		err = errno;
		end_connection(h, true);
	}
	events_raise(&h->events);
	events_unlock(&h->events);
	driver_state_changed(h);
	if (failed)
		log_error(&h->log, "cannot watch the connection: %s", log_reason(err).text);
	else
		log_info(&h->log, "connected");
}

/* ---- a server ---- */

static int open_socket(libvchan_t *h, int *fd)
{
	sigset_t saved;
	int err;

	life_enter(&saved);
	*fd = vsock_socket(h->config.buffer_size);
	err = errno;
	life_leave(&saved);
	errno = err;
	return *fd < 0 ? -1 : 0;
}

static void close_socket(int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	life_close(fd);
	life_leave(&saved);
}

int conn_listen(libvchan_t *h, uint32_t cid)
{
	const struct timespec pause = { 0, 5 * CLOCK_MS };
	int64_t until = clock_now() + LISTEN_AGAIN;

	if (open_socket(h, &h->listener) < 0)
		return -1;
	while (vsock_listen(h->listener, cid, h->port) < 0) {
		if (errno != EADDRINUSE || clock_now() > until)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static bool is_rightful(const libvchan_t *h, uint32_t cid)
{
	return cid == h->peer_cid ||
	       (h->own_cid && (cid == h->own_cid || cid == CID_LOCAL));
}

enum accepted { NOBODY, STRANGER, CLIENT };

/* NOBODY: errno says why. */
static enum accepted accept_one(libvchan_t *h)
{
	uint32_t cid = 0;
	sigset_t saved;
	int sock, err;
	bool right, stranger;

	life_enter(&saved);
	sock = vsock_accept(h->listener, &cid);
	err = errno;
	right = sock >= 0 && is_rightful(h, cid);
	stranger = sock >= 0 && !right;
	if (right) {
		h->sock = sock;
		life_close(&h->listener); /* or a second client would queue there */
	} else {
		life_close(&sock);
	}
	life_leave(&saved);
	if (stranger)
		log_info(&h->log, "refused a connection from CID %u", cid);
	errno = err;
	return right ? CLIENT : stranger ? STRANGER : NOBODY;
}

enum presence { MISSING, PRESENT, UNKNOWN };

/* Does the client's machine exist? */
static enum presence look_for_machine(libvchan_t *h)
{
	int err = 0;

	if (open_socket(h, &h->attempt) < 0)
		return UNKNOWN;
	if (vsock_connect(h->attempt, h->peer_cid, h->port) < 0)
		err = errno;
	close_socket(&h->attempt);
	switch (err) {
	case 0:
	case EINPROGRESS:
	case ECONNRESET:
	case ETIMEDOUT:
		return PRESENT;
	case ENODEV:
		return MISSING;
	default:
		return UNKNOWN;
	}
}

static void probe(libvchan_t *h)
{
	enum presence found = look_for_machine(h);

	h->probe_at = clock_now() + PROBE_EVERY;
	if (found == UNKNOWN)
		return;
	if (h->peer_seen && found == MISSING && h->peer_missing) {
		log_info(&h->log, "the machine with CID %u has gone", h->peer_cid);
		close_socket(&h->listener);
		give_up(h, DISCONNECTED, 0);
		return;
	}
	h->peer_seen |= found == PRESENT;
	h->peer_missing = found == MISSING;
}

static bool is_probed(const libvchan_t *h)
{
	return !h->config.loopback && !h->own_cid && h->peer_cid > CID_HOST;
}

static void step_waiting(libvchan_t *h, struct conn_sleep *s)
{
	enum accepted got;

	do
		got = accept_one(h);
	while (got == STRANGER);
	if (got == CLIENT) {
		conn_established(h, h->sock);
		return;
	}
	s->fd = h->listener;
	s->events = POLLIN;
	if (errno != EAGAIN && errno != EWOULDBLOCK) {
		/* Out of fds, most likely, with a client in the queue: poll
		 * would return at once, for nothing. */
		log_info(&h->log, "accept: %s", log_reason(errno).text);
		s->fd = -1;
		s->until = clock_now() + RETRY_MOST;
	}
	if (!is_probed(h))
		return;
	if (clock_now() >= h->probe_at)
		probe(h);
	if (h->probe_at < s->until)
		s->until = h->probe_at;
}

/* ---- a client ---- */

int conn_prepare(libvchan_t *h)
{
	h->started = clock_now();
	h->retry_after = RETRY_FIRST;
	return open_socket(h, &h->attempt);
}

static bool timed_out(const libvchan_t *h, int64_t now)
{
	int64_t limit = h->config.connect_timeout_ms * CLOCK_MS;

	return limit && now - h->started >= limit;
}

/* The errno to give up with, or 0: try again. */
static int verdict(libvchan_t *h, int err, int64_t now)
{
	bool missing = err == ENODEV || err == EHOSTUNREACH || err == ENETUNREACH;

	if (missing && !h->missing_since)
		h->missing_since = now;
	if (missing && now - h->missing_since >= h->config.boot_wait_ms * CLOCK_MS)
		return err;
	if (!missing && err != EMFILE && err != ENFILE && err != ENOMEM)
		h->missing_since = 0; /* it answered, or its machine is booting */
	if (timed_out(h, now))
		return ETIMEDOUT;
	switch (err) {
	case EACCES:
	case EPERM:
	case EAFNOSUPPORT:
	case EINVAL:
		return err; /* time will not mend it */
	default:
		return 0;
	}
}

static void attempt_failed(libvchan_t *h, int err)
{
	int64_t now = clock_now();
	int final = verdict(h, err, now);

	close_socket(&h->attempt);
	h->trying = false;
	log_debug(&h->log, "attempt: %s", strerror(err));
	if (final) {
		give_up(h, FAILED, final);
		return;
	}
	h->retry_at = now + h->retry_after;
	h->retry_after *= 2;
	if (h->retry_after > RETRY_MOST)
		h->retry_after = RETRY_MOST;
}

static void start_attempt(libvchan_t *h)
{
	if (h->attempt < 0 && open_socket(h, &h->attempt) < 0) {
		attempt_failed(h, errno);
		return;
	}
	if (vsock_connect(h->attempt, h->peer_cid, h->port) == 0)
		conn_established(h, h->attempt);
	else if (errno == EINPROGRESS)
		h->trying = true;
	else
		attempt_failed(h, errno);
}

static void look_at_attempt(libvchan_t *h)
{
	struct pollfd p = { h->attempt, POLLOUT, 0 };

	if (poll(&p, 1, 0) <= 0) {
		if (timed_out(h, clock_now()))
			attempt_failed(h, ETIMEDOUT);
		return;
	}
	if (vsock_connected(h->attempt) == 0)
		conn_established(h, h->attempt);
	else
		attempt_failed(h, errno);
}

static void step_connecting(libvchan_t *h, struct conn_sleep *s)
{
	if (h->trying)
		look_at_attempt(h);
	else if (timed_out(h, clock_now()))
		attempt_failed(h, ETIMEDOUT);
	else if (clock_now() >= h->retry_at)
		start_attempt(h);
	if (h->config.connect_timeout_ms)
		s->until = h->started + h->config.connect_timeout_ms * CLOCK_MS;
	if (h->trying) {
		s->fd = h->attempt;
		s->events = POLLOUT;
	} else if (h->retry_at < s->until) {
		s->until = h->retry_at;
	}
}

/* ---- connected, and after ---- */

static void notice_end(libvchan_t *h)
{
	struct pollfd p = { h->sock, POLLRDHUP, 0 };

	if (handle_state(h) == CONNECTED &&
	    (poll(&p, 1, 0) > 0 || atomic_load(&h->dead)))
		ended(h);
}

/* True: somebody had seen too little room, and now there is some. */
static bool drain(libvchan_t *h)
{
	size_t moved;

	pthread_mutex_lock(&h->draining);
	moved = wire_drain(h);
	pthread_mutex_unlock(&h->draining);
	return moved && atomic_exchange(&h->want_room, false);
}

static bool is_streaming(libvchan_t *h)
{
	return atomic_load(&h->streak) >= CONN_STREAK;
}

/* The write ring has something.  False: it shall gather first. */
static bool is_due(const libvchan_t *h, bool streaming)
{
	return !streaming || h->gathered || atomic_load(&h->stalled) ||
	       atomic_load(&h->closing) || ring_fill(&h->out) >= h->out.size / 2;
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
		if (drain(h))
			raise_event(h);
		notice_end(h);
	}
	h->gathered = streaming && !atomic_load(&h->stalled);
	if (h->gathered)
		s->until = clock_now() + GATHER;
}

static void step_open(libvchan_t *h, struct conn_sleep *s)
{
	notice_end(h);
	send_what_is_due(h, s);
	if (handle_state(h) == CONNECTED) {
		s->fd = h->sock;
		s->events = POLLRDHUP;
	}
	if (wire_unsent(h) && atomic_load(&h->stalled)) {
		if (!atomic_load(&h->starved)) {
			s->fd = h->sock;
			s->events |= POLLOUT;
		}
		/* No event tells of memory that is free again, nor, on a full
		 * socket, of the peer's other half. */
		if (atomic_load(&h->starved) || handle_state(h) == DISCONNECTED)
			s->until = clock_now() + RETRY_SOON;
	}
}

bool conn_has_work(libvchan_t *h)
{
	return wire_unsent(h);
}

void conn_flush(libvchan_t *h)
{
	sigset_t all, saved;
	bool room;

	/* Signals: see handle.h. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	room = drain(h);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (atomic_load(&h->dead))
		conn_ended(h, true);
	if (room) {
		events_lock(&h->events);
		events_raise(&h->events);
		events_unlock(&h->events);
	}
	if (wire_unsent(h))
		driver_kick(h);
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
		return false;
	}
	if (h->linger_until < s->until)
		s->until = h->linger_until;
	return true;
}

bool conn_step(libvchan_t *h, struct conn_sleep *s)
{
	enum state before;

	do {
		before = handle_state(h);
		s->fd = -1;
		s->events = 0;
		s->until = CLOCK_NEVER;
		if (before == WAITING && !atomic_load(&h->closing))
			step_waiting(h, s);
		else if (before == CONNECTING && !atomic_load(&h->closing))
			step_connecting(h, s);
		else if (before == CONNECTED || before == DISCONNECTED)
			step_open(h, s);
	} while (handle_state(h) != before);
	return !atomic_load(&h->closing) || lingers(h, s);
}
