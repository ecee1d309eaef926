/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server listens from init on: on the framed port, then on the plain one, so
 * that a client that finds the plain port finds the framed one too.  Peers with
 * the right CID (and a privileged port, if that is required) are admitted, others
 * closed as they come.
 *
 * Who comes to the framed port is a candidate until his hello is complete.  The
 * first complete one is answered and becomes the connection; the others, who
 * have had no answer, are reset and try again.  Who comes to the plain port is
 * held back for a moment (PLAIN_MOMENT), and as long as there is a candidate: it
 * may be one of ours that came while only one listener was up.  Where it is, its
 * own port tells (OUR_PORTS), and its framed connection is waited for as long as
 * for a hello (HELLO_WAIT).  When the connection is chosen, both listeners close
 * before anything else happens, so that a second client is refused and waits for
 * the next server.
 *
 * Others may come faster than they can be turned away.  So after a number of them
 * (CROWD) at a port nobody is let in there for a moment (REST): whoever is in
 * already is heard, the other port is looked at, close is heard, and a crowd costs
 * a part of a processor at most.  While it keeps the queues full, the right client
 * finds a place in each attempt with the chance that any of the crowd has, and
 * tries again until it does.  What nobody can help: users of the client's own
 * machine, from whom nothing tells the client apart, may take its place, or all
 * places of candidates for HELLO_WAIT each time, so that it is served late or
 * never.  Ports below 1024 do tell, where they are required.
 *
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
 *
 * A server whose client is on another machine asks every 2 s whether that
 * machine exists, by starting a connection to it and dropping it at once: only
 * on a host, for a guest's CID, does the kernel answer ENODEV.  A machine that
 * was there and was missing twice in a row has gone.
 */
#include "setup.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#include <linux/vm_sockets.h>

#include "address.h"
#include "clock.h"
#include "driver.h"
#include "life.h"
#include "vsock.h"
#include "wire.h"

#define FRAMED_PORT 0x80000000u /* added to the plain one */
/* Where plain connections come from whose client will try framed, too: the framed
 * ports of CID 0, which is no client's.  A socket that leaves its port to the
 * kernel hits one by chance in 1 of 65,536 cases, and then waits longer. */
#define OUR_PORTS FRAMED_PORT
#define OUR_PORTS_COUNT 0x10000u
/* Those below belong to who is privileged; some of them mean the same. */
#define ORDINARY_PORTS 1024u
#define OUR_PRIVILEGED_PORTS 512u
#define OUR_PRIVILEGED_COUNT 256u
#define OTHER_PRIVILEGED_PORTS (RELAY_PORT + 1)

#define FRAMED_QUEUE 128
#define PLAIN_MOMENT (20 * CLOCK_MS)
#define PLAIN_MOMENT_RELAYED (100 * CLOCK_MS)
#define ANSWER_WAIT (10 * CLOCK_S) /* more than a connect takes */
#define HELLO_WAIT (5 * CLOCK_S)
#define BIND_TRIES 8
#define BIND_TRIES_PRIVILEGED 64 /* there are few, and each channel has one */
#define CROWD 16
#define REST (1 * CLOCK_MS)
#define CROWDED_WAIT (1 * CLOCK_S)
#define RETRY_FIRST (1 * CLOCK_MS)
#define RETRY_MOST (100 * CLOCK_MS)
#define PROBE_EVERY (2 * CLOCK_S)
/* A program that another thread is starting holds the fds of a server that has
 * just been closed, between vfork and exec. */
#define LISTEN_AGAIN (100 * CLOCK_MS)
#define LISTEN_PAUSE (5 * CLOCK_MS)

static uint32_t port_of(const libvchan_t *h, enum wire_kind kind)
{
	return kind == FRAMED ? h->port | FRAMED_PORT : h->port;
}

/* ---- fds ---- */

static int open_socket(libvchan_t *h, int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	*fd = vsock_socket(h->config.buffer_size);
	life_leave(&saved);
	return *fd < 0 ? -1 : 0;
}

/* Inside of life_enter. */
static void let_go(libvchan_t *h, int *fd)
{
	driver_forget(h, *fd);
	life_close(fd);
}

static void close_socket(libvchan_t *h, int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	let_go(h, fd);
	life_leave(&saved);
}

void setup_close(libvchan_t *h)
{
	/* Whose framed attempt fails looks at his plain connection. */
	let_go(h, &h->plain);
	let_go(h, &h->listeners[PLAIN]);
	let_go(h, &h->listeners[FRAMED]);
	let_go(h, &h->attempt);
	for (int i = 0; i < CANDIDATES; i++)
		let_go(h, &h->candidates[i].fd);
}

bool setup_has_visitor(const libvchan_t *h)
{
	for (int i = 0; i < CANDIDATES; i++)
		if (h->candidates[i].fd >= 0)
			return true;
	return h->plain >= 0;
}

/* This one of our fds is the connection; all others are closed. */
static void choose(libvchan_t *h, int *fd)
{
	sigset_t saved;
	int sock = *fd;

	life_enter(&saved);
	*fd = -1;
	h->sock = sock;
	setup_close(h);
	life_leave(&saved);
	conn_established(h, sock);
}

/* ---- hello ---- */

static int say_hello(libvchan_t *h, int fd)
{
	struct hello hello = { WIRE_VERSION, 0, 0, 0, 0, vsock_buffer(fd) };
	unsigned char bytes[HELLO_SIZE];
	ssize_t n;

	if (h->server) {
		hello.read_ring = (uint32_t)h->in_size;
		hello.write_ring = (uint32_t)h->out_size;
		hello.window = frame_window(hello.read_ring);
	}
	hello_encode(&hello, bytes);
	/* A socket that is new has room for it. */
	for (size_t done = 0; done < sizeof bytes; done += (size_t)n) {
		n = vsock_send(fd, bytes + done, sizeof bytes - done, false);
		if (n < 0)
			return -1;
	}
	return 0;
}

static void become_candidate(struct candidate *c, int fd)
{
	c->fd = fd;
	c->heard = 0;
	c->until = clock_now() + HELLO_WAIT;
}

enum heard { SOME, ALL, NOTHING };

/* NOTHING: *why says why, and nothing will come. */
static enum heard hear(struct candidate *c, const char **why)
{
	ssize_t n = vsock_recv(c->fd, c->hello + c->heard, HELLO_SIZE - c->heard, false);

	if (n > 0)
		c->heard += (unsigned)n;
	if (c->heard == HELLO_SIZE)
		return ALL;
	if (n == 0 || (n < 0 && !vsock_will_go_again(errno))) {
		*why = "it left before its hello";
		return NOTHING;
	}
	if (clock_now() >= c->until) {
		*why = "no hello came";
		return NOTHING;
	}
	return SOME;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a && a < b ? a : b; /* 0: not known */
}

static void be_framed(libvchan_t *h, int fd, const struct hello *peer)
{
	uint32_t rule = frame_window((uint32_t)h->out_size);

	wire_be_framed(h, smaller(peer->window, rule),
		       smaller(peer->buffer, smaller(vsock_buffer(fd), h->config.buffer_size)));
}

/* ---- a server ---- */

static int listen_on(libvchan_t *h, enum wire_kind kind, int64_t patience)
{
	const struct timespec pause = { 0, LISTEN_PAUSE };
	int64_t until = clock_now() + patience;

	/* Whoever is in the plain queue when the listener closes believes to be
	 * connected, and is reset: so there is one place, and who is refused
	 * tries again.  A framed client believes nothing before the hello, and
	 * shall not take a full queue for nobody. */
	int queue = kind == PLAIN ? 0 : FRAMED_QUEUE;
	uint32_t cid = h->config.loopback ? CID_LOCAL : VMADDR_CID_ANY;

	if (open_socket(h, &h->listeners[kind]) < 0)
		return -1;
	while (vsock_listen(h->listeners[kind], cid, port_of(h, kind), queue) < 0) {
		if (errno != EADDRINUSE || clock_now() >= until)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int setup_listen(libvchan_t *h, uint32_t *port)
{
	*port = port_of(h, FRAMED);
	if (h->config.wire != WIRE_PLAIN && listen_on(h, FRAMED, LISTEN_AGAIN) < 0)
		return -1;
	*port = port_of(h, PLAIN);
	return h->config.wire == WIRE_FRAMED ? 0 :
		listen_on(h, PLAIN, LISTEN_AGAIN);
}

/* Root on the host vouches for who is behind it. */
static bool is_relay(const libvchan_t *h, uint32_t cid, uint32_t port)
{
	return h->between_guests && cid == CID_HOST && port < ORDINARY_PORTS;
}

static bool is_rightful(const libvchan_t *h, uint32_t cid, uint32_t port)
{
	return cid == h->peer_cid || is_relay(h, cid, port) ||
	       (h->own_cid && (cid == h->own_cid || cid == CID_LOCAL));
}

static bool is_privileged_enough(const libvchan_t *h, uint32_t cid, uint32_t port)
{
	uint32_t ports = is_relay(h, cid, port) ? RELAY_PRIVILEGED_TO + 1 : ORDINARY_PORTS;

	return !h->config.require_privileged || port < ports;
}

/* Somebody could not stay. */
static void count_turned_away(libvchan_t *h, enum wire_kind kind)
{
	int64_t now = clock_now();

	if (++h->turned_away[kind] < CROWD)
		return;
	h->turned_away[kind] = 0;
	h->rest_until[kind] = now + REST;
	/* Its client may not get in over the framed wire. */
	if (h->plain_until > now + CROWDED_WAIT)
		h->plain_until = now + CROWDED_WAIT;
}

/* True: nobody is let in there for a moment. */
static bool rests(const libvchan_t *h, enum wire_kind kind, struct conn_sleep *s)
{
	if (clock_now() >= h->rest_until[kind])
		return false;
	if (h->rest_until[kind] < s->until)
		s->until = h->rest_until[kind];
	return true;
}

enum visitor { NOBODY, STRANGER, RIGHTFUL };

static enum visitor recognize(const libvchan_t *h, uint32_t cid, uint32_t port)
{
	return is_rightful(h, cid, port) && is_privileged_enough(h, cid, port) ? RIGHTFUL :
		STRANGER;
}

/* The first in the queue; a stranger is closed at once.  NOBODY: errno says why. */
static enum visitor open_door(libvchan_t *h, enum wire_kind kind, int *fd, uint32_t *port)
{
	enum visitor who = NOBODY;
	uint32_t cid = 0;
	sigset_t saved;

	life_enter(&saved);
	*fd = vsock_accept(h->listeners[kind], &cid, port);
	if (*fd >= 0)
		who = recognize(h, cid, *port);
	if (who == STRANGER)
		life_close(fd);
	else if (who == RIGHTFUL && kind == PLAIN)
		let_go(h, &h->listeners[PLAIN]); /* a second would queue there */
	life_leave(&saved);
	if (who == STRANGER) {
		log_info(&h->log, "refused a connection from CID %u, port %u%s", cid, *port,
			 is_rightful(h, cid, *port) ? ", which is not privileged" : "");
		count_turned_away(h, kind);
	}
	return who;
}

/* After accept has failed: what to sleep for. */
static void await_listener(libvchan_t *h, enum wire_kind kind, struct conn_sleep *s)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK) {
		conn_watch(s, h->listeners[kind], POLLIN);
		return;
	}
	/* Out of fds, most likely, with a client in the queue: poll would return
	 * at once, for nothing. */
	log_info(&h->log, "accept: %s", log_reason(errno).text);
	if (s->until > clock_now() + RETRY_MOST)
		s->until = clock_now() + RETRY_MOST;
}

/* The next rightful peer, into *fd, and its port.  False: none now. */
static bool accept_one(libvchan_t *h, enum wire_kind kind, int *fd, uint32_t *port,
		       struct conn_sleep *s)
{
	enum visitor who = STRANGER;

	while (who == STRANGER && !rests(h, kind, s))
		who = open_door(h, kind, fd, port);
	if (who == NOBODY)
		await_listener(h, kind, s);
	return who == RIGHTFUL;
}

static struct candidate *free_place(libvchan_t *h)
{
	for (int i = 0; i < CANDIDATES; i++)
		if (h->candidates[i].fd < 0)
			return &h->candidates[i];
	return NULL;
}

static void accept_candidates(libvchan_t *h, struct conn_sleep *s)
{
	struct candidate *c;
	uint32_t port;

	if (h->listeners[FRAMED] < 0)
		return;
	while ((c = free_place(h)) != NULL && accept_one(h, FRAMED, &c->fd, &port, s))
		become_candidate(c, c->fd);
}

/* By the port that a plain connection comes from: will its client try framed, too? */
static bool is_our_port(uint32_t port)
{
	return port - OUR_PORTS < OUR_PORTS_COUNT ||
	       port - OUR_PRIVILEGED_PORTS < OUR_PRIVILEGED_COUNT;
}

static void accept_plain(libvchan_t *h, struct conn_sleep *s)
{
	uint32_t port = 0;

	if (h->listeners[PLAIN] < 0 || !accept_one(h, PLAIN, &h->plain, &port, s))
		return;
	h->plain_until = clock_now();
	h->plain_is_ours = h->config.wire != WIRE_PLAIN && is_our_port(port);
	if (h->plain_is_ours)
		h->plain_until += HELLO_WAIT;
	else if (h->config.wire != WIRE_PLAIN)
		h->plain_until += PLAIN_MOMENT;
}

/* True: he is the connection. */
static bool welcome(libvchan_t *h, struct candidate *c, const char **why)
{
	struct hello hello;

	*why = hello_decode(c->hello, &hello);
	if (*why)
		return false;
	atomic_store(&h->answered, true);
	if (say_hello(h, c->fd) < 0) {
		atomic_store(&h->answered, false);
		*why = "it takes no hello";
		return false;
	}
	be_framed(h, c->fd, &hello);
	choose(h, &c->fd);
	return true;
}

/* True: one of them is the connection. */
static bool hear_candidates(libvchan_t *h, struct conn_sleep *s, bool *any)
{
	for (int i = 0; i < CANDIDATES; i++) {
		struct candidate *c = &h->candidates[i];
		const char *why = NULL;
		enum heard heard;

		if (c->fd < 0)
			continue;
		heard = hear(c, &why);
		if (heard == ALL && welcome(h, c, &why))
			return true;
		if (heard == SOME) {
			*any = true;
			conn_watch(s, c->fd, POLLIN);
			if (c->until < s->until)
				s->until = c->until;
			continue;
		}
		log_info(&h->log, "refused a peer on the framed port: %s", why);
		close_socket(h, &c->fd);
		count_turned_away(h, FRAMED);
		s->until = 0; /* again: there may be others for his place */
	}
	return false;
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
	close_socket(h, &h->attempt);
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

static void close_all(libvchan_t *h)
{
	sigset_t saved;

	life_enter(&saved);
	setup_close(h);
	life_leave(&saved);
}

static void probe(libvchan_t *h)
{
	enum presence found = look_for_machine(h);

	h->probe_at = clock_now() + PROBE_EVERY;
	if (found == UNKNOWN)
		return;
	if (h->peer_seen && found == MISSING && h->peer_missing) {
		log_info(&h->log, "the machine with CID %u has gone", h->peer_cid);
		close_all(h);
		conn_give_up(h, DISCONNECTED, 0);
		return;
	}
	h->peer_seen |= found == PRESENT;
	h->peer_missing = found == MISSING;
}

bool setup_is_for_guest(const libvchan_t *h)
{
	return !h->config.loopback && !h->own_cid && h->peer_cid > CID_HOST;
}

/* The client of ours that was held back has gone.  True: others may come now. */
static bool drop_plain(libvchan_t *h)
{
	if (listen_on(h, PLAIN, 0) < 0) {
		close_socket(h, &h->listeners[PLAIN]);
		return false;
	}
	log_info(&h->log, "a client has left before it was connected");
	close_socket(h, &h->plain);
	count_turned_away(h, PLAIN);
	return true;
}

/* Nobody is a candidate.  True: the plain connection is the one. */
static bool settles_for_plain(libvchan_t *h, struct conn_sleep *s)
{
	ssize_t said = vsock_peek(h->plain);
	bool silent = said < 0 && vsock_will_go_again(errno), left = said <= 0 && !silent;

	if (left && h->plain_is_ours) {
		bool dropped = drop_plain(h);

		if (dropped || clock_now() < h->plain_until) {
			/* Again: for who comes, or for the port, or an fd. */
			s->until = dropped ? 0 : clock_now() + LISTEN_PAUSE;
			return false;
		}
	}
	/* One of ours would have said nothing before it is connected. */
	if (!silent || clock_now() >= h->plain_until) {
		choose(h, &h->plain);
		return true;
	}
	conn_watch(s, h->plain, POLLIN);
	if (h->plain_until < s->until)
		s->until = h->plain_until;
	return false;
}

void setup_step_waiting(libvchan_t *h, struct conn_sleep *s)
{
	bool candidates = false;

	/* The plain one first: who comes to the framed port after that has not
	 * been looked for, and is within the moment. */
	accept_plain(h, s);
	accept_candidates(h, s);
	if (hear_candidates(h, s, &candidates))
		return;
	if (h->plain >= 0 && !candidates && settles_for_plain(h, s))
		return;
	if (!setup_is_for_guest(h) || h->plain >= 0 || candidates)
		return;
	if (clock_now() >= h->probe_at)
		probe(h);
	if (h->probe_at < s->until)
		s->until = h->probe_at;
}

/* ---- a client ---- */

int setup_prepare(libvchan_t *h)
{
	h->started = clock_now();
	h->retry_after = RETRY_FIRST;
	h->attempted = h->config.wire == WIRE_PLAIN ? PLAIN : FRAMED;
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

static void try_again(libvchan_t *h, int err)
{
	int64_t now = clock_now();
	int final = verdict(h, err, now);

	h->attempted = h->config.wire == WIRE_PLAIN ? PLAIN : FRAMED;
	if (final) {
		close_all(h);
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

	close_socket(h, &h->candidates[0].fd);
	close_socket(h, &h->attempt);
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
		become_candidate(&h->candidates[0], h->candidates[0].fd);
		if (say_hello(h, h->candidates[0].fd) < 0)
			attempt_failed(h, ECONNRESET);
	} else if (h->config.wire == WIRE_PLAIN) {
		choose(h, &h->attempt);
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

	if (h->attempt < 0 && open_socket(h, &h->attempt) < 0)
		return -1;
	if (!take_privileged_port(h, ours) && ours)
		take_port(h->attempt, OUR_PORTS, OUR_PORTS_COUNT, BIND_TRIES);
	return 0;
}

static int connect_attempt(libvchan_t *h)
{
	uint32_t port = port_of(h, h->attempted);

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
		close_all(h);
		conn_give_up(h, FAILED, err);
	} else {
		be_framed(h, c->fd, &hello);
		choose(h, &c->fd);
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
		choose(h, &h->plain);
		return;
	}
	close_socket(h, &h->plain);
	try_again(h, ECONNRESET);
}

static void await_hello(libvchan_t *h, struct conn_sleep *s)
{
	struct candidate *c = &h->candidates[0];
	const char *why = NULL;

	switch (hear(c, &why)) {
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

void setup_step_connecting(libvchan_t *h, struct conn_sleep *s)
{
	if (h->config.connect_timeout_ms)
		s->until = h->started + h->config.connect_timeout_ms * CLOCK_MS;
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
	if (handle_state(h) != CONNECTING || s->count)
		return;
	if (h->trying)
		conn_watch(s, h->attempt, POLLOUT);
	else if (h->asking)
		s->until = 0; /* again: for the relay's answer */
	else if (h->candidates[0].fd >= 0)
		s->until = 0; /* again: for its hello, and how long to wait for it */
	else if (h->settling)
		s->until = h->retry_at < h->plain_until ? h->retry_at : h->plain_until;
	else if (h->retry_at < s->until)
		s->until = h->retry_at;
}
