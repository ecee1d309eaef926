/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every system call that the library makes fails, in turn: each function, each errno
 * that it can give, each call of a whole life of a channel (set-up, request and reply,
 * a stream, bulk, the end), once and from then on.
 *
 * A life has a server and a client, each in a thread.  Whatever fails: the return value
 * and errno are of those that libvchan.h names or the injected one, what was received is
 * a prefix of what was sent, no call hangs, the handle can be closed, the next call
 * succeeds, and no fd, mapping or thread is left.  What a fault must not even be noticed
 * by (EINTR, short counts, a kernel that is short of memory for a moment, ...) has to
 * end with every byte delivered.
 *
 * AF_VSOCK is tests/fake/vsock.c, the faults are inject.c.
 */
#include "tests/unit/unit.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "libvchan.h"
#include "inject.h"

#define RING 4096
#define PATIENCE 120 /* s, for one life, on a busy machine */
#define NTH_MOST 48
#define NTH_FEW 12
#define REQUESTS 3
#define MESSAGES 40
#define MESSAGE 100
#define BULK ((size_t)200 << 10)
#define PIECE ((size_t)48 << 10)

/* ---- who lives ---- */

/* ASYNC also with a log, and without the standard fds; PLAIN_CLIENT with rings of files.
 * The other end of PLAIN_CLIENT and PLAIN_SERVER takes both wires. */
enum how { FRAMED, PLAIN_ONLY, ASYNC, PLAIN_CLIENT, PLAIN_SERVER };

struct end {
	bool server;
	enum how how;
	int port;
	int injected;       /* errno */
	pthread_t thread;
	pthread_barrier_t *open;
	size_t sent, got;   /* of the pattern */
	bool broken;        /* a call has failed */
	bool never;         /* never connected, as the other end had gone already */
	atomic_bool done;
	char wrong[256];    /* what must not have happened */
};

static struct fault current;

static char byte_at(size_t n)
{
	return (char)((n * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void complain(struct end *e, const char *what, int err)
{
	if (*e->wrong)
		return;
	snprintf(e->wrong, sizeof e->wrong, "%s: %s: %d (%s)", e->server ? "server" : "client",
		 what, err, strerror(err));
	/* At once: the other end may wait for ever. */
	print_message("%s\n", e->wrong);
	fflush(stdout);
}

static bool is_among(int err, const int *list)
{
	for (; *list; list++)
		if (*list == err)
			return true;
	return false;
}

/* ---- opening ---- */

static const int init_errors[] = { EADDRINUSE, EAFNOSUPPORT, ENODEV, EACCES, EMFILE, ENFILE,
				   ENOMEM, EAGAIN, ETIMEDOUT, 0 };

static libvchan_t *await_connection(struct end *e, libvchan_t *h, int watch_fd)
{
	struct pollfd p = { watch_fd, POLLIN, 0 };
	int got, err;

	while ((got = libvchan_client_init_async_finish(h, true)) == 1)
		if (real_poll(&p, 1, PATIENCE * 1000) == 0)
			complain(e, "watch_fd is silent", 0);
	if (got == 0)
		return h;
	err = errno;
	libvchan_close(h);
	errno = err;
	return NULL;
}

static libvchan_t *open_once(struct end *e)
{
	EVTCHN watch_fd = -1;
	libvchan_t *h;

	errno = 0;
	if (e->server)
		return libvchan_server_init(2, e->port, RING, RING);
	if (e->how != ASYNC)
		return libvchan_client_init(2, e->port);
	h = libvchan_client_init_async(2, e->port, &watch_fd);
	return h ? await_connection(e, h, watch_fd) : NULL;
}

/* Whoever fails to open tries again without faults, and then it goes. */
static libvchan_t *open_end(struct end *e)
{
	libvchan_t *h = open_once(e);

	if (h)
		return h;
	if (errno != e->injected && !is_among(errno, init_errors))
		complain(e, "a strange errno from init", errno);
	fault_disarm();
	fault_interrupt(0);
	h = open_once(e);
	if (h)
		return h;
	/* The server has let somebody in before that attempt failed, and is gone. */
	if (!e->server && errno == ETIMEDOUT)
		e->never = true;
	else
		complain(e, "the next init", errno);
	return NULL;
}

/* ---- a life ---- */

static bool ok(struct end *e, int got, const char *call)
{
	if (got >= 0)
		return true;
	e->broken = true;
	if (errno != EPIPE && errno != ECONNRESET)
		complain(e, call, errno);
	return false;
}

static bool put(struct end *e, libvchan_t *h, size_t size)
{
	char data[PIECE];
	int n;

	for (size_t i = 0; i < size; i++)
		data[i] = byte_at(e->sent + i);
	n = libvchan_write(h, data, size);
	if (!ok(e, n, "write"))
		return false;
	if ((size_t)n != size)
		complain(e, "write wrote less", n);
	e->sent += (size_t)n;
	return true;
}

static bool take(struct end *e, const char *data, int n)
{
	for (int i = 0; i < n; i++)
		if (data[i] != byte_at(e->got + (size_t)i))
			complain(e, "a wrong byte", i);
	e->got += (size_t)n;
	return true;
}

static bool get_exactly(struct end *e, libvchan_t *h, size_t size)
{
	char data[PIECE];
	int n = libvchan_recv(h, data, size);

	return ok(e, n, "recv") && take(e, data, n);
}

/* As programs do that sleep on the fd. */
static bool get_by_events(struct end *e, libvchan_t *h, size_t until)
{
	struct pollfd p = { libvchan_fd_for_select(h), POLLIN, 0 };
	char data[PIECE];
	int n;

	while (e->got < until) {
		n = libvchan_data_ready(h);
		if (n > 0) {
			n = libvchan_read(h, data, smaller((size_t)n, sizeof data));
			if (!ok(e, n, "read"))
				return false;
			take(e, data, n);
		} else if (!libvchan_is_open(h) && !libvchan_data_ready(h)) {
			e->broken = true;
			return false;
		} else {
			if (real_poll(&p, 1, PATIENCE * 1000) == 0)
				complain(e, "the fd is silent", 0);
			libvchan_wait(h);
		}
	}
	return true;
}

static bool get_until(struct end *e, libvchan_t *h, size_t until)
{
	char data[PIECE];
	int n;

	while (e->got < until) {
		n = libvchan_read(h, data, smaller(until - e->got, sizeof data));
		if (!ok(e, n, "read"))
			return false;
		take(e, data, n);
	}
	return true;
}

static bool converse(struct end *e, libvchan_t *h)
{
	for (int i = 0; i < REQUESTS; i++) {
		if (e->server ? !get_exactly(e, h, MESSAGE) || !put(e, h, MESSAGE)
			      : !put(e, h, MESSAGE) || !get_exactly(e, h, MESSAGE))
			return false;
	}
	return true;
}

static bool stream(struct end *e, libvchan_t *h)
{
	if (e->server)
		return get_by_events(e, h, e->got + (size_t)MESSAGES * MESSAGE);
	for (int i = 0; i < MESSAGES; i++)
		if (!put(e, h, MESSAGE))
			return false;
	return true;
}

static bool bulk(struct end *e, libvchan_t *h)
{
	if (!e->server)
		return get_until(e, h, e->got + BULK);
	for (size_t left = BULK; left; left -= smaller(left, PIECE))
		if (!put(e, h, smaller(left, PIECE)))
			return false;
	return true;
}

/* The server sends its last words and leaves; the client hears them. */
static bool part(struct end *e, libvchan_t *h)
{
	if (e->server)
		return put(e, h, 1000);
	if (!get_until(e, h, e->got + 1000))
		return false;
	return true;
}

static bool look(struct end *e, libvchan_t *h)
{
	struct pollfd p = { libvchan_fd_for_select(h), POLLIN, 0 };

	if (libvchan_data_ready(h) < 0 || libvchan_buffer_space(h) < 0)
		complain(e, "less than nothing", 0);
	if (real_poll(&p, 1, 0) > 0 && libvchan_wait(h) < 0)
		complain(e, "wait", errno);
	return true;
}

static void live(struct end *e, libvchan_t *h)
{
	(void)(converse(e, h) && stream(e, h) && bulk(e, h) && look(e, h) && part(e, h));
}

/* All that there still is, to the end. */
static void listen_to_the_end(struct end *e, libvchan_t *h)
{
	bool broken = e->broken;
	char data[PIECE];
	int n;

	while ((n = libvchan_read(h, data, sizeof data)) > 0)
		take(e, data, n);
	if (n == 0)
		complain(e, "read: 0 at the end", 0);
	else if (errno != ECONNRESET)
		complain(e, "read at the end", errno);
	if (libvchan_is_open(h) != VCHAN_DISCONNECTED)
		complain(e, "open after its end", 0);
	e->broken = broken;
}

static void *be(void *end)
{
	struct end *e = end;
	libvchan_t *h = open_end(e);

	if (e->server)
		pthread_barrier_wait(e->open);
	if (h) {
		live(e, h);
		if (!e->server && !e->broken)
			listen_to_the_end(e, h);
		libvchan_close(h);
	}
	atomic_store(&e->done, true);
	return NULL;
}

/* A client that broke down before the server took it for connected leaves the place
 * to the next one. */
static void release(struct end *server)
{
	libvchan_t *next;

	for (int ms = 0; ms < 100 && !atomic_load(&server->done); ms++)
		usleep(1000);
	while (!atomic_load(&server->done)) {
		next = libvchan_client_init(2, server->port);
		libvchan_close(next);
	}
}

/* ---- lives, one after the other ---- */

static int count_threads(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	char line[256];
	int count = -1;

	assert_non_null(status);
	while (fgets(line, sizeof line, status))
		if (sscanf(line, "Threads: %d", &count) == 1)
			break;
	fclose(status);
	return count;
}

static void say_what_hangs(int number)
{
	char text[160];
	int n = snprintf(text, sizeof text, "HANGS: %s, call %d%s, errno %d\n", current.call,
			 current.nth, current.on ? " and on" : "", current.err);

	(void)number;
	(void)!write(STDOUT_FILENO, text, (size_t)n);
	_exit(2);
}

static void prepare(enum how how)
{
	char place[32];

	setenv("VCHAN_VSOCK_LOOPBACK", "1", 1);
	unsetenv("VCHAN_DOMAIN"); /* so that it asks */
	setenv("VCHAN_VSOCK_LOG", how == ASYNC ? "debug" : "none", 1);
	setenv("VCHAN_VSOCK_LINGER_MS", "5000", 1);
	setenv("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "1500", 1);
	setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "300", 1);
	setenv("VCHAN_VSOCK_BUFFER_SIZE", "65536", 1);
	snprintf(place, sizeof place, "lives-%d", getpid());
	setenv("FAKE_VSOCK", place, 1);
	signal(SIGALRM, say_what_hangs);
	fault_forbid_mremap(how == PLAIN_CLIENT);
	if (how == ASYNC) {
		assert_non_null(freopen("/dev/null", "w", stderr));
		close(STDIN_FILENO);
	}
}

static void choose_wire(enum how how, bool server)
{
	bool plain = how == PLAIN_ONLY || how == (server ? PLAIN_SERVER : PLAIN_CLIENT);

	setenv("VCHAN_VSOCK_WIRE", plain ? "plain" : "auto", 1);
}

struct holdings {
	int fds, threads, mappings;
};

static struct holdings holdings(void)
{
	return (struct holdings){ count_fds(), count_threads(), count_ring_mappings() };
}

/* A thread that was joined may take a moment until the kernel has forgotten it: then, and
 * when they were counted before. */
static void assert_nothing_left(const struct holdings *before)
{
	struct holdings now = holdings();

	for (int i = 0; i < 2000 && now.threads > before->threads; i++) {
		usleep(1000);
		now = holdings();
	}
	if (now.fds != before->fds || now.threads > before->threads ||
	    now.mappings != before->mappings)
		fail_msg("%s, call %d, errno %d: fds %d to %d, threads %d to %d, mappings %d to %d",
			 current.call, current.nth, current.err, before->fds, now.fds,
			 before->threads, now.threads, before->mappings, now.mappings);
}

static void start_end(struct end *e)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 1 << 20);
	assert_int_equal(real_pthread_create(&e->thread, &attr, be, e), 0);
	pthread_attr_destroy(&attr);
}

static bool is_whole(const struct end *from, const struct end *to)
{
	return from->sent == to->got && !from->broken && !to->broken && !to->never;
}

/* One life.  `strict`: nobody may notice. */
static void live_once(enum how how, bool strict)
{
	static int port, lives;
	pthread_barrier_t open;
	struct end server = { .server = true, .how = how }, client = { .how = how };
	struct holdings before = holdings();

	server.port = client.port = 1 + (getpid() * 31 + ++port) % 16000;
	server.injected = client.injected = current.err;
	pthread_barrier_init(&open, NULL, 2);
	server.open = client.open = &open;
	alarm(PATIENCE);
	choose_wire(how, true);
	start_end(&server);
	pthread_barrier_wait(&open);
	choose_wire(how, false);
	start_end(&client);
	pthread_join(client.thread, NULL);
	fault_disarm();
	if (client.broken || client.never)
		release(&server);
	pthread_join(server.thread, NULL);
	alarm(0);
	pthread_barrier_destroy(&open);
	if (*server.wrong || *client.wrong)
		fail_msg("%s, call %d%s, errno %d: %s; %s", current.call ? current.call : "-",
			 current.nth, current.on ? " and on" : "", current.err, server.wrong,
			 client.wrong);
	assert_true(client.got <= server.sent || server.broken);
	assert_true(server.got <= client.sent || client.broken);
	if (strict && (!is_whole(&server, &client) || !is_whole(&client, &server)))
		fail_msg("%s, call %d%s, errno %d: noticed: server sent %zu, client got %zu; "
			 "client sent %zu, server got %zu; broken %d %d", current.call ? current.call : "-", current.nth,
			 current.on ? " and on" : "", current.err, server.sent, client.got,
			 client.sent, server.got, server.broken, client.broken);
	/* A sanitizer keeps a thread of its own from the first life on. */
	if (lives++)
		assert_nothing_left(&before);
}

/* ---- which faults must not be noticed ---- */

struct tolerance {
	const char *call;
	int errors[9];
};

/* Once is no reason to fail for anybody who is connected or about to be. */
static const struct tolerance unnoticed[] = {
	{ "bind", { EADDRINUSE } },
	{ "accept4", { EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM } },
	{ "connect", { ECONNRESET, ETIMEDOUT, ENODEV, EINTR, ENOMEM, ENOBUFS, EHOSTUNREACH } },
	{ "getsockopt", { ENOPROTOOPT } },
	{ "setsockopt", { ENOPROTOOPT, ENOMEM, EPERM } },
	{ "shutdown", { ENOTCONN } },
	{ "epoll_wait", { EINTR } },
	{ "poll", { EINTR } },
	{ "ppoll", { EINTR, ENOMEM } },
	{ "nanosleep", { EINTR } },
	{ "write_stderr", { EPIPE, EAGAIN, ENOSPC, EIO } },
	{ "recv", { EINTR } },
	{ "sendto", { EAGAIN, EINTR, ENOMEM, ENOBUFS } },
	{ "sendmsg", { EAGAIN, EINTR, ENOMEM, ENOBUFS } },
	{ "recvfrom", { EAGAIN, EINTR, ENOMEM, ENOBUFS } },
	{ "recvmsg", { EAGAIN, EINTR, ENOMEM, ENOBUFS } },
	{ "futex", { EAGAIN, EINTR } },
	{ "madvise", { EINVAL, ENOMEM } },
};

static bool is_unnoticed(const struct fault *f)
{
	for (size_t i = 0; i < ARRAY_SIZE(unnoticed); i++)
		if (!strcmp(unnoticed[i].call, f->call))
			return !f->on && is_among(f->err, unnoticed[i].errors);
	return false;
}

/* ---- the tests ---- */

/* Calls that a clean life makes of it; in two threads it is never quite the same. */
static int calls_in_a_life(enum how how, const char *call)
{
	fault_count_anew();
	current = (struct fault){ NULL, 0, 0, false };
	live_once(how, true);
	return fault_calls_made(call);
}

static void fail_each(enum how how, const struct fault_call *c)
{
	const char *scale = getenv("VCHAN_TEST_SCALE");
	int calls = calls_in_a_life(how, c->name), lives = 0, struck = 0;
	int most = scale && atof(scale) < 1 ? NTH_FEW : NTH_MOST;

	if (most > calls)
		most = calls;
	for (const int *err = c->errors; *err; err++) {
		if (getenv("FAULT_ERRNO") && atoi(getenv("FAULT_ERRNO")) != *err)
			continue;
		for (int nth = 1; nth <= most; nth++) {
			current = (struct fault){ c->name, nth, *err, false };
			fault_arm(&current);
			live_once(how, is_unnoticed(&current));
			struck += fault_struck() > 0;
			lives++;
		}
		for (int nth = 1; nth <= 3 && nth <= most; nth++) {
			current = (struct fault){ c->name, nth, *err, true };
			if (*err == EINTR || *err == EAGAIN)
				continue; /* no kernel says so for ever */
			fault_arm(&current);
			live_once(how, false);
			lives++;
		}
	}
	print_message("%s: %d calls in a life, %d lives, %d struck\n", c->name, calls, lives,
		      struck);
}

static void each_call_fails(enum how how)
{
	const char *only = getenv("FAULT_CALL");

	prepare(how);
	for (size_t i = 0; i < fault_call_count; i++)
		if (!only || !strcmp(only, fault_calls[i].name))
			fail_each(how, &fault_calls[i]);
	fault_print_sites();
}

static void short_counts_go_unnoticed(enum how how)
{
	static const size_t most[] = { 3, 7, 9, 100, 4095 };

	prepare(how);
	current = (struct fault){ "short counts", 0, 0, false };
	for (size_t i = 0; i < ARRAY_SIZE(most); i++) {
		fault_cut_sends(most[i]);
		live_once(how, true);
	}
	fault_cut_sends(0);
}

static void interruptions_go_unnoticed(enum how how)
{
	prepare(how);
	current = (struct fault){ "EINTR", 0, EINTR, false };
	for (unsigned one_in = 2; one_in < 6; one_in++) {
		fault_interrupt(one_in);
		live_once(how, true);
	}
	fault_interrupt(0);
}

#define LIFE_TEST(name, how)                     \
	static void name##_##how(void **state)   \
	{                                        \
		(void)state;                     \
		name(how);                       \
	}
#define LIFE_TESTS(name)              \
	LIFE_TEST(name, FRAMED)       \
	LIFE_TEST(name, PLAIN_ONLY)   \
	LIFE_TEST(name, ASYNC)        \
	LIFE_TEST(name, PLAIN_CLIENT) \
	LIFE_TEST(name, PLAIN_SERVER)

LIFE_TESTS(each_call_fails)
LIFE_TESTS(short_counts_go_unnoticed)
LIFE_TESTS(interruptions_go_unnoticed)

#define LIFE(name)                                                               \
	cmocka_unit_test(name##_FRAMED), cmocka_unit_test(name##_PLAIN_ONLY),    \
		cmocka_unit_test(name##_ASYNC), cmocka_unit_test(name##_PLAIN_CLIENT),   \
		cmocka_unit_test(name##_PLAIN_SERVER)

static const struct CMUnitTest tests[] = {
	LIFE(each_call_fails),
	LIFE(short_counts_go_unnoticed),
	LIFE(interruptions_go_unnoticed),
};

UNIT_MAIN(tests)
