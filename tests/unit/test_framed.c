/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The framed wire, natively: its format, two ends of ours over a Unix socket
 * pair, and one end against bytes that a hand (or nobody) has chosen.
 */
#include "unit.h"
#include "attend.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "libvchan.h"
#include "vchan/driver.h"
#include "vchan/frame.h"
#include "vchan/handle.h"
#include "vchan/setup_parts.h"
#include "vchan/wire.h"

#define RING 4096
#define LARGE (128 << 10) /* its window is a MiB */
#define MIB (1 << 20)
#define SOON_MS 20000

struct ends {
	libvchan_t *a, *b; /* b: NULL when the peer is a socket of the test's */
	int sock;
};

static int prepare(void)
{
	setenv("VCHAN_DOMAIN", "7", 1); /* so that nobody asks /dev/vsock */
	setenv("VCHAN_VSOCK_LINGER_MS", "10000", 1);
	return 0;
}

static libvchan_t *adopt(int sock, size_t ring)
{
	libvchan_t *chan = handle_adopt(sock, ring, ring, true);

	assert_non_null(chan);
	return chan;
}

static int open_ends(void **state, size_t ring, bool ours)
{
	static struct ends e;
	int fds[2];

	prepare();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	e.a = adopt(fds[0], ring);
	e.b = ours ? adopt(fds[1], ring) : NULL;
	e.sock = ours ? -1 : fds[1];
	*state = &e;
	return 0;
}

static int setup_exact(void **state)
{
	return open_ends(state, RING, true);
}

static int setup_large(void **state)
{
	return open_ends(state, LARGE, true);
}

/* A kernel's buffer so small that a few packets are all that may be unread. */
static int setup_few(void **state)
{
	int ret;

	setenv("VCHAN_VSOCK_BUFFER_SIZE", "4608", 1);
	ret = open_ends(state, LARGE, true);
	unsetenv("VCHAN_VSOCK_BUFFER_SIZE");
	return ret;
}

static int setup_by_hand(void **state)
{
	return open_ends(state, RING, false);
}

static int setup_by_hand_large(void **state)
{
	return open_ends(state, LARGE, false);
}

static int teardown(void **state)
{
	struct ends *e = *state;

	if (e->sock >= 0)
		close(e->sock);
	libvchan_close(e->a);
	libvchan_close(e->b);
	return 0;
}

/* ---- what the tests do ---- */

static char some[2 * MIB]; /* to write */
static char into[2 * MIB]; /* to read */

/* As much as goes without blocking, while the peer takes in but does not read
 * (or this socket's buffer would be the bound); the bytes. */
static size_t fill_up(struct ends *e)
{
	size_t total = 0;

	libvchan_set_blocking(e->a, false);
	for (int zeros = 0; zeros < 50; zeros++) {
		int n = libvchan_write(e->a, some, sizeof(some));

		assert_true(n >= 0);
		total += (size_t)n;
		if (n > 0)
			zeros = 0;
		libvchan_data_ready(e->b);
		usleep(n > 0 ? 0 : 1000);
	}
	libvchan_set_blocking(e->a, true);
	return total;
}

static void read_all(libvchan_t *chan, size_t n)
{
	while (n > 0) {
		int got = libvchan_read(chan, into, n < sizeof(into) ? n : sizeof(into));

		assert_true(got > 0);
		n -= (size_t)got;
	}
}

/* Until buffer_space is this, or it is late. */
static void assert_space_becomes(libvchan_t *chan, int space)
{
	for (int i = 0; i < SOON_MS && libvchan_buffer_space(chan) != space; i++)
		usleep(1000);
	assert_int_equal(libvchan_buffer_space(chan), space);
}

static bool is_readable(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, ms) > 0;
}

static pthread_t start(void *(*function)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, function, arg), 0);
	return thread;
}

/* ---- by hand: frames ---- */

static void send_frame(int sock, uint32_t length, bool ask, bool end, uint32_t handed)
{
	struct frame f = { length, ask, end, false, handed };
	unsigned char head[FRAME_HEADER];

	frame_encode(&f, head);
	assert_int_equal(write(sock, head, sizeof(head)), sizeof(head));
	assert_true(length <= sizeof(some));
	if (length)
		assert_int_equal(write(sock, some, length), length);
}

static void send_count(int sock, bool ask, uint32_t taken)
{
	struct frame f = { 0, ask, false, true, taken };
	unsigned char head[FRAME_HEADER];

	frame_encode(&f, head);
	assert_int_equal(write(sock, head, sizeof(head)), sizeof(head));
}

static void receive_exactly(int sock, void *to, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t now = read(sock, (char *)to + got, n - got);

		assert_true(now > 0);
		got += (size_t)now;
	}
}

static struct frame receive_header(int sock)
{
	unsigned char head[FRAME_HEADER];
	struct frame f;

	receive_exactly(sock, head, sizeof(head));
	assert_true(frame_decode(head, &f));
	return f;
}

/* The payload that comes until there is silence. */
static size_t receive_payload(int sock, unsigned *frames)
{
	size_t total = 0;

	for (*frames = 0; is_readable(sock, 100); ++*frames) {
		struct frame f = receive_header(sock);

		receive_exactly(sock, into, f.length);
		total += f.length;
	}
	return total;
}

/* ---- the format ---- */

static void hello_survives_the_way_there(void **state)
{
	struct random r = random_start();
	unsigned char bytes[HELLO_SIZE];
	struct hello in, out;

	(void)state;
	for (int i = 0; i < 10000; i++) {
		memset(&in, 0, sizeof(in));
		in.version = (uint16_t)(1 + random_below(&r, 65535));
		in.features = (uint32_t)random_next(&r);
		in.read_ring = (uint32_t)random_next(&r);
		in.write_ring = (uint32_t)random_next(&r);
		in.window = (uint32_t)random_next(&r);
		in.buffer = (uint32_t)random_next(&r);
		hello_encode(&in, bytes);
		assert_null(hello_decode(bytes, &out));
		assert_int_equal(in.version, out.version);
		assert_int_equal(in.features, out.features);
		assert_int_equal(in.read_ring, out.read_ring);
		assert_int_equal(in.write_ring, out.write_ring);
		assert_int_equal(in.window, out.window);
		assert_int_equal(in.buffer, out.buffer);
	}
}

static void random_hellos_are_refused(void **state)
{
	struct random r = random_start();
	unsigned char bytes[HELLO_SIZE];
	struct hello h = { 1, 0, 4096, 4096, 4096, 0 };

	(void)state;
	for (int i = 0; i < 1000000; i++) {
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (unsigned char)random_next(&r);
		assert_non_null(hello_decode(bytes, &h));
	}
	/* One wrong bit in the magic is enough. */
	for (int bit = 0; bit < 64; bit++) {
		hello_encode(&h, bytes);
		bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
		assert_non_null(hello_decode(bytes, &h));
	}
}

static void random_rings_are_refused_but_powers_of_two(void **state)
{
	struct random r = random_start();

	(void)state;
	for (int i = 0; i < 1000000; i++) {
		struct hello h = { .read_ring = (uint32_t)random_next(&r), .write_ring = 4096 };
		bool power = h.read_ring && !(h.read_ring & (h.read_ring - 1));
		bool good = power && h.read_ring >= 4096 && h.read_ring <= 1u << 30;

		assert_int_equal(hello_check_rings(&h) == NULL, good);
	}
}

static void random_headers_are_frames_or_refused(void **state)
{
	struct random r = random_start();
	unsigned char bytes[FRAME_HEADER], again[FRAME_HEADER];
	struct frame f;

	(void)state;
	for (int i = 0; i < 1000000; i++) {
		uint64_t word = random_next(&r);

		memcpy(bytes, &word, sizeof(bytes));
		if (random_next(&r) & 1)
			memset(bytes, 0, 3), bytes[3] &= 0xf0;
		if (frame_decode(bytes, &f)) {
			frame_encode(&f, again);
			assert_memory_equal(bytes, again, sizeof(bytes));
			assert_false(f.length && (f.end || f.count));
		} else {
			assert_int_not_equal(bytes[3] & 0xb0, 0);
		}
	}
}

static void hello_is_no_frame(void **state)
{
	struct hello h = { 1, 0, 4096, 4096, 4096, 0 };
	unsigned char bytes[HELLO_SIZE];
	struct frame f;

	(void)state;
	hello_encode(&h, bytes);
	assert_false(frame_decode(bytes, &f));
}

static void window_is_the_ring_or_a_mib(void **state)
{
	(void)state;
	assert_int_equal(frame_window(4096), 4096);
	assert_int_equal(frame_window(32768), 32768);
	assert_int_equal(frame_window(65536), MIB);
	assert_int_equal(frame_window(MIB), MIB);
	assert_int_equal(frame_window(2 * MIB), 2 * MIB);
	assert_int_equal(frame_window(1u << 30), 1u << 30);
}

/* ---- the window ---- */

/* A page may be larger than the ring that its server has asked for. */
static void clients_window_follows_from_the_ring_that_was_said(void **state)
{
	static libvchan_t client; /* that nobody drives */
	struct ends *e = *state;
	struct hello hello = { WIRE_VERSION, 0, RING, RING, 0, MIB };

	client.in_size = client.out_size = LARGE;
	setup_be_framed(&client, e->sock, &hello);
	assert_int_equal(client.flow.tx_window, RING);
}

static void unread_is_never_more_than_the_ring(void **state)
{
	struct ends *e = *state;

	assert_int_equal(fill_up(e), RING);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	/* Received is not read. */
	assert_int_equal(libvchan_data_ready(e->b), RING);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
}

static void room_is_what_was_read_to_the_byte(void **state)
{
	struct ends *e = *state;
	int read = 0;

	assert_int_equal(fill_up(e), RING);
	for (int n = 1; read + n <= RING; n = n * 2 + 1) {
		assert_int_equal(libvchan_recv(e->b, into, (size_t)n), n);
		read += n;
		assert_space_becomes(e->a, read);
	}
}

static void large_window_is_a_mib(void **state)
{
	struct ends *e = *state;

	assert_int_equal(fill_up(e), MIB);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_int_equal(libvchan_data_ready(e->b), LARGE);
	assert_int_equal(libvchan_recv(e->b, into, 1), 1);
	assert_space_becomes(e->a, 1);
	read_all(e->b, MIB - 1);
	assert_space_becomes(e->a, LARGE);
}

static void one_byte_of_room_is_an_event(void **state)
{
	struct ends *e = *state;

	fill_up(e);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	while (is_readable(libvchan_fd_for_select(e->a), 50))
		libvchan_wait(e->a);
	assert_int_equal(libvchan_recv(e->b, into, 1), 1);
	assert_true(is_readable(libvchan_fd_for_select(e->a), SOON_MS));
}

static void *write_much(void *chan)
{
	bool all = libvchan_write(chan, some, sizeof(some)) == sizeof(some);

	hand_over(chan);
	return all ? chan : NULL;
}

static void room_wakes_a_blocked_writer(void **state)
{
	struct ends *e = *state;
	pthread_t writer = start(write_much, e->a);
	void *done;

	read_all(e->b, sizeof(some));
	pthread_join(writer, &done);
	assert_non_null(done);
}

static void both_write_before_either_reads(void **state)
{
	struct ends *e = *state;
	pthread_t writers[2] = { start(write_much, e->a), start(write_much, e->b) };
	void *done;

	/* Both rings are full of what nobody reads; then one direction moves. */
	read_all(e->b, sizeof(some));
	pthread_join(writers[0], &done);
	assert_non_null(done);
	read_all(e->a, sizeof(some));
	pthread_join(writers[1], &done);
	assert_non_null(done);
}

static void send_of_more_than_the_ring_goes_through(void **state)
{
	struct ends *e = *state;
	struct attendant attendant;
	pthread_t writer;
	void *done;

	libvchan_set_blocking(e->a, false);
	assert_int_equal(libvchan_send(e->a, some, 65543), 65543);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_int_equal(libvchan_send(e->a, some, 65543), 0);
	attend(&attendant, e->a);
	read_all(e->b, 65543);
	dismiss(&attendant);
	assert_space_becomes(e->a, RING);
	libvchan_set_blocking(e->a, true);
	assert_errno(libvchan_send(e->a, some, (128 << 10) + 1), -1, EMSGSIZE);
	writer = start(write_much, e->b);
	assert_int_equal(libvchan_recv(e->a, into, RING), RING);
	read_all(e->a, sizeof(some) - RING);
	pthread_join(writer, &done);
	assert_non_null(done);
}

#define ONE_BYTE_WRITES 100000

/* Or the next small messages would be thought to wait for an acknowledgement, too. */
static void writes_beyond_the_window_leave_nobody_waiting(void **state)
{
	struct ends *e = *state;

	for (int i = 0; i < 20; i++) {
		room_wakes_a_blocked_writer(state);
		assert_int_equal(ring_fill(&e->a->out), 0);
		assert_false(atomic_load(&e->a->blocked));
	}
}

/* It is not the window that holds the writer up then. */
static void large_writes_stay_within_the_packets(void **state)
{
	room_wakes_a_blocked_writer(state);
}

static void *write_one_by_one(void *chan)
{
	for (int i = 0; i < ONE_BYTE_WRITES; i++)
		if (libvchan_write(chan, some, 1) != 1)
			return NULL;
	return chan;
}

static void one_byte_writes_with_nobody_reading_do_not_block(void **state)
{
	struct ends *e = *state;
	pthread_t writers[2] = { start(write_one_by_one, e->a), start(write_one_by_one, e->b) };
	struct attendant attendants[2];

	for (int i = 0; i < 2; i++) {
		void *done;

		pthread_join(writers[i], &done);
		assert_non_null(done);
	}
	attend(&attendants[0], e->a);
	attend(&attendants[1], e->b);
	read_all(e->a, ONE_BYTE_WRITES);
	read_all(e->b, ONE_BYTE_WRITES);
	dismiss(&attendants[0]);
	dismiss(&attendants[1]);
	assert_space_becomes(e->a, LARGE);
	assert_space_becomes(e->b, LARGE);
}

/* ---- acknowledgements ---- */

static void *answer_each(void *chan)
{
	char message[64];

	while (libvchan_recv(chan, message, sizeof(message)) > 0)
		if (libvchan_send(chan, message, sizeof(message)) < 0)
			break;
	return NULL;
}

static void conversation_has_no_acknowledgement_alone(void **state)
{
	struct ends *e = *state;
	pthread_t peer = start(answer_each, e->a);
	uint32_t had = 0;

	for (int i = 0; i < 1000; i++) {
		struct frame f;

		send_frame(e->sock, 64, false, false, had);
		f = receive_header(e->sock);
		assert_int_equal(f.length, 64);
		assert_int_equal(f.handed, 64 * (i + 1));
		receive_exactly(e->sock, into, 64);
		had += 64;
	}
	send_frame(e->sock, 0, false, true, had);
	pthread_join(peer, NULL);
}

static void *read_for_ever(void *chan)
{
	static char to[65536];

	while (libvchan_read(chan, to, sizeof(to)) > 0)
		;
	return NULL;
}

static void bulk_has_few_acknowledgements(void **state)
{
	struct ends *e = *state;
	pthread_t peer = start(read_for_ever, e->a);
	uint32_t handed = 0;
	unsigned count = 0;

	for (uint32_t sent = 0; sent < 64 * MIB; sent += 65536) {
		while (sent + 65536 - handed > MIB) {
			struct frame f = receive_header(e->sock);

			assert_int_equal(f.length, 0);
			handed = f.handed;
			count++;
		}
		send_frame(e->sock, 65536, false, false, 0);
	}
	assert_in_range(count, 1, 64 * 4);
	send_frame(e->sock, 0, false, true, 0);
	pthread_join(peer, NULL);
}

static void who_asks_is_told(void **state)
{
	struct ends *e = *state;
	struct frame f;

	send_frame(e->sock, 100, false, false, 0);
	assert_int_equal(libvchan_recv(e->a, into, 10), 10);
	send_frame(e->sock, 0, true, false, 0);
	assert_int_equal(libvchan_data_ready(e->a), 90);
	f = receive_header(e->sock);
	assert_int_equal(f.length, 0);
	assert_int_equal(f.handed, 10);
	/* Asked when there is nothing new: told at the next read. */
	send_frame(e->sock, 0, true, false, 0);
	assert_int_equal(libvchan_data_ready(e->a), 90);
	assert_false(is_readable(e->sock, 50));
	assert_int_equal(libvchan_recv(e->a, into, 1), 1);
	f = receive_header(e->sock);
	assert_int_equal(f.handed, 11);
}

static void who_is_short_of_room_asks(void **state)
{
	struct ends *e = *state;
	struct frame f;

	assert_int_equal(libvchan_write(e->a, some, 100), 100);
	f = receive_header(e->sock);
	assert_int_equal(f.length, 100);
	assert_false(f.ask);
	receive_exactly(e->sock, into, 100);
	assert_int_equal(libvchan_buffer_space(e->a), RING - 100);
	f = receive_header(e->sock);
	assert_int_equal(f.length, 0);
	assert_true(f.ask);
	send_frame(e->sock, 0, false, false, 30);
	assert_space_becomes(e->a, RING - 70);
}

/* The wait itself finds the room, and what waited for it goes. */
static void room_that_a_wait_has_found_is_no_event_after_it(void **state)
{
	struct ends *e = *state;

	if (driver_attends)
		return; /* it may find it just then */
	libvchan_set_blocking(e->a, false);
	assert_int_equal(libvchan_send(e->a, some, RING + 904), RING + 904);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	while (is_readable(libvchan_fd_for_select(e->a), 0))
		libvchan_wait(e->a);
	send_frame(e->sock, 0, true, false, RING);
	assert_int_equal(libvchan_wait(e->a), 0);
	assert_false(is_readable(libvchan_fd_for_select(e->a), 0));
	assert_int_equal(libvchan_buffer_space(e->a), RING - 904);
}

/* As when the kernel took none of a header: the read, which finds all it wants in the
 * ring, sends it, and the fd is as quiet as if it had told of nothing. */
static void wait_after_a_ready_fd_returns_although_a_read_did_its_work(void **state)
{
	struct ends *e = *state;
	int fd = libvchan_fd_for_select(e->a), size = 1, sent = 0;

	setsockopt(e->a->sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	send_frame(e->sock, RING, false, false, 0);
	while (libvchan_data_ready(e->a) < RING)
		;
	while (!atomic_load(&e->a->flow.head_left)) {
		send_count(e->sock, true, 0);
		libvchan_data_ready(e->a);
		assert_true(++sent < 1000);
	}
	while (is_readable(fd, 0))
		libvchan_wait(e->a);
	while (is_readable(e->sock, 0))
		receive_header(e->sock);
	if (driver_attends)
		return; /* it sends it by itself */
	assert_true(is_readable(fd, SOON_MS));
	assert_int_equal(libvchan_read(e->a, into, 10), 10);
	assert_int_equal(libvchan_read(e->a, into, 10), 10);
	assert_int_equal(libvchan_wait(e->a), 0);
}

/* ---- packets ---- */

static void unread_packets_are_bounded(void **state)
{
	struct ends *e = *state;
	unsigned most = 100, frames;
	size_t bytes = 0;

	e->a->flow.packets_max = most;
	for (unsigned i = 0; i < most + 500; i++) {
		/* A read between two writes: no stream, so a packet each. */
		assert_int_equal(libvchan_write(e->a, some, 100), 100);
		libvchan_data_ready(e->a);
		bytes += 100;
	}
	/* A packet was the question how many are taken in; nobody answers. */
	assert_in_range(receive_payload(e->sock, &frames), (most - 1) * 100, most * 100);
	assert_in_range(frames, most, most + 1);
	send_count(e->sock, false, (most - 1) * 100);
	libvchan_data_ready(e->a);
	assert_true(is_readable(e->sock, SOON_MS)); /* the thread may be at it, and late */
	assert_in_range(receive_payload(e->sock, &frames), bytes - most * 100,
			bytes - (most - 1) * 100);
	assert_in_range(frames, 1, 4);
}

static void who_asks_for_the_count_is_told_at_once(void **state)
{
	struct ends *e = *state;
	struct frame f;

	send_frame(e->sock, 100, false, false, 0);
	send_count(e->sock, true, 0);
	assert_int_equal(libvchan_data_ready(e->a), 100);
	f = receive_header(e->sock);
	assert_true(f.count && !f.ask && f.length == 0);
	assert_int_equal(f.handed, 100);
}

/* The reader waits for all of it, in more packets than may be unread. */
static void reader_may_wait_for_more_than_the_packets(void **state)
{
	struct ends *e = *state;
	struct attendant attendant;

	e->a->flow.packets_max = e->b->flow.packets_max = 32;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(libvchan_write(e->a, some, 1), 1);
		libvchan_data_ready(e->a);
	}
	attend(&attendant, e->a);
	assert_int_equal(libvchan_recv(e->b, into, 1000), 1000);
	dismiss(&attendant);
}

/* The thread may look at the very moment when the writer finds out that it must
 * wait: then nobody was waiting. */
static void what_gathers_goes_at_every_acknowledgement(void **state)
{
	struct ends *e = *state;
	struct attendant attendant;
	size_t arrived = 0, written = 0;
	struct frame f;

	e->a->flow.packets_max = 8;
	attend(&attendant, e->a);
	for (int round = 0; round < 5000; round++) {
		for (int i = 0; i < 8 + round % 16; i++) {
			assert_int_equal(libvchan_write(e->a, some, 1), 1);
			if (round % 2)
				libvchan_data_ready(e->a); /* ends the stream */
		}
		written += 8 + (size_t)round % 16;
		while (arrived < written) {
			assert_true(is_readable(e->sock, SOON_MS));
			f = receive_header(e->sock);
			receive_exactly(e->sock, into, f.length);
			arrived += f.length;
			if (f.length)
				send_frame(e->sock, 0, false, false, (uint32_t)arrived);
		}
	}
	dismiss(&attendant);
}

/* ---- the end ---- */

/* As if so much had gone through before. */
static void pretend(libvchan_t *chan, uint64_t bytes)
{
	struct flow *f = &chan->flow;
	_Atomic uint64_t *counters[] = { &f->announced, &f->received, &f->accepted, &f->acked,
					 &f->handed, &f->told, &f->taken };

	for (size_t i = 0; i < sizeof(counters) / sizeof(*counters); i++)
		atomic_store(counters[i], bytes);
}

/* The numbers on the wire begin again after 4 GiB. */
static void counters_wrap(void **state)
{
	struct ends *e = *state;
	const uint64_t start = ((uint64_t)1 << 32) - RING - 100;

	pretend(e->a, start);
	pretend(e->b, start);
	for (uint64_t done = 0; done < 4 * RING; done += RING) {
		assert_int_equal(fill_up(e), RING);
		assert_int_equal(libvchan_write(e->b, some, RING), RING);
		assert_int_equal(libvchan_recv(e->b, into, RING), RING);
		assert_int_equal(libvchan_recv(e->a, into, RING), RING);
		assert_space_becomes(e->a, RING);
	}
	assert_true(e->a->flow.handed > UINT32_MAX && e->a->flow.acked > UINT32_MAX);
}

static void close_says_so(void **state)
{
	struct ends *e = *state;
	struct frame f;

	assert_int_equal(libvchan_write(e->a, "bye", 3), 3);
	libvchan_close(e->a);
	e->a = NULL;
	f = receive_header(e->sock);
	assert_int_equal(f.length, 3);
	receive_exactly(e->sock, into, 3);
	f = receive_header(e->sock);
	assert_true(f.end);
	assert_int_equal(read(e->sock, into, 1), 0);
}

/* A program that writes and exits: was there an END behind so much? */
static bool ends_after(size_t written, size_t arrives)
{
	size_t got = 0;
	struct frame f = { 0 };
	pid_t child;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		libvchan_t *chan = handle_adopt(fds[0], RING, RING, true);

		libvchan_set_blocking(chan, false);
		if (libvchan_send(chan, some, written) != (int)written)
			_exit(1);
		exit(0);
	}
	close(fds[0]);
	while (!f.end && is_readable(fds[1], SOON_MS) && recv(fds[1], into, 1, MSG_PEEK) > 0) {
		f = receive_header(fds[1]);
		receive_exactly(fds[1], into, f.length);
		got += f.length;
	}
	close(fds[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(got, arrives);
	return f.end;
}

static void exit_says_so_unless_it_has_dropped_something(void **state)
{
	(void)state;
	prepare();
	assert_true(ends_after(RING, RING));
	setenv("VCHAN_VSOCK_LINGER_MS", "100", 1);
	assert_false(ends_after(2 * RING, RING));
}

/* In one piece: the first asks for the count. */
static void send_headers(int sock, size_t count)
{
	struct frame f = { 0, true, false, true, 0 };
	unsigned char *all = calloc(count, FRAME_HEADER);

	assert_non_null(all);
	frame_encode(&f, all);
	f.ask = f.count = false;
	for (size_t i = 1; i < count; i++)
		frame_encode(&f, all + i * FRAME_HEADER);
	assert_int_equal(write(sock, all, count * FRAME_HEADER), count * FRAME_HEADER);
	free(all);
}

/* A peer may send headers alone without end. */
static void one_call_takes_so_many_headers_and_no_more(void **state)
{
	struct ends *e = *state;
	int left = 0;

	send_headers(e->sock, 8000);
	assert_int_equal(libvchan_data_ready(e->a), 0);
	assert_int_equal(ioctl(e->a->sock, FIONREAD, &left), 0);
	assert_in_range(left, 1, 8000 * FRAME_HEADER);
	while (left > 0) {
		assert_int_equal(libvchan_data_ready(e->a), 0);
		assert_int_equal(ioctl(e->a->sock, FIONREAD, &left), 0);
	}
}

static atomic_bool holds;

/* As the driver, which is in no hurry between taking the lock and the bytes. */
static void *receive_slowly(void *handle)
{
	libvchan_t *h = handle;

	pthread_mutex_lock(&h->reading);
	atomic_store(&holds, true);
	while (libvchan_is_open(h) == VCHAN_CONNECTED)
		sched_yield();
	poll(NULL, 0, 50);
	wire_pull(h, SIZE_MAX, false);
	pthread_mutex_unlock(&h->reading);
	return NULL;
}

static void assert_last_bytes_are_ready(struct ends *e)
{
	send_frame(e->sock, 3, false, false, 0);
	assert_int_equal(write(e->sock, "abc", 3), 3);
	shutdown(e->sock, SHUT_RDWR);
	while (libvchan_is_open(e->a) != VCHAN_DISCONNECTED)
		sched_yield();
	assert_int_equal(libvchan_data_ready(e->a), 3);
}

static void ready_waits_for_who_takes_in_the_last_bytes(void **state)
{
	struct ends *e = *state;
	pthread_t receiver = start(receive_slowly, e->a);

	while (!atomic_load(&holds))
		sched_yield();
	assert_last_bytes_are_ready(e);
	pthread_join(receiver, NULL);
	assert_int_equal(libvchan_read(e->a, into, 3), 3);
	assert_int_equal(libvchan_data_ready(e->a), 0);
	assert_errno(libvchan_read(e->a, into, 3), -1, ECONNRESET);
}

static void ready_sees_the_last_bytes_behind_many_headers(void **state)
{
	struct ends *e = *state;

	send_headers(e->sock, 8000);
	assert_last_bytes_are_ready(e);
}

static void *read_two_pages(void *chan)
{
	return (void *)(intptr_t)libvchan_read(chan, into, 2 * RING);
}

/* A reader that sleeps has passed on what it heard before. */
static void who_asks_before_many_headers_is_told(void **state)
{
	struct ends *e = *state;
	struct frame f;
	pthread_t reader;

	send_headers(e->sock, 2049); /* one receive, which they fill */
	reader = start(read_two_pages, e->a);
	assert_true(is_readable(e->sock, SOON_MS));
	f = receive_header(e->sock);
	assert_true(f.count && !f.ask);
	send_frame(e->sock, 1, false, false, 0);
	pthread_join(reader, NULL);
}

/* A wait after a poll that said readable returns, although another thread has taken in
 * what the poll saw just before the wait would sleep for it. */
static void headers_that_another_thread_takes_in_end_a_wait(void **state)
{
	struct ends *e = *state;
	int fd = libvchan_fd_for_select(e->a);

	assert_int_equal(libvchan_wait(e->a), 0); /* connected */
	assert_false(is_readable(fd, 0));
	send_frame(e->sock, 0, false, false, 0);
	assert_true(is_readable(fd, SOON_MS));
	atomic_store(&e->a->waiting, true); /* as that wait's thread does */
	assert_true(conn_take_in(e->a));
	assert_true(is_readable(fd, 0));
	atomic_store(&e->a->waiting, false);
	assert_int_equal(libvchan_wait(e->a), 0);
	assert_false(is_readable(fd, 0));
}

/* As when a handler's exit() has stopped the frame that holds it: the one that tells
 * of events. */
static void close_waits_for_no_events_that_are_locked_for_good(void **state)
{
	struct ends *e = *state;

	libvchan_set_blocking(e->a, false);
	while (libvchan_write(e->a, some, RING / 4) > 0)
		;
	ring_put(&e->a->out, some, 10); /* and it waits for room */
	pthread_mutex_lock(&e->a->events.lock);
	driver_kick(e->a);
	close(e->sock);
	e->sock = -1;
	libvchan_close(e->a);
	e->a = NULL;
}

/* As when a handler's exit() has stopped the frame that holds it. */
static void close_waits_for_no_lock_that_is_held_for_good(void **state)
{
	struct ends *e = *state;

	pthread_mutex_lock(&e->a->draining);
	ring_put(&e->a->out, some, 10);
	driver_kick(e->a);
	/* 2, with the GNU libc: somebody sleeps there, here the driver if it is a thread. */
	for (int i = 0; i < SOON_MS && driver_attends; i++) {
		if (__atomic_load_n(&e->a->draining.__data.__lock, __ATOMIC_RELAXED) == 2)
			break;
		usleep(1000);
	}
	if (driver_attends)
		assert_int_equal(e->a->draining.__data.__lock, 2);
	libvchan_close(e->a);
	e->a = NULL;
}

static void what_came_before_the_end_can_be_read(void **state)
{
	struct ends *e = *state;
	char byte;

	send_frame(e->sock, 1000, false, false, 0);
	send_frame(e->sock, 0, false, true, 0);
	assert_int_equal(libvchan_recv(e->a, into, 999), 999);
	assert_int_equal(libvchan_recv(e->a, into, 1), 1);
	assert_errno(libvchan_read(e->a, &byte, 1), -1, ECONNRESET);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
	assert_errno(libvchan_write(e->a, &byte, 1), -1, EPIPE);
}

/* With nobody to look, the kernel tells a writer; here it is not asked. */
static void assert_write_fails(struct ends *e, int (*write)(libvchan_t *, const void *, size_t))
{
	int n;

	libvchan_set_blocking(e->a, false);
	close(e->sock);
	e->sock = -1;
	while ((n = write(e->a, some, 1)) >= 0)
		assert_true(driver_attends);
	assert_int_equal(errno, EPIPE);
}

static void writes_without_room_show_the_end(void **state)
{
	struct ends *e = *state;

	assert_int_equal(libvchan_write(e->a, some, RING), RING);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_write_fails(e, libvchan_write);
}

static void sends_without_room_show_the_end(void **state)
{
	struct ends *e = *state;

	assert_int_equal(libvchan_write(e->a, some, RING), RING);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_write_fails(e, libvchan_send);
}

static void writes_beyond_the_packets_show_the_end(void **state)
{
	struct ends *e = *state;

	e->a->flow.packets_max = 4;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(libvchan_write(e->a, some, 1), 1);
		libvchan_data_ready(e->a);
	}
	assert_int_equal(ring_fill(&e->a->out), 0);
	assert_write_fails(e, libvchan_write);
}

static void death_amid_a_frame_delivers_what_came(void **state)
{
	struct ends *e = *state;
	struct frame f = { 1000, false, false, false, 0 };
	unsigned char head[FRAME_HEADER];
	char byte;

	frame_encode(&f, head);
	assert_int_equal(write(e->sock, head, sizeof(head)), sizeof(head));
	assert_int_equal(write(e->sock, some, 10), 10);
	close(e->sock);
	e->sock = -1;
	assert_int_equal(libvchan_recv(e->a, into, 10), 10);
	assert_errno(libvchan_read(e->a, &byte, 1), -1, ECONNRESET);
}

/* ---- a peer that breaks the rules ---- */

static void silence_stderr(void)
{
	setenv("VCHAN_VSOCK_LOG", "none", 1);
}

static int setup_hostile(void **state)
{
	silence_stderr();
	return setup_by_hand(state);
}

/* It is cut off: what came before can be read, then EPROTO, for good. */
static void assert_cut_off(struct ends *e, int good)
{
	char byte;

	if (good)
		assert_int_equal(libvchan_recv(e->a, into, (size_t)good), good);
	assert_errno(libvchan_read(e->a, &byte, 1), -1, EPROTO);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
	assert_errno(libvchan_write(e->a, &byte, 1), -1, EPROTO);
	assert_int_equal(read(e->sock, &byte, 1), 0);
}

static void acknowledging_what_was_not_sent_is_eproto(void **state)
{
	struct ends *e = *state;

	send_frame(e->sock, 10, false, false, 0);
	send_frame(e->sock, 0, false, false, 1);
	assert_cut_off(e, 10);
}

static void more_than_the_window_is_eproto(void **state)
{
	struct ends *e = *state;

	send_frame(e->sock, RING, false, false, 0);
	send_frame(e->sock, 1, false, false, 0);
	assert_cut_off(e, RING);
}

static void absurd_length_is_eproto(void **state)
{
	struct ends *e = *state;
	const unsigned char head[FRAME_HEADER] = { 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0 };

	assert_int_equal(write(e->sock, head, sizeof(head)), sizeof(head));
	assert_cut_off(e, 0);
}

static void second_hello_is_eproto(void **state)
{
	struct ends *e = *state;
	struct hello h = { 1, 0, 4096, 4096, 4096, 0 };
	unsigned char bytes[HELLO_SIZE];

	send_frame(e->sock, 5, false, false, 0);
	hello_encode(&h, bytes);
	assert_int_equal(write(e->sock, bytes, sizeof(bytes)), sizeof(bytes));
	assert_cut_off(e, 5);
}

/* A frame whose payload counts on from *next; all its bytes. */
static size_t append_frame(unsigned char *to, uint32_t length, unsigned char *next)
{
	struct frame f = { length, false, false, false, 0 };

	frame_encode(&f, to);
	for (uint32_t i = 0; i < length; i++)
		to[FRAME_HEADER + i] = (*next)++;
	return FRAME_HEADER + length;
}

/* Reads that ask nothing before: straight from the socket, however many frames lie
 * there, with what is too much for them, and on from the ring. */
static void small_reads_keep_the_order(void **state)
{
	struct ends *e = *state;
	struct random r = random_start();
	unsigned char stream[8192];
	unsigned char next = 0, expected = 0;

	for (int round = 0; round < 1000; round++) {
		size_t size = 0, payload = 0, most = 1 + random_size(&r, 300);

		while (size < 4000 && payload + most <= RING / 2) {
			uint32_t length = (uint32_t)random_below(&r, most);

			size += append_frame(stream + size, length, &next);
			payload += length;
		}
		assert_int_equal(write(e->sock, stream, size), size);
		while (payload > 0) {
			size_t n = 1 + random_below(&r, payload < 700 ? payload : 700);
			int got = random_next(&r) & 1 ? libvchan_recv(e->a, into, n) :
							libvchan_read(e->a, into, n);

			assert_in_range(got, 1, n);
			for (int i = 0; i < got; i++)
				assert_int_equal((unsigned char)into[i], expected++);
			payload -= (size_t)got;
		}
		while (is_readable(e->sock, 0)) /* what it acknowledges */
			receive_header(e->sock);
	}
}

/* A peer may acknowledge each message with a header alone. */
static void bytes_behind_many_headers_are_read_before_the_end(void **state)
{
	struct ends *e = *state;

	for (int i = 0; i < 200; i++)
		send_frame(e->sock, 0, false, false, 0);
	send_frame(e->sock, 6, false, false, 0);
	send_frame(e->sock, 0, false, true, 0);
	assert_int_equal(libvchan_read(e->a, into, 64), 6);
	assert_int_equal(libvchan_read(e->a, into, 64), -1);
	assert_int_equal(errno, ECONNRESET);
}

/* Frames that a hand has chosen, cut at any byte: all arrives, in order. */
static void frames_may_come_in_any_pieces(void **state)
{
	struct ends *e = *state;
	struct random r = random_start();
	unsigned char stream[8192];
	unsigned char next = 0, expected = 0;

	for (int round = 0; round < 300; round++) {
		size_t size = 0, payload = 0;

		while (size < 4000 && payload < RING / 2) {
			uint32_t length = (uint32_t)random_size(&r, 300);

			size += append_frame(stream + size, length, &next);
			payload += length;
		}
		for (size_t at = 0; at < size;) {
			size_t n = 1 + random_size(&r, 600);

			if (n > size - at)
				n = size - at;
			assert_int_equal(write(e->sock, stream + at, n), n);
			at += n;
			if (random_next(&r) & 1) {
				int got = libvchan_data_ready(e->a);
				int take = got ? (int)random_below(&r, (uint64_t)got + 1) : 0;

				assert_int_equal(libvchan_recv(e->a, into, (size_t)take), take);
				for (int i = 0; i < take; i++)
					assert_int_equal((unsigned char)into[i], expected++);
				payload -= (size_t)take;
			}
		}
		for (; payload > 0; payload--) {
			assert_int_equal(libvchan_read(e->a, into, 1), 1);
			assert_int_equal((unsigned char)into[0], expected++);
		}
		while (is_readable(e->sock, 0)) /* what it acknowledges */
			receive_header(e->sock);
	}
}

/* Whatever comes: an error in the end, and no more than the window in memory. */
static void random_bytes_end_in_an_error(void **state)
{
	struct random r = random_start();

	(void)state;
	prepare();
	silence_stderr();
	for (int round = 0; round < 300; round++) {
		int fds[2], n;
		libvchan_t *chan;
		unsigned char bytes[512];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
		chan = adopt(fds[0], RING);
		for (int i = 0; i < 8; i++) {
			for (size_t k = 0; k < sizeof(bytes); k++)
				bytes[k] = (unsigned char)random_next(&r);
			if (random_next(&r) & 1) /* a header that may be right */
				memset(bytes + 2, 0, 6);
			if (send(fds[1], bytes, sizeof(bytes), MSG_NOSIGNAL) < 0)
				break;
		}
		shutdown(fds[1], SHUT_WR);
		do
			n = libvchan_read(chan, into, 1 + random_size(&r, RING));
		while (n > 0);
		assert_int_equal(n, -1);
		assert_true(errno == EPROTO || errno == ECONNRESET);
		close(fds[1]);
		libvchan_close(chan);
	}
}

#define EXACT_TEST(name) cmocka_unit_test_setup_teardown(name, setup_exact, teardown)
#define LARGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_large, teardown)
#define FEW_TEST(name) cmocka_unit_test_setup_teardown(name, setup_few, teardown)
#define HAND_TEST(name) cmocka_unit_test_setup_teardown(name, setup_by_hand, teardown)
#define BULK_TEST(name) cmocka_unit_test_setup_teardown(name, setup_by_hand_large, teardown)
#define HOSTILE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_hostile, teardown)

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(hello_survives_the_way_there),
	cmocka_unit_test(random_hellos_are_refused),
	cmocka_unit_test(random_rings_are_refused_but_powers_of_two),
	cmocka_unit_test(random_headers_are_frames_or_refused),
	cmocka_unit_test(hello_is_no_frame),
	cmocka_unit_test(window_is_the_ring_or_a_mib),
	HAND_TEST(clients_window_follows_from_the_ring_that_was_said),
	EXACT_TEST(unread_is_never_more_than_the_ring),
	EXACT_TEST(room_is_what_was_read_to_the_byte),
	LARGE_TEST(large_window_is_a_mib),
	EXACT_TEST(one_byte_of_room_is_an_event),
	EXACT_TEST(room_wakes_a_blocked_writer),
	EXACT_TEST(both_write_before_either_reads),
	EXACT_TEST(send_of_more_than_the_ring_goes_through),
	LARGE_TEST(one_byte_writes_with_nobody_reading_do_not_block),
	BULK_TEST(conversation_has_no_acknowledgement_alone),
	BULK_TEST(bulk_has_few_acknowledgements),
	HAND_TEST(who_asks_is_told),
	HAND_TEST(who_is_short_of_room_asks),
	HAND_TEST(room_that_a_wait_has_found_is_no_event_after_it),
	HAND_TEST(wait_after_a_ready_fd_returns_although_a_read_did_its_work),
	BULK_TEST(unread_packets_are_bounded),
	HAND_TEST(what_gathers_goes_at_every_acknowledgement),
	HAND_TEST(who_asks_for_the_count_is_told_at_once),
	EXACT_TEST(reader_may_wait_for_more_than_the_packets),
	EXACT_TEST(counters_wrap),
	HAND_TEST(close_says_so),
	cmocka_unit_test(exit_says_so_unless_it_has_dropped_something),
	BULK_TEST(one_call_takes_so_many_headers_and_no_more),
	HAND_TEST(ready_waits_for_who_takes_in_the_last_bytes),
	BULK_TEST(ready_sees_the_last_bytes_behind_many_headers),
	BULK_TEST(who_asks_before_many_headers_is_told),
	HAND_TEST(headers_that_another_thread_takes_in_end_a_wait),
	HAND_TEST(close_waits_for_no_events_that_are_locked_for_good),
	HAND_TEST(close_waits_for_no_lock_that_is_held_for_good),
	HAND_TEST(what_came_before_the_end_can_be_read),
	HAND_TEST(writes_without_room_show_the_end),
	HAND_TEST(sends_without_room_show_the_end),
	HAND_TEST(writes_beyond_the_packets_show_the_end),
	HAND_TEST(death_amid_a_frame_delivers_what_came),
	HOSTILE_TEST(acknowledging_what_was_not_sent_is_eproto),
	HOSTILE_TEST(more_than_the_window_is_eproto),
	HOSTILE_TEST(absurd_length_is_eproto),
	HOSTILE_TEST(second_hello_is_eproto),
	HAND_TEST(bytes_behind_many_headers_are_read_before_the_end),
	EXACT_TEST(writes_beyond_the_window_leave_nobody_waiting),
	FEW_TEST(large_writes_stay_within_the_packets),
	HAND_TEST(small_reads_keep_the_order),
	HAND_TEST(frames_may_come_in_any_pieces),
	cmocka_unit_test(random_bytes_end_in_an_error),
};

UNIT_MAIN(tests)
