/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A model-based fuzzer of the engine: random sequences of calls on both ends of a
 * socket pair, against a model of two queues of bytes (libvchan.h).
 *
 * The model counts what each end has written and read, what each call has promised
 * or told, and what a program that sleeps on the fd must therefore be woken for.
 * Each byte depends on its place in the stream, so that none is lost, doubled or
 * moved unseen.  A call that would block is made only when the model says that it
 * cannot; one that does all the same is found by the watchdog.
 *
 * A run is a row of sessions, each with a seed of its own from which everything
 * follows: the wire, the rings, the kernel's buffers, the calls.  Without a thread
 * in the library a session repeats exactly.
 *
 *   engine [--seed N] [--steps N] [--wire plain|framed|peer]
 *   engine --session N [--steps N] [--wire ...]   one session, up to this step
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "../unit/random.h"
#include "fuzz.h"
#include "libvchan.h"
#include "vchan/driver.h"
#include "vchan/frame.h"
#include "vchan/handle.h"
#include "vchan/wire.h"

#define MOST (300u << 10) /* bytes in one call */
#define SOON_MS 20000     /* for what the library's thread does meanwhile */
#define STUCK_S 60        /* no step takes so long */
#define SEND_MOST (128u << 10) /* the framed wire's, whatever the ring */

enum wire { PLAIN_PAIR, FRAMED_PAIR, PLAIN_PEER, WIRES };
static const char *const wire_names[] = { "plain", "framed", "peer" };

/* ---- the model ---- */

struct end {
	const char *name;
	struct end *peer;
	libvchan_t *chan; /* NULL: closed, or a plain socket: */
	int sock;         /* this, or -1 */
	size_t in, out;   /* the rings */
	bool blocking;

	uint64_t written, got; /* bytes */
	uint64_t sure;    /* once it has left: so much of `written` arrives */
	size_t failed;    /* bytes of a write that failed: some may have gone */
	unsigned writes;  /* since all of it had arrived */
	bool left;        /* closed, or half closed */
	bool gone;        /* a call has said that the peer has left */
	bool ended;       /* ... and that nothing is left to read */

	size_t space, ready; /* promised, and not used since */
	int fd;           /* to select on; -1: not asked for yet */
	bool connected;   /* not told of yet */
	bool was_readable; /* since the last wait */
	bool told_end;    /* a wait has returned since the peer left */
	bool told_all;    /* ... and since nothing is left to read: */
	unsigned late;    /* events all the same */
	bool quiet;       /* a wait has returned, and nobody has done anything since */
	uint64_t told;    /* it knows of what comes before this place, or asks no more */
	bool wants_room;  /* it has seen too little: */
	size_t room_seen; /* this */
	bool room_came;   /* more than that, since */
};

static struct end ends[2];
static enum wire wire;
static struct random rng;
static size_t size_most; /* of most calls of this session */
static unsigned lazy;    /* of 8 times that the second end is to act, it does not */
static char into[MOST];

/* ---- what is said when it fails ---- */

#define TRACE 48
static char trace[TRACE][160];
static uint64_t session, steps, steps_in_session;
static _Atomic uint64_t heartbeat;

static void __attribute__((format(printf, 1, 2))) note(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(trace[steps_in_session % TRACE], sizeof *trace, format, args);
	va_end(args);
	steps_in_session++;
	steps++;
	atomic_fetch_add_explicit(&heartbeat, 1, memory_order_relaxed);
}

static void print_end(const struct end *e)
{
	fprintf(stderr, "  %s: rings %zu %zu, written %llu, got %llu, sure %llu, space %zu, ready %zu,"
		" told %llu, room seen %zu%s%s%s%s%s%s%s%s\n", e->name, e->in, e->out,
		(unsigned long long)e->written, (unsigned long long)e->got,
		(unsigned long long)e->sure, e->space, e->ready, (unsigned long long)e->told,
		e->room_seen, e->blocking ? " blocking" : "", e->wants_room ? " wants-room" : "",
		e->left ? " left" : "", e->gone ? " gone" : "", e->ended ? " ended" : "",
		e->told_end ? " told-end" : "", e->was_readable ? " was-readable" : "",
		e->room_came ? " room-came" : "");
}

static void report(void)
{
	uint64_t first = steps_in_session > TRACE ? steps_in_session - TRACE : 0;

	for (uint64_t i = first; i < steps_in_session; i++)
		fprintf(stderr, "  %llu %s\n", (unsigned long long)i, trace[i % TRACE]);
	print_end(&ends[0]);
	print_end(&ends[1]);
	fprintf(stderr, "engine: repeat with --session %llu --wire %s --steps %llu (%s)\n",
		(unsigned long long)session, wire_names[wire],
		(unsigned long long)steps_in_session,
		driver_attends ? "with the thread" : "simple");
}

#define EXPECT(condition, ...)                                       \
	do {                                                         \
		if (!(condition))                                    \
			fail(#condition, __LINE__, __VA_ARGS__);     \
	} while (0)

static void __attribute__((format(printf, 3, 4), noreturn))
fail(const char *condition, int line, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "engine: line %d: not so: %s: ", line, condition);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	report();
	_exit(1); /* what is open stays so */
}

/* A thread beside: a call that never returns may have blocked all signals. */
static void *watch(void *unused)
{
	uint64_t seen = 0;

	(void)unused;
	for (int still = 0; still < STUCK_S; still++) {
		uint64_t now = atomic_load(&heartbeat);

		if (now != seen)
			still = 0;
		seen = now;
		sleep(1);
	}
	fail("a call returns", __LINE__, "the next one does not");
}

/* ---- the bytes ---- */

#define PERIOD 65521 /* a prime number, as long as no ring */
static unsigned char pattern[PERIOD + MOST];

static void make_pattern(void)
{
	struct random r = { 1 };

	for (size_t i = 0; i < PERIOD; i++)
		pattern[i] = (unsigned char)random_next(&r);
	for (size_t i = PERIOD; i < sizeof pattern; i++)
		pattern[i] = pattern[i - PERIOD];
}

/* What this end writes at that place. */
static const unsigned char *bytes_of(const struct end *writer, uint64_t place)
{
	return pattern + (place + (writer == &ends[0] ? 0 : PERIOD / 2)) % PERIOD;
}

/* So that what is written behind its end is seen. */
static char *room_for(size_t n)
{
	return into + sizeof into - n;
}

static void take(struct end *e, const char *data, size_t n)
{
	uint64_t most = e->peer->written + e->peer->failed;

	EXPECT(e->got + n <= most, "%s got %zu bytes too many", e->name, (size_t)(e->got + n - most));
	EXPECT(memcmp(data, bytes_of(e->peer, e->got), n) == 0, "%s got a wrong byte", e->name);
	e->got += n;
}

/* ---- what the model knows ---- */

static size_t less(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* What has reached the socket of e, at least: all but what waits in the peer's ring. */
static uint64_t arrived(const struct end *e)
{
	const struct end *p = e->peer;
	uint64_t n = p->written;

	if (p->left)
		n = p->sure;
	else if (p->chan)
		n -= ring_fill(&p->chan->out);
	return n > e->got ? n : e->got;
}

/* The peer has left, and this end must know when it is asked. */
static bool must_know_end(const struct end *e)
{
	return e->gone || (!driver_attends && e->peer->left);
}

static size_t window(const struct end *e)
{
	return frame_window((uint32_t)e->out);
}

static size_t unread(const struct end *e)
{
	return (size_t)(e->written - e->peer->got);
}

/* The room as it is, or soon will be. */
static size_t room(const struct end *e)
{
	size_t fill = ring_fill(&e->chan->out);

	if (e->peer->left || fill >= e->out)
		return 0;
	if (wire != FRAMED_PAIR)
		return e->out - fill;
	return unread(e) >= window(e) ? 0 : less(e->out - fill, window(e) - unread(e));
}

/* The data that came since it was told is worth an event; but not while it knows of a
 * ring full. */
static bool owed_data(const struct end *e)
{
	uint64_t told = e->told > e->got ? e->told : e->got;

	return arrived(e) > told && told - e->got < e->in;
}

static bool owed_now(const struct end *e)
{
	return e->connected || (e->room_came && !e->gone) || (e->peer->left && !e->told_end) ||
	       owed_data(e);
}

/* Once the peer has had its turn, too. */
static bool owed_in_the_end(const struct end *e)
{
	return owed_now(e) || (e->wants_room && !e->peer->left && room(e) > e->room_seen);
}

static void learn_of_end(struct end *e)
{
	EXPECT(e->peer->left, "%s thinks that its peer has left", e->name);
	e->gone = true;
	e->space = 0;
	e->wants_room = e->room_came = false;
}

static void learn_that_all_was_read(struct end *e)
{
	EXPECT(e->got >= e->peer->sure, "%s lacks %llu bytes", e->name,
	       (unsigned long long)(e->peer->sure - e->got));
	e->ended = true;
}

static void see_room(struct end *e, size_t seen)
{
	if (e->gone)
		return;
	e->wants_room = true;
	e->room_seen = seen;
}

/* After each call: what it may have brought. */
static void notice_room(struct end *e)
{
	if (e->chan && e->wants_room && !e->peer->left && wire_room(e->chan) > e->room_seen)
		e->room_came = true;
}

/* Whatever anybody does may be an event for either. */
static void stir(void)
{
	ends[0].quiet = ends[1].quiet = false;
}

/* ---- calls ---- */

static size_t pick(size_t ring, size_t promised)
{
	size_t n;

	switch (random_below(&rng, 12)) {
	case 0:
		n = promised;
		break;
	case 1:
		n = promised + 1;
		break;
	case 2:
		n = ring + random_below(&rng, 3) - 1;
		break;
	case 3:
		n = random_size(&rng, 2 * ring + 2);
		break;
	default:
		n = random_size(&rng, size_most);
	}
	return less(n, MOST);
}

static size_t send_most(const struct end *e)
{
	return wire == FRAMED_PAIR && e->out < SEND_MOST ? SEND_MOST : e->out;
}

static void check_failed_write(struct end *e, size_t n, bool over, int err)
{
	if (over && err == EMSGSIZE)
		return;
	EXPECT(err == EPIPE, "errno %d", err);
	if (!e->gone)
		e->failed = n;
	learn_of_end(e);
}

static void check_written(struct end *e, size_t n, size_t done, bool whole)
{
	size_t promised = e->peer->left ? 0 : e->space;

	EXPECT(done <= n, "%zu of %zu", done, n);
	EXPECT(!whole || done == n || done == 0, "%zu of %zu", done, n);
	EXPECT(!n || !must_know_end(e), "%s wrote to nobody", e->name);
	EXPECT(done >= (whole && n > promised ? 0 : less(n, promised)), "%zu of %zu", done, n);
	EXPECT(!e->blocking || done == n, "%zu of %zu", done, n);
	e->written += done;
	e->space -= less(e->space, done);
	if (done)
		e->writes++;
	if (done < n)
		see_room(e, wire_room(e->chan));
	else if (n)
		e->wants_room = false; /* it has found enough */
	if (wire == FRAMED_PAIR)
		EXPECT(unread(e) <= window(e) + SEND_MOST, "%zu unread", unread(e));
}

static void do_write(struct end *e)
{
	bool whole = random_next(&rng) & 1;
	size_t n = pick(e->out, e->space);
	bool over = whole && n > send_most(e);
	int done, err;

	if (e->blocking && !e->peer->left && !over)
		n = less(n, e->space);
	errno = 0;
	done = whole ? libvchan_send(e->chan, bytes_of(e, e->written), n) :
		       libvchan_write(e->chan, bytes_of(e, e->written), n);
	err = errno;
	note("%s %s %zu -> %d, errno %d", e->name, whole ? "send" : "write", n, done, err);
	if (done < 0)
		check_failed_write(e, n, over, err);
	else {
		EXPECT(!over, "more than the ring");
		check_written(e, n, (size_t)done, whole);
	}
}

static void check_failed_read(struct end *e, size_t n, bool exact, int err)
{
	if (exact && n > e->in && err == EMSGSIZE)
		return;
	EXPECT(err == ECONNRESET, "errno %d", err);
	learn_of_end(e);
	if (!exact)
		learn_that_all_was_read(e);
	else
		EXPECT(e->got + n > e->peer->sure, "%s was to get it", e->name);
}

static void check_got(struct end *e, size_t n, size_t done, bool exact)
{
	EXPECT(done <= n && done <= e->in, "%zu of %zu", done, n);
	EXPECT(!exact || done == n || done == 0, "%zu of %zu", done, n);
	EXPECT(done >= (exact && n > e->ready ? 0 : less(n, e->ready)), "%zu of %zu", done, n);
	EXPECT(!e->blocking || !n || done, "nothing");
	EXPECT(!must_know_end(e) || !n || done, "nothing, at the end");
	take(e, room_for(n), done);
	e->ready -= less(e->ready, done);
	if (e->blocking)
		return;
	if (exact && done < n && e->told > e->got + n - 1)
		e->told = e->got + n - 1;
	if (!exact && done < less(n, e->in))
		e->told = e->got;
}

/* What a call that blocks may ask for. */
static size_t sure_to_come(const struct end *e, size_t n, bool exact)
{
	uint64_t left = arrived(e) - e->got;

	if (e->peer->left || (exact && n > e->in))
		return n;
	if (exact)
		return left < n ? (size_t)left : n;
	return left ? n : 0;
}

static void do_read(struct end *e)
{
	bool exact = random_next(&rng) & 1;
	size_t n = pick(e->in, e->ready);
	int done, err;

	if (e->blocking)
		n = sure_to_come(e, n, exact);
	errno = 0;
	done = exact ? libvchan_recv(e->chan, room_for(n), n) :
		       libvchan_read(e->chan, room_for(n), n);
	err = errno;
	note("%s %s %zu -> %d, errno %d", e->name, exact ? "recv" : "read", n, done, err);
	if (done < 0)
		check_failed_read(e, n, exact, err);
	else
		check_got(e, n, (size_t)done, exact);
}

static size_t ask_ready(struct end *e)
{
	int n = libvchan_data_ready(e->chan);

	note("%s data_ready -> %d", e->name, n);
	EXPECT(n >= 0 && (size_t)n <= e->in, "%d", n);
	EXPECT((size_t)n >= e->ready, "%zu was promised", e->ready);
	EXPECT(e->got + (size_t)n <= e->peer->written, "that is too much");
	if (e->gone && n == 0)
		learn_that_all_was_read(e);
	EXPECT(!e->ended || n == 0, "after the end");
	e->ready = (size_t)n;
	e->told = e->got + (size_t)n;
	return (size_t)n;
}

/* A program may spin on it and nothing else. */
static void do_spin(struct end *e)
{
	size_t goal = (size_t)(arrived(e) - e->got);

	goal = less(goal, e->in);
	for (int i = 0; ask_ready(e) < goal; i++) {
		EXPECT(i < (driver_attends ? SOON_MS : 1000), "%zu have arrived", goal);
		if (driver_attends)
			usleep(1000); /* the thread may be receiving */
	}
}

static void do_ready(struct end *e)
{
	ask_ready(e);
}

static void do_space(struct end *e)
{
	int n = libvchan_buffer_space(e->chan);

	note("%s buffer_space -> %d", e->name, n);
	EXPECT(n >= 0 && (size_t)n <= e->out, "%d", n);
	EXPECT(n == 0 || !must_know_end(e), "for nobody");
	EXPECT(e->peer->left || (size_t)n >= e->space, "%zu was promised", e->space);
	if (wire == FRAMED_PAIR && !e->peer->left && n)
		EXPECT((size_t)n + unread(e) <= window(e), "%zu are unread", unread(e));
	e->space = (size_t)n;
	if ((size_t)n < e->out)
		see_room(e, (size_t)n);
}

static void do_open(struct end *e)
{
	int state = libvchan_is_open(e->chan);

	note("%s is_open -> %d", e->name, state);
	EXPECT(state == VCHAN_CONNECTED || state == VCHAN_DISCONNECTED, "%d", state);
	EXPECT(state == VCHAN_DISCONNECTED || !must_know_end(e), "no");
	if (state == VCHAN_DISCONNECTED)
		learn_of_end(e);
}

static void do_mode(struct end *e)
{
	e->blocking = random_next(&rng) & 1;
	libvchan_set_blocking(e->chan, e->blocking);
	note("%s set_blocking %d", e->name, e->blocking);
}

static void expect_errno(int result, int err)
{
	EXPECT(result == -1 && errno == err, "%d, errno %d", result, errno);
}

static void do_misuse(struct end *e)
{
	note("%s misuse", e->name);
	EXPECT(libvchan_write(e->chan, NULL, 0) == 0, "write");
	EXPECT(libvchan_send(e->chan, into, 0) == 0, "send");
	EXPECT(libvchan_read(e->chan, NULL, 0) == 0, "read");
	EXPECT(libvchan_recv(e->chan, into, 0) == 0, "recv");
	expect_errno(libvchan_write(e->chan, NULL, 1), EINVAL);
	expect_errno(libvchan_send(e->chan, NULL, 1), EINVAL);
	expect_errno(libvchan_read(e->chan, NULL, 1), EINVAL);
	expect_errno(libvchan_recv(e->chan, NULL, 1), EINVAL);
}

/* ---- events ---- */

static void get_fd(struct end *e)
{
	int fd = libvchan_fd_for_select(e->chan);

	note("%s fd_for_select", e->name);
	EXPECT(fd >= 0 && (e->fd < 0 || fd == e->fd), "%d, %d before", fd, e->fd);
	e->fd = fd;
}

static bool readable(struct end *e, int ms)
{
	struct pollfd p = { e->fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0 };
	bool yes = poll(&p, 1, ms) > 0;

	EXPECT(!yes || p.revents == POLLIN, "revents %x", (unsigned)p.revents);
	e->was_readable |= yes;
	return yes;
}

static void do_poll(struct end *e)
{
	bool owed, yes;

	if (e->fd < 0)
		get_fd(e);
	owed = owed_now(e);
	yes = readable(e, owed && driver_attends ? SOON_MS : 0);
	note("%s poll -> %d", e->name, yes);
	EXPECT(yes || !owed, "%s lacks an event", e->name);
	EXPECT(!yes || !e->quiet || driver_attends, "%s was to be quiet", e->name);
	EXPECT(!yes || !e->told_all || driver_attends, "%s was to be quiet for good", e->name);
}

static void wait_now(struct end *e)
{
	int result;

	note("%s wait", e->name);
	result = libvchan_wait(e->chan);
	EXPECT(result == 0, "%d", result);
	/* The thread may have been about to tell of something. */
	e->late += e->told_all && e->was_readable;
	EXPECT(e->late < 3, "%s was to be quiet for good", e->name);
	e->connected = e->was_readable = false;
	e->told_end = e->peer->left;
	e->told_all = e->ended;
	e->told = e->peer->written;
	/* Who has not looked since the last one does so now. */
	e->wants_room = e->room_came = false;
	stir();
	/* News of room may lie behind what a wait takes in. */
	e->quiet = wire != FRAMED_PAIR || !atomic_load(&e->chan->want_room);
}

/* Where it may not block. */
static void do_wait(struct end *e)
{
	if (e->fd < 0)
		get_fd(e);
	if (readable(e, 0) || e->was_readable || e->peer->left)
		wait_now(e);
}

/* Behind much data, which its program leaves there, a question is heard by several
 * calls. */
static void hear_all(struct end *e)
{
	int left = 0;

	e->quiet = false;
	do
		ask_ready(e);
	while (ioctl(e->chan->sock, FIONREAD, &left) == 0 && left > 0 &&
	       ring_fill(&e->chan->in) < window(e->peer) && !e->gone);
}

/* e sleeps, having seen what it has seen; its peer goes to sleep, too: it looks before,
 * and each time when it is woken. */
static void do_sleep(struct end *e)
{
	struct end *p = e->peer;

	if (e->fd < 0)
		get_fd(e);
	if (p->chan && p->fd < 0)
		get_fd(p);
	note("%s sleeps", e->name);
	if (p->chan && !driver_attends && wire == FRAMED_PAIR)
		hear_all(p);
	for (int i = 0; !driver_attends && !readable(e, 0) && p->chan && readable(p, 0); i++) {
		EXPECT(i < 1000, "%s is never quiet", p->name);
		wait_now(p);
		if (wire == FRAMED_PAIR)
			hear_all(p);
	}
	if (owed_in_the_end(e))
		EXPECT(readable(e, driver_attends ? SOON_MS : 0), "%s sleeps for ever", e->name);
}

/* ---- the peer that is a plain socket ---- */

static void plain_write(struct end *e)
{
	size_t n = 1 + random_size(&rng, size_most);
	ssize_t done = send(e->sock, bytes_of(e, e->written), n, MSG_NOSIGNAL | MSG_DONTWAIT);

	note("%s send %zu -> %zd", e->name, n, done);
	EXPECT(done > 0 || errno == EAGAIN || e->peer->left, "errno %d", errno);
	if (done > 0 && !e->left)
		e->written += (size_t)done;
}

static bool plain_read(struct end *e, size_t most)
{
	size_t n = less(1 + random_size(&rng, most), MOST);
	ssize_t done = recv(e->sock, room_for(n), n, MSG_DONTWAIT);
	int err = errno;

	note("%s recv %zu -> %zd", e->name, n, done);
	if (done > 0) {
		take(e, room_for(n), (size_t)done);
		return true;
	}
	EXPECT(done == 0 || err == EAGAIN || err == ECONNRESET, "errno %d", err);
	if (done == 0 || err == ECONNRESET) {
		EXPECT(e->peer->left, "%s lost its peer", e->name);
		learn_that_all_was_read(e);
	}
	return false;
}

/* ---- the end of one end ---- */

/* All that went into the kernel arrives, and so does what surely had room there: on the
 * framed wire there may be many headers. */
static void leave(struct end *e)
{
	e->sure = e->written;
	if (e->chan && (wire == FRAMED_PAIR || e->writes > 4 || unread(e) > 1000))
		e->sure -= ring_fill(&e->chan->out);
	e->left = true;
}

static void do_close(struct end *e)
{
	int fd = e->sock;

	stir();
	if (!e->left)
		leave(e);
	note("%s close", e->name);
	libvchan_close(e->chan);
	if (fd >= 0)
		close(fd);
	e->chan = NULL;
	e->sock = -1;
}

static void do_half_close(struct end *e)
{
	stir();
	note("%s shutdown", e->name);
	shutdown(e->sock, SHUT_WR);
	leave(e);
}

/* ---- everything arrives ---- */

static bool is_there(const struct end *e)
{
	return e->chan || e->sock >= 0;
}

/* All that an awake program does before it sleeps again. */
static void look(struct end *e, bool with_room)
{
	int n;

	do {
		size_t most = less(1 + random_size(&rng, 2 * e->in), MOST);

		errno = 0;
		n = libvchan_read(e->chan, room_for(most), most);
		note("%s read %zu -> %d, errno %d", e->name, most, n, errno);
		if (n < 0)
			check_failed_read(e, most, false, errno);
		else
			check_got(e, most, (size_t)n, false);
	} while (n > 0);
	if (with_room)
		do_space(e);
}

static bool all_read(const struct end *e)
{
	if (!is_there(e))
		return true;
	return e->peer->left ? e->ended : e->got >= e->peer->written;
}

static bool has_room(const struct end *e)
{
	return !e->chan || e->peer->left || e->space == e->out;
}

static bool settled(bool with_room)
{
	for (int i = 0; i < 2; i++)
		if (!all_read(&ends[i]) || (with_room && !has_room(&ends[i])))
			return false;
	return true;
}

/* What it wrote before its peer left by halves goes in its calls, of which no fd tells. */
static bool sends_the_rest(struct end *e)
{
	size_t before = ring_fill(&e->chan->out);

	if (!e->gone || !before || driver_attends)
		return false;
	do_open(e);
	return ring_fill(&e->chan->out) < before;
}

/* The ends that are awake do what they can; false: none is. */
static bool settle_step(bool with_room)
{
	bool any = false;

	for (int i = 0; i < 2; i++) {
		struct end *e = &ends[i];

		any |= e->chan && sends_the_rest(e);
		if (e->chan && readable(e, 0)) {
			wait_now(e);
			look(e, with_room);
			any = true;
		}
		while (e->sock >= 0 && !e->ended && plain_read(e, MOST))
			any = true;
	}
	return any;
}

static bool wake_up(void)
{
	struct pollfd p[2];

	for (int i = 0; i < 2; i++)
		p[i] = (struct pollfd){ ends[i].chan ? ends[i].fd : ends[i].sock, POLLIN, 0 };
	return poll(p, 2, SOON_MS) > 0;
}

/* Two programs that do nothing but read, and sleep on their fds in between. */
static void settle(void)
{
	bool with_room = random_next(&rng) & 1;

	note("both read to the end");
	stir();
	for (int i = 0; i < 2; i++)
		if (ends[i].chan) {
			ends[i].blocking = false;
			libvchan_set_blocking(ends[i].chan, false);
			get_fd(&ends[i]);
			look(&ends[i], with_room);
		}
	while (settle_step(with_room) || !settled(with_room))
		if (!settled(with_room) && !driver_attends && !settle_step(with_room))
			EXPECT(settled(with_room), "both sleep for ever");
		else if (!settled(with_room) && driver_attends)
			EXPECT(wake_up(), "both sleep for ever");
	ends[0].writes = ends[1].writes = 0;
}

/* ---- a session ---- */

static void (*const calls[])(struct end *) = {
	do_write, do_write, do_write, do_write, do_write, do_read, do_read, do_read, do_read,
	do_ready, do_spin, do_space, do_open, do_poll, do_poll, do_wait, do_wait, do_sleep,
	do_mode, do_misuse,
};

static void act(struct end *e)
{
	void (*call)(struct end *) = calls[random_below(&rng, sizeof calls / sizeof *calls)];

	if (e->sock >= 0) {
		stir();
		if (e->left || random_next(&rng) & 1)
			plain_read(e, 2 * size_most);
		else
			plain_write(e);
	} else if (e->chan) {
		if (call != do_poll && call != do_wait)
			stir();
		call(e);
		notice_room(e);
	}
}

static void step(void)
{
	struct end *e = &ends[random_below(&rng, 2)];

	if (e == &ends[1] && random_below(&rng, 8) < lazy)
		e = &ends[0];
	switch (random_below(&rng, 1000)) {
	case 0:
		do_close(e);
		break;
	case 1:
		if (e->sock >= 0 && !e->left)
			do_half_close(e);
		break;
	case 2:
	case 3:
		settle();
		break;
	default:
		act(e);
	}
}

static size_t pick_ring(void)
{
	static const size_t rings[] = { 1, 4096, 4096, 8192, 16384, 65536, 131072 };

	return rings[random_below(&rng, sizeof rings / sizeof *rings)];
}

/* The kernel's buffers: as they come, or as small as it allows. */
static void limit(int sock)
{
	static const int sizes[] = { 0, 1, 1, 10000, 50000 };
	int size = sizes[random_below(&rng, sizeof sizes / sizeof *sizes)];

	if (size)
		setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static void pick_buffer(void)
{
	static const char *const sizes[] = { "4608", "65536", "4194304" };

	setenv("VCHAN_VSOCK_BUFFER_SIZE", sizes[random_below(&rng, 3)], 1);
}

/* As if so much had gone through before: the numbers on the wire wrap at 4 GiB. */
static void pretend(libvchan_t *chan, uint64_t bytes)
{
	struct flow *f = &chan->flow;
	_Atomic uint64_t *counters[] = { &f->announced, &f->received, &f->accepted, &f->acked,
					 &f->handed, &f->told, &f->taken };

	for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
		atomic_store(counters[i], bytes);
}

static void open_end(struct end *e, int sock, bool ours)
{
	e->sock = ours ? -1 : sock;
	if (!ours)
		return;
	e->chan = handle_adopt(sock, e->in, e->out, wire == FRAMED_PAIR);
	EXPECT(e->chan, "errno %d", errno);
	e->in = e->chan->in_size;
	e->out = e->chan->out_size;
	e->blocking = e->connected = true;
}

static void open_session(void)
{
	const size_t rings[2] = { pick_ring(), pick_ring() };
	uint64_t before = random_below(&rng, 3) ? 0 : ((uint64_t)1 << 32) - random_size(&rng, 1 << 20);
	int fds[2];

	fuzz_pair(fds);
	limit(fds[0]);
	limit(fds[1]);
	pick_buffer();
	for (int i = 0; i < 2; i++) {
		ends[i] = (struct end){ .name = i ? "b" : "a", .peer = &ends[!i], .sock = -1,
					.in = rings[i], .out = rings[!i], .fd = -1 };
		open_end(&ends[i], fds[i], i == 0 || wire != PLAIN_PEER);
	}
	for (int i = 0; wire == FRAMED_PAIR && i < 2; i++)
		pretend(ends[i].chan, before);
	size_most = 1 + random_size(&rng, 20000);
	lazy = (unsigned)random_below(&rng, 8);
}

/* Who is still there reads all that was sent, and closes too. */
static void close_session(void)
{
	settle();
	do_close(&ends[0]);
	if (is_there(&ends[1])) {
		settle();
		do_close(&ends[1]);
	}
}

static int lowest_fd(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

static void run_session(uint64_t seed, uint64_t most)
{
	int fd = lowest_fd();

	session = seed;
	rng.state = seed;
	steps_in_session = 0;
	open_session();
	most = less(most, 1 + random_size(&rng, 5000));
	while (steps_in_session < most && (is_there(&ends[0]) || is_there(&ends[1])))
		step();
	close_session();
	EXPECT(lowest_fd() == fd, "an fd is left open");
}

/* ---- the run ---- */

static double seconds(bool of_processor)
{
	struct timespec t;

	clock_gettime(of_processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run(uint64_t seed, uint64_t most)
{
	double start = seconds(false), start_cpu = seconds(true);
	struct random seeds = { seed * UINT64_C(0x9e3779b97f4a7c15) | 1 };
	uint64_t count = 0;

	printf("engine: --seed %llu --wire %s, %s\n", (unsigned long long)seed, wire_names[wire],
	       driver_attends ? "with the thread" : "simple");
	fflush(stdout);
	for (steps = 0; steps < most; count++)
		run_session(random_next(&seeds), UINT64_MAX);
	printf("engine: %llu steps in %llu sessions, %.1f s, %.1f s of processor time\n",
	       (unsigned long long)steps, (unsigned long long)count, seconds(false) - start,
	       seconds(true) - start_cpu);
}

static enum wire wire_of(const char *name)
{
	for (int i = 0; i < WIRES; i++)
		if (!strcmp(name, wire_names[i]))
			return (enum wire)i;
	fprintf(stderr, "engine: no wire is called %s\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, most = 100000, only = 0;
	pthread_t watchdog;

	wire = FRAMED_PAIR;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--steps"))
			most = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--session"))
			only = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--wire"))
			wire = wire_of(argv[i + 1]);
	}
	fuzz_environment();
	make_pattern();
	pthread_create(&watchdog, NULL, watch, NULL);
	pthread_detach(watchdog);
	if (only)
		run_session(only, most);
	else
		run(seed, most);
	return 0;
}
