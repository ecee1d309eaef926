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
 * A server whose client is on another machine asks every 2 s whether that
 * machine exists, by starting a connection to it and dropping it at once: only
 * on a host, for a guest's CID, does the kernel answer ENODEV.  A machine that
 * was there and was missing twice in a row has gone.
 */
#include "setup_parts.h"

#include <errno.h>
#include <time.h>

#include "life.h"
#include "vsock.h"

#define FRAMED_QUEUE 128
#define CROWD 16
#define REST (1 * CLOCK_MS)
#define CROWDED_WAIT (1 * CLOCK_S)
#define PROBE_EVERY (2 * CLOCK_S)
/* A program that another thread is starting holds the fds of a server that has
 * just been closed, between vfork and exec. */
#define LISTEN_AGAIN (100 * CLOCK_MS)
#define LISTEN_PAUSE (5 * CLOCK_MS)

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

	if (setup_open_socket(h, &h->listeners[kind]) < 0)
		return -1;
	while (vsock_listen(h->listeners[kind], cid, setup_port_of(h, kind), queue) < 0) {
		if (errno != EADDRINUSE || clock_now() >= until)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int setup_listen(libvchan_t *h, uint32_t *port)
{
	*port = setup_port_of(h, FRAMED);
	if (h->config.wire != WIRE_PLAIN && listen_on(h, FRAMED, LISTEN_AGAIN) < 0)
		return -1;
	*port = setup_port_of(h, PLAIN);
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
		setup_let_go(h, &h->listeners[PLAIN]); /* a second would queue there */
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
		setup_become_candidate(c, c->fd);
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
	if (setup_say_hello(h, c->fd) < 0) {
		atomic_store(&h->answered, false);
		*why = "it takes no hello";
		return false;
	}
	setup_be_framed(h, c->fd, &hello);
	setup_choose(h, &c->fd);
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
		heard = setup_hear(c, &why);
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
		setup_close_socket(h, &c->fd);
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

	if (setup_open_socket(h, &h->attempt) < 0)
		return UNKNOWN;
	if (vsock_connect(h->attempt, h->peer_cid, h->port) < 0)
		err = errno;
	setup_close_socket(h, &h->attempt);
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
		setup_close_all(h);
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
		setup_close_socket(h, &h->listeners[PLAIN]);
		return false;
	}
	log_info(&h->log, "a client has left before it was connected");
	setup_close_socket(h, &h->plain);
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
		setup_choose(h, &h->plain);
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
