/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Set-up among strangers, natively: vsock's calls are replaced (the Makefile wraps
 * them), and Unix sockets are what they work on.
 *
 * A crowd here has no end: for each that is let in another one is in the queue
 * already, at once.  No real one is as fast.
 */
#include "unit.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "libvchan.h"
#include "vchan/driver.h"
#include "vchan/frame.h"
#include "vchan/handle.h"
#include "vchan/vsock.h"

#define RIGHT 9u      /* the client's CID */
#define OTHER 77u
#define PORT 512u
#define FRAMED_PORT 0x80000000u
#define OUR_PORT (FRAMED_PORT + 5)
#define PLACE (RIGHT * 65536 + PORT)
#define TOO_LONG 30   /* seconds: a call has not returned */

/* ---- vsock, as it is here ---- */

static struct {
	bool crowd[2];            /* at the plain port, at the framed one */
	uint32_t cid, port;       /* where it comes from */
	bool leaves;              /* at once */
	atomic_int came;
	int gone[64];             /* their ends, the last of them */
	int refusals;             /* so many framed attempts find no place */
	atomic_int attempts[2];
	int bind_error;
	atomic_uint bound[256];   /* ports, since the beginning */
	atomic_uint binds;
} world;

static socklen_t name(struct sockaddr_un *a, const char *what, uint32_t port)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	/* The first byte stays 0: no file. */
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			   (size_t)snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1,
					    "vchan-%s-%d-%u", what, getpid(), port));
}

static int unix_socket(int flags)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

/* Somebody comes to `port`; not by name, if he is of the crowd. */
static int come(uint32_t port, bool by_name, uint32_t from)
{
	struct sockaddr_un a;
	int fd = unix_socket(0);
	socklen_t len = name(&a, "from", from);

	if (by_name)
		assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	len = name(&a, "at", port);
	if (connect(fd, (struct sockaddr *)&a, len) == 0)
		return fd;
	close(fd);
	return -1;
}

static void next_of_the_crowd(uint32_t port)
{
	int *place = &world.gone[atomic_fetch_add(&world.came, 1) % (int)ARRAY_SIZE(world.gone)];

	if (*place >= 0)
		close(*place);
	*place = come(port, false, 0);
	if (world.leaves && *place >= 0) {
		close(*place);
		*place = -1;
	}
}

int __wrap_vsock_socket(uint32_t buffer);
int __wrap_vsock_socket(uint32_t buffer)
{
	(void)buffer;
	return unix_socket(SOCK_NONBLOCK);
}

int __wrap_vsock_listen(int fd, uint32_t cid, uint32_t port, int queue);
int __wrap_vsock_listen(int fd, uint32_t cid, uint32_t port, int queue)
{
	struct sockaddr_un a;
	socklen_t len = name(&a, "at", port);

	(void)cid;
	(void)queue;
	if (bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 16) < 0)
		return -1;
	if (world.crowd[port >= FRAMED_PORT])
		next_of_the_crowd(port);
	return 0;
}

static uint32_t port_in(const struct sockaddr_un *a)
{
	const char *last = strrchr(a->sun_path + 1, '-');

	return last ? (uint32_t)strtoul(last + 1, NULL, 10) : 0;
}

int __wrap_vsock_accept(int fd, uint32_t *peer_cid, uint32_t *peer_port);
int __wrap_vsock_accept(int fd, uint32_t *peer_cid, uint32_t *peer_port)
{
	struct sockaddr_un from, at;
	socklen_t from_len = sizeof(from), at_len = sizeof(at);
	int got;

	memset(&from, 0, sizeof(from));
	memset(&at, 0, sizeof(at));
	got = accept4(fd, (struct sockaddr *)&from, &from_len, SOCK_CLOEXEC);
	if (got < 0)
		return -1;
	if (from_len > sizeof(sa_family_t)) {
		*peer_cid = RIGHT;
		*peer_port = port_in(&from);
		return got;
	}
	*peer_cid = world.cid;
	*peer_port = world.port;
	getsockname(fd, (struct sockaddr *)&at, &at_len);
	next_of_the_crowd(port_in(&at));
	return got;
}

int __wrap_vsock_bind(int fd, uint32_t port);
int __wrap_vsock_bind(int fd, uint32_t port)
{
	(void)fd;
	world.bound[atomic_fetch_add(&world.binds, 1) % ARRAY_SIZE(world.bound)] = port;
	errno = world.bind_error;
	return world.bind_error && port < 1024 ? -1 : 0;
}

int __wrap_vsock_connect(int fd, uint32_t cid, uint32_t port);
int __wrap_vsock_connect(int fd, uint32_t cid, uint32_t port)
{
	struct sockaddr_un a;
	socklen_t len = name(&a, "at", port);
	int framed = port >= FRAMED_PORT;
	int number = atomic_fetch_add(&world.attempts[framed], 1);

	(void)cid;
	if ((framed && number < world.refusals) ||
	    connect(fd, (struct sockaddr *)&a, len) < 0) {
		errno = ECONNRESET;
		return -1;
	}
	return vsock_connected(fd);
}

uint32_t __wrap_vsock_buffer(int fd);
uint32_t __wrap_vsock_buffer(int fd)
{
	(void)fd;
	return 4 << 20;
}

/* ---- a test's beginning and end ---- */

static int begin(void **state)
{
	(void)state;
	memset(&world, 0, sizeof(world));
	memset(world.gone, 0xff, sizeof(world.gone));
	world.cid = OTHER;
	world.port = 5000;
	unsetenv("VCHAN_VSOCK_LOOPBACK"); /* real domains: CIDs tell who comes */
	setenv("VCHAN_DOMAIN", "0", 1); /* so that nobody asks /dev/vsock */
	unsetenv("VCHAN_VSOCK_WIRE");
	unsetenv("VCHAN_VSOCK_REQUIRE_PRIVILEGED");
	setenv("VCHAN_VSOCK_RELAY", "never", 1); /* nobody's guests */
	alarm(TOO_LONG);
	return 0;
}

static int end(void **state)
{
	(void)state;
	alarm(0);
	for (size_t i = 0; i < ARRAY_SIZE(world.gone); i++)
		if (world.gone[i] >= 0)
			close(world.gone[i]);
	return 0;
}

static void pause_shortly(void)
{
	const struct timespec pause = { 0, 1000000 };

	nanosleep(&pause, NULL);
}

static libvchan_t *serve(void)
{
	libvchan_t *server = libvchan_server_init(RIGHT, PORT, 4096, 4096);

	assert_non_null(server);
	return server;
}

/* Calls return, and tell of nobody, however many come meanwhile. */
static void assert_calls_return(libvchan_t *server, int crowd)
{
	int calls = 0;

	libvchan_set_blocking(server, false);
	while (calls++ < 100 || atomic_load(&world.came) < crowd) {
		char byte;

		assert_int_equal(libvchan_is_open(server), VCHAN_WAITING);
		assert_int_equal(libvchan_read(server, &byte, 1), 0);
		assert_int_equal(libvchan_data_ready(server), 0);
		pause_shortly();
	}
}

static void await_connection(libvchan_t *server)
{
	while (libvchan_is_open(server) == VCHAN_WAITING)
		pause_shortly();
	assert_int_equal(libvchan_is_open(server), VCHAN_CONNECTED);
}

/* ---- a server ---- */

static ssize_t send_hello(int fd, uint32_t ring)
{
	struct hello hello = { WIRE_VERSION, 0, ring, ring, 0, 4 << 20 };
	unsigned char bytes[HELLO_SIZE];

	hello_encode(&hello, bytes);
	return send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
}

static void say_hello(int fd, uint32_t ring)
{
	assert_int_equal(send_hello(fd, ring), HELLO_SIZE);
}

static void hear_hello(int fd)
{
	unsigned char bytes[HELLO_SIZE];
	struct hello hello;

	assert_int_equal(recv(fd, bytes, sizeof(bytes), MSG_WAITALL), sizeof(bytes));
	assert_null(hello_decode(bytes, &hello));
}

static void endless_crowd_keeps_no_call_and_no_close(void **state)
{
	int fds = count_fds();
	libvchan_t *server;

	(void)state;
	world.crowd[0] = world.crowd[1] = true;
	server = serve();
	assert_calls_return(server, 2000);
	if (driver_attends) {
		struct pollfd p = { libvchan_fd_for_select(server), POLLIN, 0 };

		assert_int_equal(poll(&p, 1, 20), 0);
	}
	libvchan_close(server);
	end(state);
	assert_int_equal(count_fds(), fds);
}

/* A part of the time only: there is a rest after each few of them. */
static void crowd_is_let_in_at_a_bounded_rate(void **state)
{
	struct timespec from, to;
	libvchan_t *server;
	double ms;

	(void)state;
	world.crowd[0] = world.crowd[1] = true;
	clock_gettime(CLOCK_MONOTONIC, &from);
	server = serve();
	assert_calls_return(server, 1000);
	clock_gettime(CLOCK_MONOTONIC, &to);
	ms = (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
	assert_true(atomic_load(&world.came) <= 2 * 16 * (ms + 2));
	libvchan_close(server);
}

static void framed_client_is_heard_in_a_crowd(void **state)
{
	libvchan_t *server;
	int client;

	(void)state;
	world.crowd[0] = world.crowd[1] = true;
	server = serve();
	assert_calls_return(server, 200);
	client = come(PLACE + FRAMED_PORT, true, 5000);
	say_hello(client, 0);
	await_connection(server);
	assert_true(server->framed);
	hear_hello(client);
	close(client);
	libvchan_close(server);
}

static void plain_client_is_let_in_in_a_crowd(void **state)
{
	libvchan_t *server;
	char byte = 0;
	int client;

	(void)state;
	world.crowd[0] = world.crowd[1] = true;
	server = serve();
	assert_calls_return(server, 200);
	client = come(PLACE, true, 5000);
	assert_int_equal(send(client, "x", 1, MSG_NOSIGNAL), 1);
	await_connection(server);
	assert_false(server->framed);
	libvchan_set_blocking(server, true);
	assert_int_equal(libvchan_read(server, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(client);
	libvchan_close(server);
}

/* Its client may find no place for its framed attempt: not 5 s, as without a crowd. */
static void client_of_ours_that_settles_for_plain_in_a_crowd_is_served_soon(void **state)
{
	struct timespec from, to;
	libvchan_t *server;
	int client;

	(void)state;
	world.crowd[1] = true;
	server = serve();
	client = come(PLACE, true, OUR_PORT);
	clock_gettime(CLOCK_MONOTONIC, &from);
	await_connection(server);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true(to.tv_sec - from.tv_sec < 4);
	close(client);
	libvchan_close(server);
}

/* From the right machine, which is all that is known of them. */
static void clients_that_leave_keep_no_call(libvchan_t *(*begin_to_serve)(void))
{
	libvchan_t *server;

	world.cid = RIGHT;
	world.leaves = true;
	server = begin_to_serve();
	assert_calls_return(server, 500);
	libvchan_close(server);
}

static libvchan_t *serve_framed(void)
{
	setenv("VCHAN_VSOCK_WIRE", "framed", 1);
	world.crowd[1] = true;
	return serve();
}

static libvchan_t *serve_our_clients(void)
{
	world.crowd[0] = true;
	world.port = OUR_PORT;
	return serve();
}

static void candidates_that_leave_keep_no_call(void **state)
{
	(void)state;
	clients_that_leave_keep_no_call(serve_framed);
}

static void our_clients_that_leave_keep_no_call(void **state)
{
	(void)state;
	clients_that_leave_keep_no_call(serve_our_clients);
}

static void only_privileged_peers_are_let_in(void **state)
{
	libvchan_t *server;
	int user, root;

	(void)state;
	setenv("VCHAN_VSOCK_REQUIRE_PRIVILEGED", "1", 1);
	server = serve();
	user = come(PLACE + FRAMED_PORT, true, 1024);
	send_hello(user, 0); /* unless it is refused already */
	assert_calls_return(server, 0);
	root = come(PLACE + FRAMED_PORT, true, 1023);
	say_hello(root, 0);
	await_connection(server);
	hear_hello(root);
	close(user);
	close(root);
	libvchan_close(server);
}

/* ---- a client ---- */

/* A socket that listens where the server would. */
static int listen_at(uint32_t port)
{
	struct sockaddr_un a;
	socklen_t len = name(&a, "at", port);
	int fd = unix_socket(0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static libvchan_t *connect_to(uint32_t server)
{
	int fd;
	libvchan_t *client;

	setenv("VCHAN_DOMAIN", "9", 1);
	client = libvchan_client_init_async((int)server, PORT, &fd);
	assert_non_null(client);
	return client;
}

static void finish(libvchan_t *client)
{
	int ret;

	while ((ret = libvchan_client_init_async_finish(client, true)) == 1)
		pause_shortly();
	assert_int_equal(ret, 0);
}

/* The plain port has let it in, and the framed one has no place for it at first. */
static void crowded_framed_port_is_tried_again(void **state)
{
	int plain = listen_at(PLACE), framed = listen_at(PLACE + FRAMED_PORT), peer;
	struct pollfd p = { framed, POLLIN, 0 };
	libvchan_t *client;

	(void)state;
	world.refusals = 2; /* it tries once more at least, however late it is */
	client = connect_to(5);
	while (poll(&p, 1, 1) == 0)
		libvchan_is_open(client);
	peer = accept(framed, NULL, NULL);
	say_hello(peer, 4096);
	finish(client);
	assert_true(client->framed);
	assert_int_equal(world.attempts[0], 1);
	libvchan_close(client);
	close(peer);
	close(framed);
	close(plain);
}

static void plain_server_is_taken_after_a_moment(void **state)
{
	int plain = listen_at(PLACE);
	libvchan_t *client;

	(void)state;
	client = connect_to(5);
	finish(client);
	assert_false(client->framed);
	assert_int_equal(world.attempts[0], 1);
	/* Before it, and once or more often behind it. */
	assert_in_range(world.attempts[1], 2, 10);
	libvchan_close(client);
	close(plain);
}

static bool is_ours(uint32_t port)
{
	return port >= 512 && port < 768;
}

static void require_privileged_ports(void)
{
	setenv("VCHAN_VSOCK_REQUIRE_PRIVILEGED", "1", 1);
}

static void connect_to_plain_and_close(void)
{
	int plain = listen_at(PLACE);
	libvchan_t *client = connect_to(5);

	finish(client);
	libvchan_close(client);
	close(plain);
}

static void client_comes_from_privileged_ports(void **state)
{
	(void)state;
	require_privileged_ports();
	connect_to_plain_and_close();
	assert_true(world.binds >= 3);
	for (unsigned i = 0; i < world.binds; i++) {
		assert_in_range(world.bound[i], 1, 1023);
		/* The second is the plain one's. */
		assert_true(is_ours(world.bound[i]) == (i == 1));
	}
}

static void client_that_may_not_asks_once(void **state)
{
	(void)state;
	require_privileged_ports();
	world.bind_error = EACCES;
	connect_to_plain_and_close();
	assert_in_range(world.bound[0], 1, 1023);
	for (unsigned i = 1; i < world.binds; i++)
		assert_true(world.bound[i] >= FRAMED_PORT);
}

static void client_goes_on_when_all_ports_are_taken(void **state)
{
	(void)state;
	require_privileged_ports();
	world.bind_error = EADDRINUSE;
	connect_to_plain_and_close();
	assert_true(world.binds > 3 * 64);
}

static void client_that_does_not_require_them_takes_none(void **state)
{
	(void)state;
	connect_to_plain_and_close();
	for (unsigned i = 0; i < world.binds; i++)
		assert_true(world.bound[i] >= FRAMED_PORT);
}

#define CROWD_TEST(test) cmocka_unit_test_setup_teardown(test, begin, end)

static const struct CMUnitTest tests[] = {
	CROWD_TEST(endless_crowd_keeps_no_call_and_no_close),
	CROWD_TEST(crowd_is_let_in_at_a_bounded_rate),
	CROWD_TEST(framed_client_is_heard_in_a_crowd),
	CROWD_TEST(plain_client_is_let_in_in_a_crowd),
	CROWD_TEST(client_of_ours_that_settles_for_plain_in_a_crowd_is_served_soon),
	CROWD_TEST(candidates_that_leave_keep_no_call),
	CROWD_TEST(our_clients_that_leave_keep_no_call),
	CROWD_TEST(only_privileged_peers_are_let_in),
	CROWD_TEST(crowded_framed_port_is_tried_again),
	CROWD_TEST(plain_server_is_taken_after_a_moment),
	CROWD_TEST(client_comes_from_privileged_ports),
	CROWD_TEST(client_that_may_not_asks_once),
	CROWD_TEST(client_goes_on_when_all_ports_are_taken),
	CROWD_TEST(client_that_does_not_require_them_takes_none),
};

UNIT_MAIN(tests)
