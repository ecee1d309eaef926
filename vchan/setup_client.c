/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client tries the framed port, then the plain one, each time with a fresh
 * socket.  When plain succeeds it tries framed once more, and keeps the plain
 * connection in case that fails; then it looks whether the server keeps it, too,
 * and meanwhile whether the framed port was only crowded.  It pauses for 1 ms, 2,
 * 4, up to 100 ms.
 * Nobody listening (ECONNRESET) and a machine that does not answer yet
 * (ETIMEDOUT, from the kernel, after 2 s) mean: try again.  No such machine
 * (ENODEV) is believed after boot_wait_ms in a row.
 *
 * Between two guests there is the relay of their host (relay.h): the client connects
 * to it instead, says whom it wants, and goes on when the relay has connected; the
 * server admits it as that client.  Where no relay is, the client tries the straight
 * way, too (VCHAN_VSOCK_RELAY).
 */
#include "setup_parts.h"

#include <errno.h>
#include <poll.h>

#include "life.h"
#include "vsock.h"

#define OTHER_PRIVILEGED_PORTS (RELAY_PORT + 1)

#define PLAIN_MOMENT_RELAYED (100 * CLOCK_MS)
#define ANSWER_WAIT (10 * CLOCK_S) /* more than a connect takes */
#define BIND_TRIES 8
#define BIND_TRIES_PRIVILEGED 64 /* there are few, and each channel has one */
#define RETRY_FIRST (1 * CLOCK_MS)

int setup_prepare(libvchan_t *h)
{
	h->started = clock_now();
	h->retry_after = RETRY_FIRST;
	h->attempted = h->config.wire == WIRE_PLAIN ? PLAIN : FRAMED;
	return setup_open_socket(h, &h->attempt);
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

static void try_again(libvchan_t *h, int err)
{
	int64_t now = clock_now();
	int final = verdict(h, err, now);

	h->attempted = h->config.wire == WIRE_PLAIN ? PLAIN : FRAMED;
	if (final) {
		setup_close_all(h);
		conn_give_up(h, FAILED, final);
		return;
	}
	h->retry_at = now + h->retry_after;
	h->retry_after *= 2;
	if (h->retry_after > RETRY_MOST)
		h->retry_after = RETRY_MOST;
}

static bool goes_through_relay(const libvchan_t *h)
{
	return h->between_guests && !h->direct;
}

/* How long a plain connection is not believed yet. */
static int64_t plain_moment(const libvchan_t *h)
{
	return goes_through_relay(h) ? PLAIN_MOMENT_RELAYED : PLAIN_MOMENT;
}

/* Framed has failed, plain is connected.  A server that has chosen another closes
 * this one, too; until then its framed port may have been crowded, unless it was
 * there. */
static void settle_soon(libvchan_t *h, bool was_there)
{
	int64_t now = clock_now();

	if (!h->settling) {
		h->settling = true;
		h->plain_until = now + plain_moment(h);
		h->retry_after = RETRY_FIRST;
	}
	h->retry_at = was_there || now >= h->plain_until ? CLOCK_NEVER : now + h->retry_after;
	h->retry_after *= 2;
}

/* Says so once, when a relay that has just been started would have been there. */
static void note_missing_relay(libvchan_t *h)
{
	int64_t now = clock_now();

	if (!h->relay_missing_since)
		h->relay_missing_since = now;
	if (h->relay_missing_since == CLOCK_NEVER ||
	    now - h->relay_missing_since < h->config.boot_wait_ms * CLOCK_MS)
		return;
	h->relay_missing_since = CLOCK_NEVER;
	log_error(&h->log, "still waiting: no relay answers on port %u of the host, and without "
		  "one guests do not reach each other; start `vchan-vsock relay` there",
		  h->config.relay_port);
}

/* Some platforms join guests without a relay.  So where there is none, every other attempt
 * goes straight; on others it is not answered at all. */
static bool takes_another_way(libvchan_t *h, int err, bool unanswered)
{
	if (!h->between_guests || h->plain >= 0)
		return false;
	if (unanswered) {
		note_missing_relay(h);
		h->direct = h->config.relay == RELAY_AUTO;
		return true;
	}
	if (!h->direct)
		return false;
	h->direct = h->attempted == FRAMED && err == ECONNRESET; /* the plain port is next */
	return !h->direct;
}

/* No framed connection came of this; is there a plain one? */
static void attempt_failed(libvchan_t *h, int err)
{
	bool heard = h->candidates[0].fd >= 0;
	bool unanswered = goes_through_relay(h) && !h->asking && !heard &&
			  (err == ECONNRESET || err == ETIMEDOUT);

	setup_close_socket(h, &h->candidates[0].fd);
	setup_close_socket(h, &h->attempt);
	h->trying = h->asking = false;
	log_debug(&h->log, "attempt, %s wire: %s", h->attempted == FRAMED ? "framed" : "plain",
		  log_reason(err).text);
	if (takes_another_way(h, err, unanswered)) {
		try_again(h, err);
		return;
	}
	if (h->plain >= 0) {
		settle_soon(h, heard);
		return;
	}
	if (h->attempted == FRAMED && h->config.wire == WIRE_AUTO && !timed_out(h, clock_now()) &&
	    (err == ECONNRESET || err == ETIMEDOUT)) {
		h->attempted = PLAIN;
		return;
	}
	try_again(h, err);
}

static void move_attempt(libvchan_t *h, int *to)
{
	sigset_t saved;

	life_enter(&saved);
	*to = h->attempt;
	h->attempt = -1;
	life_leave(&saved);
	h->trying = h->asking = false;
}

static void attempt_succeeded(libvchan_t *h)
{
	if (h->attempted == FRAMED) {
		move_attempt(h, &h->candidates[0].fd);
		setup_become_candidate(&h->candidates[0], h->candidates[0].fd);
		if (setup_say_hello(h, h->candidates[0].fd) < 0)
			attempt_failed(h, ECONNRESET);
	} else if (h->config.wire == WIRE_PLAIN) {
		setup_choose(h, &h->attempt);
	} else {
		move_attempt(h, &h->plain);
		h->attempted = FRAMED;
	}
}

/* The attempt is connected, to the relay: it shall join us with the server. */
static void ask_relay(libvchan_t *h)
{
	bool framed = h->attempted == FRAMED;
	struct relay_request request = { framed, !framed && h->config.wire == WIRE_AUTO,
					 h->peer_cid, h->vchan_port };
	unsigned char bytes[RELAY_REQUEST_SIZE];

	h->trying = false;
	h->asking = true;
	h->answer_len = 0;
	h->answer_until = clock_now() + ANSWER_WAIT;
	relay_encode_request(&request, bytes);
	/* A socket that is new has room for it. */
	if (vsock_send(h->attempt, bytes, sizeof bytes, false) != (ssize_t)sizeof bytes)
		attempt_failed(h, ECONNRESET);
}

static void attempt_connected(libvchan_t *h)
{
	if (goes_through_relay(h))
		ask_relay(h);
	else
		attempt_succeeded(h);
}

static void take_answer(libvchan_t *h)
{
	enum relay_status status = RELAY_REFUSED;
	const char *why = relay_decode_answer(h->answer, &status);

	h->relay_missing_since = 0;
	if (why)
		log_info(&h->log, "the relay on the host: its answer has %s", why);
	if (status == RELAY_DENIED)
		log_error(&h->log, "the relay on the host does not allow it; it wants a line "
			  "\"allow OWN -> %u %u\" in its policy", h->peer_cid, h->vchan_port);
	if (status == RELAY_OK)
		attempt_succeeded(h);
	else
		attempt_failed(h, relay_errno(status));
}

static void await_answer(libvchan_t *h, struct conn_sleep *s)
{
	ssize_t n = vsock_recv(h->attempt, h->answer + h->answer_len,
			       RELAY_ANSWER_SIZE - h->answer_len, false);

	if (n > 0)
		h->answer_len += (unsigned)n;
	if (h->answer_len == RELAY_ANSWER_SIZE) {
		take_answer(h);
	} else if (n == 0 || (n < 0 && !vsock_will_go_again(errno))) {
		log_info(&h->log, "the relay on the host left before its answer");
		attempt_failed(h, ECONNRESET);
	} else if (timed_out(h, clock_now()) || clock_now() >= h->answer_until) {
		attempt_failed(h, ETIMEDOUT);
	} else {
		conn_watch(s, h->attempt, POLLIN);
		if (h->answer_until < s->until)
			s->until = h->answer_until;
	}
}

/* 0, or why not; EADDRINUSE: all that were tried are taken. */
static int take_port(int fd, uint32_t first, uint32_t count, int tries)
{
	int err = EADDRINUSE;

	while (err == EADDRINUSE && tries--)
		err = vsock_bind(fd, first + (uint32_t)clock_now() % count) < 0 ? errno : 0;
	return err;
}

/* All but port 0, ours, and the relay's. */
static int take_other_privileged_port(int fd)
{
	int err = take_port(fd, OTHER_PRIVILEGED_PORTS, ORDINARY_PORTS - OTHER_PRIVILEGED_PORTS,
			    BIND_TRIES_PRIVILEGED);

	return err == EADDRINUSE ?
		take_port(fd, 1, OUR_PRIVILEGED_PORTS - 1, BIND_TRIES_PRIVILEGED) : err;
}

/* False: it comes from an ordinary port then. */
static bool take_privileged_port(libvchan_t *h, bool ours)
{
	int err;

	if (!h->config.require_privileged || h->unprivileged)
		return false;
	err = ours ? take_port(h->attempt, OUR_PRIVILEGED_PORTS, OUR_PRIVILEGED_COUNT,
			       BIND_TRIES_PRIVILEGED) : take_other_privileged_port(h->attempt);
	if (err)
		log_info(&h->log, "no port below %u to connect from: %s", ORDINARY_PORTS,
			 log_reason(err).text);
	h->unprivileged = err && err != EADDRINUSE;
	return !err;
}

static int open_attempt(libvchan_t *h)
{
	/* So that the server waits for our framed attempt.  When the ports are all
	 * taken the kernel finds another, and the server waits PLAIN_MOMENT only. */
	bool ours = h->attempted == PLAIN && h->config.wire == WIRE_AUTO &&
		    !goes_through_relay(h);

	if (h->attempt < 0 && setup_open_socket(h, &h->attempt) < 0)
		return -1;
	if (!take_privileged_port(h, ours) && ours)
		take_port(h->attempt, OUR_PORTS, OUR_PORTS_COUNT, BIND_TRIES);
	return 0;
}

static int connect_attempt(libvchan_t *h)
{
	uint32_t port = setup_port_of(h, h->attempted);

	if (!h->between_guests)
		return vsock_connect(h->attempt, h->peer_cid, port);
	return h->direct ? vsock_connect_sibling(h->attempt, h->peer_cid, port) :
		vsock_connect(h->attempt, CID_HOST, h->config.relay_port);
}

static void start_attempt(libvchan_t *h)
{
	if (open_attempt(h) == 0 && connect_attempt(h) == 0)
		attempt_connected(h);
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
		attempt_connected(h);
	else
		attempt_failed(h, errno);
}

/* The server's sizes rule: its write ring is our read ring. */
static int take_sizes(libvchan_t *h, const struct hello *server)
{
	sigset_t saved;
	int ret;

	life_enter(&saved);
	ret = handle_open_rings(h, server->write_ring, server->read_ring);
	life_leave(&saved);
	return ret;
}

static void meet_server(libvchan_t *h, struct candidate *c)
{
	struct hello hello;
	const char *why = hello_decode(c->hello, &hello);

	if (!why)
		why = hello_check_rings(&hello);
	if (why) {
		log_info(&h->log, "the server on the framed port: its hello has %s", why);
		attempt_failed(h, ECONNRESET);
	} else if (take_sizes(h, &hello) < 0) {
		int err = errno;

		log_error(&h->log, "rings of %u and %u bytes, as the server has them: %s",
			  hello.read_ring, hello.write_ring, log_reason(err).text);
		setup_close_all(h);
		conn_give_up(h, FAILED, err);
	} else {
		setup_be_framed(h, c->fd, &hello);
		setup_choose(h, &c->fd);
	}
}

/* Is the plain connection still there, after its moment? */
static void settle(libvchan_t *h)
{
	int64_t now = clock_now();

	/* When the moment is over, too, if nobody has looked before. */
	if (now >= h->retry_at) {
		start_attempt(h);
		return;
	}
	if (now < h->plain_until)
		return;
	h->settling = false;
	/* What it has sent meanwhile is no matter, its end is. */
	if (!vsock_has_ended(h->plain)) {
		setup_choose(h, &h->plain);
		return;
	}
	setup_close_socket(h, &h->plain);
	try_again(h, ECONNRESET);
}

static void await_hello(libvchan_t *h, struct conn_sleep *s)
{
	struct candidate *c = &h->candidates[0];
	const char *why = NULL;

	switch (setup_hear(c, &why)) {
	case ALL:
		meet_server(h, c);
		break;
	case NOTHING:
		log_info(&h->log, "the server on the framed port: %s", why);
		attempt_failed(h, ECONNRESET);
		break;
	case SOME:
		if (timed_out(h, clock_now())) {
			attempt_failed(h, ETIMEDOUT);
			break;
		}
		conn_watch(s, c->fd, POLLIN);
		if (c->until < s->until)
			s->until = c->until;
	}
}

/* One step of whatever it is at. */
static void step(libvchan_t *h, struct conn_sleep *s)
{
	if (h->candidates[0].fd >= 0)
		await_hello(h, s);
	else if (h->trying)
		look_at_attempt(h);
	else if (h->asking)
		await_answer(h, s);
	else if (h->settling)
		settle(h);
	else if (timed_out(h, clock_now()))
		attempt_failed(h, ETIMEDOUT);
	else if (clock_now() >= h->retry_at)
		start_attempt(h);
}

void setup_step_connecting(libvchan_t *h, struct conn_sleep *s)
{
	if (h->config.connect_timeout_ms)
		s->until = h->started + h->config.connect_timeout_ms * CLOCK_MS;
	step(h, s);
	if (handle_state(h) != CONNECTING || s->count)
		return;
	if (h->trying)
		conn_watch(s, h->attempt, POLLOUT);
	else if (h->asking || h->candidates[0].fd >= 0)
		s->until = 0; /* again: for the answer, and how long to wait for it */
	else if (h->settling)
		s->until = h->retry_at < h->plain_until ? h->retry_at : h->plain_until;
	else if (h->retry_at < s->until)
		s->until = h->retry_at;
}
