/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole engine, natively: two ends over a Unix socket pair, or one end and
 * a plain socket.  tests/contract proves the same promises over vsock; here the
 * sanitizers see every memory access of every thread.
 */
#include "unit.h"
#include "attend.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "libvchan.h"
#include "vchan/handle.h"

#define RING 4096
#define SOON_MS 20000 /* on a busy machine, for what takes no time */
#define QUIET_MS 30   /* how long silence is listened to */
#define LONG_MS "2000000000" /* of linger: the clock does not leap so far */

/* ---- a clock that goes by leaps (the Makefile wraps these functions) ---- */

static _Atomic bool leaps;
static _Atomic time_t leapt; /* seconds */
static void (*_Atomic on_clock)(void); /* each time that somebody looks at it */
static void (*_Atomic on_nap)(void);   /* ... or sleeps by it */

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int ret = __real_clock_gettime(clock, now);

	if (leaps)
		leapt += 2;
	now->tv_sec += leapt;
	if (on_clock)
		on_clock();
	return ret;
}

int __real_nanosleep(const struct timespec *pause, struct timespec *left);
int __wrap_nanosleep(const struct timespec *pause, struct timespec *left);
int __wrap_nanosleep(const struct timespec *pause, struct timespec *left)
{
	if (on_nap)
		on_nap();
	return __real_nanosleep(pause, left);
}

/* ---- the two ends ---- */

struct ends {
	libvchan_t *a, *b; /* b: NULL when the peer is a plain socket */
	int plain;         /* -1 when it is not */
};

static libvchan_t *adopt(int sock, size_t ring, bool framed)
{
	libvchan_t *chan = handle_adopt(sock, ring, ring, framed);

	assert_non_null(chan);
	return chan;
}

static void make_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static int setup_environment(void **state)
{
	(void)state;
	/* So that nobody asks /dev/vsock. */
	setenv("VCHAN_DOMAIN", "7", 1);
	setenv("VCHAN_VSOCK_LINGER_MS", "10000", 1);
	return 0;
}

static int setup_two_of(void **state, bool framed)
{
	static struct ends ends;
	int fds[2];

	setup_environment(state);
	make_pair(fds);
	ends = (struct ends){ adopt(fds[0], RING, framed), adopt(fds[1], RING, framed), -1 };
	*state = &ends;
	return 0;
}

static int setup_two(void **state)
{
	return setup_two_of(state, false);
}

static int setup_framed(void **state)
{
	return setup_two_of(state, true);
}

static int setup_plain(void **state)
{
	static struct ends ends;
	int fds[2];

	setup_environment(state);
	make_pair(fds);
	ends = (struct ends){ adopt(fds[0], RING, false), NULL, fds[1] };
	*state = &ends;
	return 0;
}

static void hang_up(struct ends *e)
{
	if (e->plain >= 0)
		close(e->plain);
	e->plain = -1;
}

static int teardown(void **state)
{
	struct ends *e = *state;

	hang_up(e);
	libvchan_close(e->a);
	libvchan_close(e->b);
	return 0;
}

/* ---- what the tests look at ---- */

/* The events of the fd to select on, within ms. */
static int readiness(libvchan_t *chan, int ms)
{
	struct pollfd p = { libvchan_fd_for_select(chan),
			    POLLIN | POLLPRI | POLLRDHUP, 0 };

	assert_true(p.fd >= 0);
	return poll(&p, 1, ms) > 0 ? p.revents : 0;
}

static void assert_ready(libvchan_t *chan)
{
	assert_int_equal(readiness(chan, SOON_MS), POLLIN);
}

static void assert_quiet(libvchan_t *chan)
{
	assert_int_equal(readiness(chan, QUIET_MS), 0);
}

/* Takes the event of the connection, so that what comes is new. */
static void settle(libvchan_t *chan)
{
	assert_ready(chan);
	assert_int_equal(libvchan_wait(chan), 0);
	assert_quiet(chan);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static char byte_at(uint64_t n)
{
	return (char)((n * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static void fill(char *data, uint64_t first, size_t n)
{
	for (size_t i = 0; i < n; i++)
		data[i] = byte_at(first + i);
}

static void check(const char *data, uint64_t first, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (data[i] != byte_at(first + i))
			fail_msg("byte %llu is wrong", (unsigned long long)(first + i));
}

static void plain_write(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t went = send(fd, data, n, MSG_NOSIGNAL);

		assert_true(went > 0);
		data += went;
		n -= (size_t)went;
	}
}

static void plain_read(int fd, char *data, size_t n)
{
	assert_int_equal(recv(fd, data, n, MSG_WAITALL), n);
}

static void await_disconnected(libvchan_t *chan)
{
	while (libvchan_is_open(chan) == VCHAN_CONNECTED)
		libvchan_wait(chan);
	assert_int_equal(libvchan_is_open(chan), VCHAN_DISCONNECTED);
}

/* A thread that a test starts and joins. */
static pthread_t start(void *(*function)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, function, arg), 0);
	return thread;
}

/* ---- streams: random sizes and calls, every byte checked ---- */

/* Where the window is exact, a send that waits for room for all of it and a
 * recv that waits for all of it would otherwise wait for each other. */
#define ALL_AT_ONCE (RING / 2)

struct stream {
	libvchan_t *chan;
	uint64_t seed, total;
	bool blocking;
	bool failed;
	atomic_bool over;
};

/* Asserts belong to the main thread: here the failure is noted. */
static bool stream_failed(struct stream *s, const char *what, int result)
{
	fprintf(stderr, "%s: %d, errno %d\n", what, result, errno);
	s->failed = true;
	return false;
}

static bool write_step(struct stream *s, struct random *r, uint64_t *done)
{
	static _Thread_local char data[3 * RING];
	uint64_t left = s->total - *done;
	bool whole = random_next(r) & 1;
	size_t n = 1 + random_size(r, (whole ? ALL_AT_ONCE : sizeof(data)) - 1);
	int result;

	if (n > left)
		n = (size_t)left;
	fill(data, *done, n);
	result = whole ? libvchan_send(s->chan, data, n) : libvchan_write(s->chan, data, n);
	if (result < 0 || (result != (int)n && (whole || s->blocking) &&
			   (s->blocking || result != 0)))
		return stream_failed(s, whole ? "send" : "write", result);
	if (result == 0 && libvchan_wait(s->chan) != 0)
		return stream_failed(s, "wait", -1);
	*done += (uint64_t)result;
	return true;
}

static bool read_step(struct stream *s, struct random *r, uint64_t *done)
{
	static _Thread_local char data[3 * RING];
	uint64_t left = s->total - *done;
	bool exactly = random_next(r) & 1;
	size_t n = 1 + random_size(r, (exactly ? ALL_AT_ONCE : sizeof(data)) - 1);
	int result;

	if (n > left)
		n = (size_t)left;
	result = exactly ? libvchan_recv(s->chan, data, n) : libvchan_read(s->chan, data, n);
	if (result < 0 || result > (int)n || (s->blocking && result == 0) ||
	    (exactly && result != 0 && result != (int)n))
		return stream_failed(s, exactly ? "recv" : "read", result);
	for (int i = 0; i < result; i++)
		if (data[i] != byte_at(*done + (uint64_t)i))
			return stream_failed(s, "a byte is wrong", i);
	/* A non-blocking recv may want more than will fit before a read: only
	 * the events say when to ask again. */
	if (result == 0 && !s->blocking && libvchan_wait(s->chan) != 0)
		return stream_failed(s, "wait", -1);
	*done += (uint64_t)result;
	return true;
}

static void *write_stream(void *arg)
{
	struct stream *s = arg;
	struct random r = { s->seed };
	uint64_t done = 0;

	while (done < s->total && write_step(s, &r, &done))
		;
	hand_over(s->chan);
	atomic_store(&s->over, true);
	return NULL;
}

static void *read_stream(void *arg)
{
	struct stream *s = arg;
	struct random r = { s->seed };
	uint64_t done = 0;

	while (done < s->total && read_step(s, &r, &done))
		;
	atomic_store(&s->over, true);
	return NULL;
}

/* `number`: a signal that hits all four threads all the time, or 0. */
static void stream_both_ways(struct ends *e, bool blocking, uint64_t total, int number)
{
	struct random r = random_start();
	struct stream streams[4] = {
		{ e->a, random_next(&r), total, blocking, false, false },
		{ e->b, random_next(&r), total, blocking, false, false },
		{ e->b, random_next(&r), total, blocking, false, false },
		{ e->a, random_next(&r), total, blocking, false, false },
	};
	pthread_t threads[4];

	libvchan_set_blocking(e->a, blocking);
	libvchan_set_blocking(e->b, blocking);
	for (int i = 0; i < 4; i++)
		threads[i] = start(i & 1 ? read_stream : write_stream, &streams[i]);
	for (int i = 0; i < 4; i++)
		while (number && !atomic_load(&streams[i].over))
			for (int j = 0; j < 4; j++)
				pthread_kill(threads[j], number);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 4; i++)
		assert_false(streams[i].failed);
}

static void blocking_streams_both_ways_arrive_whole(void **state)
{
	stream_both_ways(*state, true, 8 << 20, 0);
}

/* One way: two threads of one handle cannot share its events. */
static void non_blocking_stream_arrives_whole(void **state)
{
	struct ends *e = *state;
	struct stream out = { e->a, 11, 4 << 20, false, false, false };
	struct stream in = { e->b, 22, 4 << 20, false, false, false };
	pthread_t writer;

	libvchan_set_blocking(e->a, false);
	libvchan_set_blocking(e->b, false);
	writer = start(write_stream, &out);
	read_stream(&in);
	pthread_join(writer, NULL);
	assert_false(out.failed || in.failed);
}

static void round_trips_of_every_size_come_back_whole(void **state)
{
	struct ends *e = *state;
	struct random r = random_start();
	char out[RING], back[RING];

	for (uint64_t i = 0; i < 20000; i++) {
		size_t n = 1 + random_size(&r, RING - 1);

		fill(out, i, n);
		assert_int_equal(libvchan_send(e->a, out, n), n);
		assert_int_equal(libvchan_recv(e->b, back, n), n);
		assert_int_equal(libvchan_send(e->b, back, n), n);
		memset(back, 0, n);
		assert_int_equal(libvchan_recv(e->a, back, n), n);
		check(back, i, n);
	}
}

static void *send_many_small(void *arg)
{
	libvchan_t *chan = arg;

	for (uint64_t i = 0; i < 100000; i++) {
		char byte = byte_at(i);

		if (libvchan_write(chan, &byte, 1) != 1)
			break;
	}
	hand_over(chan);
	return NULL;
}

static void many_small_writes_arrive_at_a_late_reader(void **state)
{
	struct ends *e = *state;
	pthread_t writer = start(send_many_small, e->a);
	static char data[100000];

	plain_read(e->plain, data, sizeof(data));
	pthread_join(writer, NULL);
	check(data, 0, sizeof(data));
}

/* ---- events ---- */

static void fd_is_quiet_after_wait_although_data_is_unread(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	plain_write(e->plain, "xyz", 3);
	settle(e->a);
	assert_int_equal(libvchan_data_ready(e->a), 3);
}

static void fd_is_quiet_after_wait_although_the_ring_is_full(void **state)
{
	struct ends *e = *state;
	static char data[2 * RING];

	settle(e->a);
	plain_write(e->plain, data, sizeof(data));
	settle(e->a);
	assert_int_equal(libvchan_data_ready(e->a), RING);
}

static void asking_for_data_does_not_take_its_event(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	plain_write(e->plain, "xyz", 3);
	while (libvchan_data_ready(e->a) < 3)
		;
	settle(e->a);
}

static void each_arrival_makes_the_fd_readable_again(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	for (int i = 1; i <= 100; i++) {
		plain_write(e->plain, "x", 1);
		assert_ready(e->a);
		assert_int_equal(libvchan_wait(e->a), 0);
		assert_int_equal(libvchan_data_ready(e->a), i);
	}
}

static void wait_after_a_ready_fd_returns_although_the_data_was_read(void **state)
{
	struct ends *e = *state;
	char byte;

	settle(e->a);
	for (int i = 0; i < 1000; i++) {
		plain_write(e->plain, "x", 1);
		assert_ready(e->a);
		assert_int_equal(libvchan_read(e->a, &byte, 1), 1);
		assert_int_equal(libvchan_wait(e->a), 0);
	}
}

/* Fills the ring each time, and more than that. */
static void *write_ring_fulls(void *arg)
{
	struct ends *e = arg;
	char data[2 * RING];
	uint64_t done = 0;

	for (int i = 0; i < 2000; i++) {
		size_t n = i % 3 == 0 ? RING : i % 3 == 1 ? 2 * RING : 1;

		fill(data, done, n);
		if (send(e->plain, data, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
		done += n;
	}
	shutdown(e->plain, SHUT_WR);
	return NULL;
}

static void reader_of_exactly_what_is_ready_never_sleeps_for_ever(void **state)
{
	struct ends *e = *state;
	pthread_t writer = start(write_ring_fulls, e);
	uint64_t done = 0;
	char data[RING];

	do {
		int ready;

		assert_ready(e->a);
		assert_int_equal(libvchan_wait(e->a), 0);
		ready = libvchan_data_ready(e->a);
		assert_in_range(ready, 0, RING);
		if (ready == 0)
			continue;
		assert_int_equal(libvchan_read(e->a, data, (size_t)ready), ready);
		check(data, done, (size_t)ready);
		done += (uint64_t)ready;
	} while (libvchan_is_open(e->a) || libvchan_data_ready(e->a));
	pthread_join(writer, NULL);
	assert_int_equal(done, (UINT64_C(667) + 667 * 2) * RING + 666);
}

static void room_makes_the_fd_readable_for_who_saw_too_little(void **state)
{
	struct ends *e = *state;
	static char data[1 << 20];
	struct attendant attendant;
	size_t written = 0;
	int n;

	libvchan_set_blocking(e->a, false);
	settle(e->a);
	while ((n = libvchan_write(e->a, data, RING)) > 0)
		written += (size_t)n;
	assert_int_equal(n, 0);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_quiet(e->a);
	assert_true(written <= sizeof(data));
	attend(&attendant, e->a);
	plain_read(e->plain, data, written);
	dismiss(&attendant);
	assert_ready(e->a);
	libvchan_wait(e->a);
	assert_true(libvchan_buffer_space(e->a) > 0);
}

/* What the fd told of, another call has done. */
static void wait_after_a_ready_fd_returns_although_its_work_was_done(void **state)
{
	struct ends *e = *state;
	static char data[1 << 20];
	int fd = libvchan_fd_for_select(e->a);
	struct pollfd p = { fd, POLLIN, 0 };
	size_t written = 0;
	int n;

	settle(e->a);
	libvchan_set_blocking(e->a, false);
	while ((n = libvchan_write(e->a, data, RING / 4)) == RING / 4)
		written += (size_t)n;
	written += (size_t)n;
	plain_read(e->plain, data, written - RING);
	assert_int_equal(poll(&p, 1, SOON_MS), 1);
	for (int i = 0; i < 3; i++)
		libvchan_data_ready(e->a);
	assert_int_equal(libvchan_buffer_space(e->a), RING);
	assert_int_equal(libvchan_wait(e->a), 0);
	assert_quiet(e->a);
}

static void *write_a_megabyte(void *arg)
{
	struct stream *s = arg;
	static char data[1 << 20];

	s->failed = libvchan_write(s->chan, data, sizeof(data)) != sizeof(data);
	hand_over(s->chan);
	return NULL;
}

static void room_wakes_a_blocked_writer(void **state)
{
	struct ends *e = *state;
	struct stream s = { .chan = e->a };
	pthread_t writer = start(write_a_megabyte, &s);
	static char data[1 << 20];

	plain_read(e->plain, data, sizeof(data));
	pthread_join(writer, NULL);
	assert_false(s.failed);
}

static void *write_a_little(void *arg)
{
	struct stream *s = arg;
	static const char data[100];

	s->failed = libvchan_write(s->chan, data, sizeof(data)) != sizeof(data);
	atomic_store(&s->over, true);
	return NULL;
}

static bool is_over_by(struct stream *s, int64_t until)
{
	while (!atomic_load(&s->over) && now_ms() < until)
		sched_yield();
	return atomic_load(&s->over);
}

/* The driver waits for the same room of the kernel's, and may be first and use all of it:
 * what the writer has fits into the ring then. */
static void writer_is_woken_although_the_driver_took_the_kernels_room(void **state)
{
	struct ends *e = *state;
	static char data[1 << 20];
	struct stream s = { .chan = e->a };
	pthread_t writer;

	libvchan_set_blocking(e->a, false);
	while (libvchan_write(e->a, data, RING) > 0)
		;
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	libvchan_set_blocking(e->a, true);
	writer = start(write_a_little, &s);
	while (!atomic_load(&e->a->writer_waits))
		sched_yield();
	/* No more than it takes. */
	while (ring_fill(&e->a->out) == RING && !is_over_by(&s, now_ms() + 2))
		assert_true(recv(e->plain, data, 512, 0) > 0);
	if (!is_over_by(&s, now_ms() + SOON_MS))
		fail_msg("the writer sleeps, with %zu bytes in the ring", ring_fill(&e->a->out));
	pthread_join(writer, NULL);
	assert_false(s.failed);
}

static void what_buffer_space_promises_never_blocks(void **state)
{
	struct ends *e = *state;
	static char data[RING];

	/* In blocking mode: a broken promise would hang, and the peer does not
	 * read. */
	for (int space; (space = libvchan_buffer_space(e->a)) > 0;)
		assert_int_equal(libvchan_write(e->a, data, (size_t)space), space);
	hang_up(e);
}

static void data_ready_makes_progress_by_itself(void **state)
{
	struct ends *e = *state;

	plain_write(e->plain, "0123456789", 10);
	while (libvchan_data_ready(e->a) < 10)
		;
	assert_int_equal(libvchan_data_ready(e->a), 10);
}

/* ---- rows of the table ---- */

static void empty_non_blocking_reads_return_0(void **state)
{
	struct ends *e = *state;
	char data[10];

	libvchan_set_blocking(e->a, false);
	assert_int_equal(libvchan_read(e->a, data, 10), 0);
	assert_int_equal(libvchan_recv(e->a, data, 10), 0);
	plain_write(e->plain, "12345", 5);
	while (libvchan_data_ready(e->a) < 5)
		;
	assert_int_equal(libvchan_recv(e->a, data, 10), 0);
	assert_int_equal(libvchan_read(e->a, data, 10), 5);
}

static void more_than_the_ring_at_once_is_emsgsize(void **state)
{
	struct ends *e = *state;
	static char data[RING + 1];

	for (int blocking = 0; blocking < 2; blocking++) {
		libvchan_set_blocking(e->a, blocking);
		assert_errno(libvchan_send(e->a, data, RING + 1), -1, EMSGSIZE);
		assert_errno(libvchan_recv(e->a, data, RING + 1), -1, EMSGSIZE);
	}
	assert_int_equal(libvchan_send(e->a, data, RING), RING);
}

static void read_takes_at_most_a_ring(void **state)
{
	struct ends *e = *state;
	static char data[3 * RING];
	size_t left = sizeof(data);

	plain_write(e->plain, data, sizeof(data));
	while (left > 0) {
		int n = libvchan_read(e->a, data, sizeof(data));

		assert_in_range(n, 1, RING);
		left -= (size_t)n;
	}
}

static void size_0_returns_0_and_no_buffer_is_einval(void **state)
{
	struct ends *e = *state;

	assert_int_equal(libvchan_write(e->a, NULL, 0), 0);
	assert_int_equal(libvchan_send(e->a, NULL, 0), 0);
	assert_int_equal(libvchan_read(e->a, NULL, 0), 0);
	assert_int_equal(libvchan_recv(e->a, NULL, 0), 0);
	assert_errno(libvchan_write(e->a, NULL, 1), -1, EINVAL);
	assert_errno(libvchan_send(e->a, NULL, 1), -1, EINVAL);
	assert_errno(libvchan_read(e->a, NULL, 1), -1, EINVAL);
	assert_errno(libvchan_recv(e->a, NULL, 1), -1, EINVAL);
}

/* ---- the end ---- */

static void what_came_before_the_end_can_be_read(void **state)
{
	struct ends *e = *state;
	static char data[3 * RING];
	uint64_t done = 0;

	fill(data, 0, sizeof(data));
	plain_write(e->plain, data, sizeof(data));
	hang_up(e);
	/* A failed write must not end the reading. */
	await_disconnected(e->a);
	assert_errno(libvchan_write(e->a, "x", 1), -1, EPIPE);
	assert_errno(libvchan_send(e->a, "x", 1), -1, EPIPE);
	while (libvchan_is_open(e->a) || libvchan_data_ready(e->a)) {
		int n = libvchan_read(e->a, data, 1000);

		assert_true(n > 0);
		check(data, done, (size_t)n);
		done += (uint64_t)n;
	}
	assert_int_equal(done, 3 * RING);
	assert_errno(libvchan_read(e->a, data, 1), -1, ECONNRESET);
	assert_errno(libvchan_recv(e->a, data, 1), -1, ECONNRESET);
	assert_int_equal(libvchan_data_ready(e->a), 0);
	assert_int_equal(libvchan_buffer_space(e->a), 0);
	assert_int_equal(libvchan_wait(e->a), 0);
}

static void end_is_one_event_and_then_silence(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	hang_up(e);
	settle(e->a);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
	assert_quiet(e->a);
}

static void end_after_a_half_close_is_no_second_event(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	shutdown(e->plain, SHUT_WR);
	settle(e->a);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
	hang_up(e);
	assert_quiet(e->a);
}

static void asking_for_the_state_does_not_take_the_event_of_the_end(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	hang_up(e);
	while (libvchan_is_open(e->a))
		sched_yield();
	assert_ready(e->a);
}

static void end_is_an_event_also_when_nobody_calls(void **state)
{
	struct ends *e = *state;

	settle(e->a);
	hang_up(e);
	assert_ready(e->a);
	assert_int_equal(libvchan_wait(e->a), 0);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
}

static void recv_of_more_than_came_is_econnreset_and_leaves_it(void **state)
{
	struct ends *e = *state;
	char data[10];

	plain_write(e->plain, "12345", 5);
	hang_up(e);
	assert_errno(libvchan_recv(e->a, data, 10), -1, ECONNRESET);
	assert_int_equal(libvchan_recv(e->a, data, 5), 5);
	assert_memory_equal(data, "12345", 5);
}

static void *blocked_read(void *arg)
{
	struct stream *s = arg;
	char byte;

	s->failed = libvchan_read(s->chan, &byte, 1) != -1 || errno != ECONNRESET;
	return NULL;
}

static void end_wakes_a_blocked_reader(void **state)
{
	struct ends *e = *state;
	struct stream s = { .chan = e->a };
	pthread_t reader = start(blocked_read, &s);

	hang_up(e);
	pthread_join(reader, NULL);
	assert_false(s.failed);
}

static void *blocked_write(void *arg)
{
	struct stream *s = arg;
	static char data[64 << 20];

	s->failed = libvchan_write(s->chan, data, sizeof(data)) != -1 || errno != EPIPE;
	return NULL;
}

static void end_wakes_a_blocked_writer(void **state)
{
	struct ends *e = *state;
	struct stream s = { .chan = e->a };
	pthread_t writer = start(blocked_write, &s);
	char some[RING];

	plain_read(e->plain, some, sizeof(some));
	hang_up(e);
	pthread_join(writer, NULL);
	assert_false(s.failed);
}

/* ---- close, exit, fork, signals ---- */

static void *read_to_the_end(void *arg)
{
	struct ends *e = arg;
	static char data[1 << 20];
	uint64_t done = 0;
	ssize_t n;

	while ((n = read(e->plain, data, sizeof(data))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (data[i] != byte_at(done + (uint64_t)i))
				return NULL;
		done += (uint64_t)n;
	}
	return (void *)(uintptr_t)done;
}

static size_t fill_up(libvchan_t *chan)
{
	char data[RING];
	size_t done = 0;
	int n;

	libvchan_set_blocking(chan, false);
	do {
		fill(data, done, sizeof(data));
		n = libvchan_write(chan, data, sizeof(data));
		assert_true(n >= 0);
		done += (size_t)n;
	} while (n > 0);
	return done;
}

static void close_delivers_what_was_written(void **state)
{
	struct ends *e = *state;
	size_t written = fill_up(e->a);
	pthread_t reader = start(read_to_the_end, e);
	void *got;

	libvchan_close(e->a);
	e->a = NULL;
	pthread_join(reader, &got);
	assert_int_equal((uintptr_t)got, written);
}

static void close_waits_no_longer_than_the_linger_time(void **state)
{
	struct capture capture;
	int fds[2];
	libvchan_t *chan;
	int64_t start_ms;

	(void)state;
	setup_environment(state);
	setenv("VCHAN_VSOCK_LINGER_MS", "200", 1);
	make_pair(fds);
	chan = adopt(fds[0], RING, false);
	fill_up(chan);
	start_ms = now_ms();
	capture_start(&capture);
	libvchan_close(chan);
	capture_end(&capture);
	assert_in_range(now_ms() - start_ms, 190, SOON_MS);
	assert_one_line(capture.text);
	close(fds[1]);
}

/* The thread may just have left small writes to gather when the close begins. */
static void close_that_may_not_wait_sends_what_the_kernel_takes(void **state)
{
	struct random r = random_start();
	char data[100];

	setup_environment(state);
	setenv("VCHAN_VSOCK_LINGER_MS", "0", 1);
	for (int i = 0; i < 3000; i++) {
		int fds[2], n = 6 + i % 40;
		libvchan_t *chan;

		make_pair(fds);
		chan = adopt(fds[0], RING, false);
		for (int k = 0; k < n; k++)
			assert_int_equal(libvchan_write(chan, "x", 1), 1);
		for (uint64_t k = random_below(&r, 4000); k > 0; k--)
			atomic_load(&chan->idle);
		libvchan_close(chan);
		assert_int_equal(recv(fds[1], data, sizeof(data), MSG_WAITALL), n);
		close(fds[1]);
	}
}

static void thousand_handles_leave_nothing_behind(void **state)
{
	int fds_before = 0, mappings_before = 0, all_before = 0;

	setup_environment(state);
	for (int i = 0; i < 1000; i++) {
		struct ends e;
		int fds[2];
		char byte = 'x';

		if (i == 10) { /* what is made once has been made */
			fds_before = count_fds();
			mappings_before = count_ring_mappings();
			all_before = count_mappings("-");
		}
		make_pair(fds);
		e.a = adopt(fds[0], RING, false);
		e.b = adopt(fds[1], RING, false);
		assert_int_equal(libvchan_write(e.a, &byte, 1), 1);
		if (i & 1)
			assert_int_equal(libvchan_read(e.b, &byte, 1), 1);
		libvchan_close(i & 2 ? e.a : e.b);
		libvchan_close(i & 2 ? e.b : e.a);
	}
	assert_int_equal(count_fds(), fds_before);
	assert_int_equal(count_ring_mappings(), mappings_before);
	/* A thread that is not joined leaves its stack; allocators have some of their own. */
	assert_in_range(count_mappings("-"), 0, all_before + 300);
}

/* Forks only while the handle's thread sleeps: it might hold a lock of the
 * sanitizer's allocator, which no one in the child would ever release. */
static int run_child(void (*body)(struct ends *), struct ends *e)
{
	int status;
	pid_t child;

	while (!atomic_load(&e->a->idle))
		sched_yield();
	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		body(e);
		_exit(100);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void forked_child(struct ends *e)
{
	char byte;

	if (libvchan_is_open(e->a) != VCHAN_DISCONNECTED)
		_exit(1);
	if (libvchan_write(e->a, "x", 1) != -1 || errno != EPIPE)
		_exit(2);
	if (libvchan_read(e->a, &byte, 1) != -1 || errno != ECONNRESET)
		_exit(3);
	if (libvchan_data_ready(e->a) || libvchan_buffer_space(e->a))
		_exit(4);
	if (libvchan_fd_for_select(e->a) != -1 || errno != EPIPE)
		_exit(5);
	if (libvchan_wait(e->a) != 0)
		_exit(6);
	libvchan_close(e->a);
	_exit(0);
}

static void forked_child_has_dead_copies_and_the_parent_notices_nothing(void **state)
{
	struct ends *e = *state;
	char data[3];

	assert_int_equal(run_child(forked_child, e), 0);
	assert_int_equal(libvchan_is_open(e->a), VCHAN_CONNECTED);
	plain_write(e->plain, "abc", 3);
	assert_int_equal(libvchan_recv(e->a, data, 3), 3);
	assert_int_equal(libvchan_send(e->a, "def", 3), 3);
	plain_read(e->plain, data, 3);
	assert_memory_equal(data, "def", 3);
}

static void child_that_opens_its_own(struct ends *e)
{
	int fds[2];
	libvchan_t *chan;
	char byte;

	(void)e;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		_exit(1);
	chan = handle_adopt(fds[0], RING, RING, false);
	if (!chan || libvchan_write(chan, "x", 1) != 1 || read(fds[1], &byte, 1) != 1)
		_exit(2);
	/* The parent's copy last: the order must not matter. */
	libvchan_close(chan);
	libvchan_close(e->a);
	_exit(0);
}

static void forked_child_can_open_channels_of_its_own(void **state)
{
	assert_int_equal(run_child(child_that_opens_its_own, *state), 0);
}

static void dead_parent_is_noticed_although_a_child_lives(void **state)
{
	int fds[2], stay[2];
	char byte;
	pid_t parent;

	setup_environment(state);
	make_pair(fds);
	assert_int_equal(pipe(stay), 0);
	parent = fork();
	assert_true(parent >= 0);
	if (parent == 0) {
		libvchan_t *chan;

		close(fds[1]);
		chan = handle_adopt(fds[0], RING, RING, false);
		if (chan && fork() == 0) {
			/* Lives until the test has seen the end. */
			close(stay[1]);
			_exit(read(stay[0], &byte, 1) != 0);
		}
		_exit(0);
	}
	close(fds[0]);
	assert_int_equal(read(fds[1], &byte, 1), 0);
	close(stay[1]);
	close(stay[0]);
	close(fds[1]);
	waitpid(parent, NULL, 0);
}

static int report_to;
static size_t reported;

static void report(void)
{
	if (write(report_to, &reported, sizeof(reported)) != sizeof(reported))
		_exit(2);
}

static void *open_and_close(void *unused)
{
	for (;;) {
		int fds[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
			return unused;
		libvchan_close(handle_adopt(fds[0], RING, RING, false));
		close(fds[1]);
	}
}

/* A child, with the other end of our socket, which tells by a pipe. */
struct child {
	pid_t pid; /* 0: we are it */
	int sock, pipe;
};

static struct child fork_child(const char *linger_ms)
{
	int fds[2], pipes[2];
	pid_t pid;

	setup_environment(NULL);
	setenv("VCHAN_VSOCK_LINGER_MS", linger_ms, 1);
	make_pair(fds);
	assert_int_equal(pipe(pipes), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	close(fds[pid == 0]);
	close(pipes[pid != 0]);
	return (struct child){ pid, fds[pid != 0], pipes[pid == 0] };
}

/* `beside`: what another thread does meanwhile, or NULL. */
static void exiting_child(int sock, int to, void *(*beside)(void *))
{
	libvchan_t *chan = handle_adopt(sock, RING, RING, false);
	pthread_t thread;

	if (!chan)
		_exit(1);
	reported = fill_up(chan);
	report_to = to;
	if (beside && pthread_create(&thread, NULL, beside, NULL) != 0)
		_exit(1);
	/* In the middle of exit(): from there on nobody has time to spare. */
	atexit(report);
	exit(0);
}

static void check_exit(int late_ms, void *(*beside)(void *))
{
	struct child child = fork_child(LONG_MS);
	struct ends e = { NULL, NULL, child.sock };
	size_t written = 0;
	void *got;

	if (child.pid == 0)
		exiting_child(child.sock, child.pipe, beside);
	/* It is exiting before anybody reads. */
	assert_int_equal(read(child.pipe, &written, sizeof(written)), sizeof(written));
	poll(NULL, 0, late_ms);
	got = read_to_the_end(&e);
	waitpid(child.pid, NULL, 0);
	hang_up(&e);
	close(child.pipe);
	assert_true(written > RING);
	assert_int_equal((uintptr_t)got, written);
}

static void exit_without_close_delivers_what_was_written(void **state)
{
	(void)state;
	check_exit(0, NULL);
}

static void exit_delivers_although_other_channels_come_and_go(void **state)
{
	(void)state;
	check_exit(1500, open_and_close);
}

static void *open_and_close_while_time_flies(void *unused)
{
	leaps = true;
	return open_and_close(unused);
}

/* As for a program that has no processor for seconds, again and again. */
static void exit_that_is_not_scheduled_delivers_all_the_same(void **state)
{
	(void)state;
	check_exit(200, open_and_close_while_time_flies);
}

/* Somebody holds the lock of who receives and has not signed: another receiver in its first
 * moment, or exit() itself.  There are bytes that wait for an acknowledgement, and a byte
 * has come. */

#define MUCH (10 * RING)
#define STEPS 50 /* of who waits, which then sees the lock let go */

static struct {
	libvchan_t *chan;
	pthread_t exits;
	bool stays;
	sem_t held, let_go, gone;
	_Atomic int steps;
} nameless;

static void check_that_nobody_receives(void)
{
	if (ring_fill(&nameless.chan->in))
		_exit(3); /* two at the same time */
}

static void *receive_without_a_name(void *unused)
{
	pthread_mutex_lock(&nameless.chan->reading);
	sem_post(&nameless.held);
	while (sem_trywait(&nameless.let_go) < 0) {
		if (!nameless.stays)
			check_that_nobody_receives();
		poll(NULL, 0, 1);
	}
	pthread_mutex_unlock(&nameless.chan->reading);
	sem_post(&nameless.gone);
	return unused;
}

static void step(void)
{
	if (++nameless.steps != STEPS)
		return;
	check_that_nobody_receives();
	report();
	sem_post(&nameless.let_go);
	sem_wait(&nameless.gone);
}

static void step_of_exit(void)
{
	if (pthread_equal(pthread_self(), nameless.exits))
		step();
}

static void look_at_the_clock(void)
{
	on_clock = step_of_exit;
}

static void meet_a_nameless_receiver(int sock, int to, bool stays)
{
	libvchan_t *chan = handle_adopt(sock, RING, RING, true);
	struct pollfd p = { sock, POLLIN, 0 };
	pthread_t thread;
	char data[MUCH];

	/* We were the last to sign. */
	if (!chan || libvchan_recv(chan, data, 1) != 1)
		_exit(1);
	nameless.chan = chan;
	nameless.exits = pthread_self();
	nameless.stays = stays;
	sem_init(&nameless.held, 0, 0);
	sem_init(&nameless.let_go, 0, 0);
	sem_init(&nameless.gone, 0, 0);
	if (pthread_create(&thread, NULL, receive_without_a_name, NULL) != 0)
		_exit(1);
	pthread_detach(thread);
	sem_wait(&nameless.held);
	fill(data, 0, sizeof(data));
	libvchan_set_blocking(chan, false);
	if (libvchan_send(chan, data, sizeof(data)) != sizeof(data))
		_exit(1);
	report_to = to;
	report();
	if (poll(&p, 1, -1) != 1)
		_exit(1);
}

static void exits(int sock, int to)
{
	meet_a_nameless_receiver(sock, to, false);
	atexit(look_at_the_clock);
	exit(0);
}

static void exits_although_it_stays(int sock, int to)
{
	meet_a_nameless_receiver(sock, to, true);
	exit(0);
}

static void closes(int sock, int to)
{
	meet_a_nameless_receiver(sock, to, false);
	on_nap = step;
	libvchan_close(nameless.chan);
	_exit(0);
}

/* `steps`: it takes them before anything is read. */
static void check_nameless(void (*child_does)(int sock, int to), bool steps)
{
	struct child child = fork_child("30000");
	size_t done = 0, unused;
	char data[RING];
	libvchan_t *chan;
	int status, n;

	if (child.pid == 0)
		child_does(child.sock, child.pipe);
	chan = adopt(child.sock, RING, true);
	assert_int_equal(libvchan_write(chan, "1", 1), 1);
	/* It is there when the lock is held. */
	assert_int_equal(read(child.pipe, &unused, sizeof(unused)), sizeof(unused));
	assert_int_equal(libvchan_write(chan, "2", 1), 1);
	if (steps)
		assert_int_equal(read(child.pipe, &unused, sizeof(unused)), sizeof(unused));
	while ((n = libvchan_read(chan, data, sizeof(data))) > 0) {
		check(data, done, (size_t)n);
		done += (size_t)n;
	}
	assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
	assert_int_equal(status, 0);
	assert_int_equal(done, MUCH);
	libvchan_close(chan);
	close(child.pipe);
}

/* Each of them would have read a part of the same header. */
static void exit_receives_beside_nobody(void **state)
{
	(void)state;
	check_nameless(exits, true);
}

/* A handler's exit() may have stopped it there. */
static void exit_waits_for_no_receiver_that_never_signs(void **state)
{
	(void)state;
	check_nameless(exits_although_it_stays, false);
}

/* A handler's exit() may have met it. */
static void close_receives_beside_nobody(void **state)
{
	(void)state;
	check_nameless(closes, true);
}

static void on_alarm(int number)
{
	(void)number;
}

static void signals_make_no_call_fail(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm }, kept;

	sigaction(SIGALRM, &action, &kept);
	stream_both_ways(*state, true, 1 << 20, SIGALRM);
	sigaction(SIGALRM, &kept, NULL);
}

static void writing_to_nobody_raises_no_sigpipe(void **state)
{
	struct ends *e = *state;
	struct sigaction kept;

	sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_DFL }, &kept);
	hang_up(e);
	for (int i = 0; i < 10; i++) {
		int n = libvchan_write(e->a, "x", 1);

		assert_true(n == 1 || (n == -1 && errno == EPIPE));
	}
	sigaction(SIGPIPE, &kept, NULL);
}

/* ---- found by review: each of these was lost, stuck or fatal once ---- */

static void what_a_full_ring_left_behind_is_told_after_a_wait_between_reads(void **state)
{
	struct ends *e = *state;
	char data[RING + 1000];
	int ready;

	settle(e->a);
	fill(data, 0, sizeof data);
	plain_write(e->plain, data, sizeof data);
	assert_ready(e->a);
	libvchan_wait(e->a);
	assert_int_equal(libvchan_read(e->a, data, 100), 100);
	assert_ready(e->a);
	libvchan_wait(e->a);
	ready = libvchan_data_ready(e->a);
	assert_in_range(ready, RING - 100, RING);
	assert_int_equal(libvchan_read(e->a, data, (size_t)ready), ready);
	assert_ready(e->a);
}

static void *read_bytes(void *chan)
{
	char byte;

	while (libvchan_read(chan, &byte, 1) == 1)
		;
	return NULL;
}

static void wait_returns_although_another_thread_takes_the_data(void **state)
{
	struct ends *e = *state;
	pthread_t reader = start(read_bytes, e->a);

	for (int i = 0; i < 20000; i++) {
		plain_write(e->plain, "x", 1);
		if (readiness(e->a, 0))
			libvchan_wait(e->a);
	}
	hang_up(e);
	pthread_join(reader, NULL);
}

static void fds_are_above_the_standard_ones(void **state)
{
	int kept[3], fds[2];
	libvchan_t *chan;
	bool all_free = true;

	setup_environment(state);
	make_pair(fds);
	for (int fd = 0; fd < 3; fd++) {
		kept[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
		close(fd);
	}
	chan = handle_adopt(fds[0], RING, RING, false);
	for (int fd = 0; fd < 3; fd++)
		all_free &= fcntl(fd, F_GETFD) < 0;
	libvchan_close(chan);
	for (int fd = 0; fd < 3; fd++)
		if (kept[fd] >= 0) {
			dup2(kept[fd], fd);
			close(kept[fd]);
		}
	close(fds[1]);
	assert_non_null(chan);
	assert_true(all_free);
}

static pthread_mutex_t programs_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_for_fork(void)
{
	pthread_mutex_lock(&programs_lock);
}

static void unlock_after_fork(void)
{
	pthread_mutex_unlock(&programs_lock);
}

static void *open_and_close_under_the_lock(void *stop)
{
	while (!atomic_load((atomic_bool *)stop)) {
		int fds[2];

		pthread_mutex_lock(&programs_lock);
		make_pair(fds);
		libvchan_close(handle_adopt(fds[0], RING, RING, false));
		close(fds[1]);
		pthread_mutex_unlock(&programs_lock);
	}
	return NULL;
}

/* What was written before a half-close still goes, but is no news. */
static void end_is_the_last_event_although_room_comes(void **state)
{
	struct ends *e = *state;
	size_t written = fill_up(e->a);
	static char data[1 << 20];

	shutdown(e->plain, SHUT_WR);
	settle(e->a);
	plain_read(e->plain, data, written - RING);
	while (ring_fill(&e->a->out)) {
		assert_int_equal(libvchan_is_open(e->a), VCHAN_DISCONNECTED);
		usleep(1000);
	}
	assert_quiet(e->a);
}

static void fork_handlers_of_the_program_may_take_its_locks(void **state)
{
	atomic_bool stop = false;
	pthread_t thread;

	setup_environment(state);
	/* Later than the library's, earlier than the first handle's life. */
	pthread_atfork(lock_for_fork, unlock_after_fork, unlock_after_fork);
	thread = start(open_and_close_under_the_lock, &stop);
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		assert_int_equal(waitpid(child, NULL, 0), child);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

/* ---- a program that gives up its right to fds ---- */

/* Where RLIMIT_NOFILE is below the number of fds, the kernel refuses to poll them. */
static rlim_t limit_fds(rlim_t most)
{
	struct rlimit limit;
	rlim_t before;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	before = limit.rlim_cur;
	limit.rlim_cur = most;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	return before;
}

static void streams_arrive_whole_where_nothing_can_be_polled(void **state)
{
	rlim_t before = limit_fds(0);

	blocking_streams_both_ways_arrive_whole(state);
	limit_fds(before);
}

static void framed_streams_arrive_whole_where_nothing_can_be_polled(void **state)
{
	streams_arrive_whole_where_nothing_can_be_polled(state);
}

static int64_t cpu_ms(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return used.tv_sec * INT64_C(1000) + used.tv_nsec / 1000000;
}

static void *read_a_byte(void *arg)
{
	struct stream *s = arg;
	char byte;

	s->failed = libvchan_read(s->chan, &byte, 1) != 1;
	return NULL;
}

/* A busy machine gives a thread that spins less than all of a processor. */
static void nobody_spins_where_nothing_can_be_polled(void **state)
{
	struct ends *e = *state;
	struct stream s = { .chan = e->a };
	const struct timespec nap = { 0, 400000000 };
	rlim_t before = limit_fds(0);
	pthread_t reader = start(read_a_byte, &s);
	int64_t used = cpu_ms();

	nanosleep(&nap, NULL);
	used = cpu_ms() - used;
	plain_write(e->plain, "x", 1);
	pthread_join(reader, NULL);
	hang_up(e);
	while (libvchan_is_open(e->a) == VCHAN_CONNECTED)
		sched_yield();
	limit_fds(before);
	assert_false(s.failed);
	assert_in_range(used, 0, 100);
}

/* ---- the same over the framed wire ---- */

static void framed_blocking_streams_both_ways_arrive_whole(void **state)
{
	blocking_streams_both_ways_arrive_whole(state);
}

static void framed_non_blocking_stream_arrives_whole(void **state)
{
	non_blocking_stream_arrives_whole(state);
}

static void framed_round_trips_of_every_size_come_back_whole(void **state)
{
	round_trips_of_every_size_come_back_whole(state);
}

static void framed_signals_make_no_call_fail(void **state)
{
	signals_make_no_call_fail(state);
}

#define TWO_TEST(name) cmocka_unit_test_setup_teardown(name, setup_two, teardown)
#define FRAMED_TEST(name) cmocka_unit_test_setup_teardown(name, setup_framed, teardown)
#define PLAIN_TEST(name) cmocka_unit_test_setup_teardown(name, setup_plain, teardown)

static const struct CMUnitTest tests[] = {
	TWO_TEST(blocking_streams_both_ways_arrive_whole),
	TWO_TEST(non_blocking_stream_arrives_whole),
	TWO_TEST(round_trips_of_every_size_come_back_whole),
	PLAIN_TEST(many_small_writes_arrive_at_a_late_reader),
	PLAIN_TEST(fd_is_quiet_after_wait_although_data_is_unread),
	PLAIN_TEST(fd_is_quiet_after_wait_although_the_ring_is_full),
	PLAIN_TEST(asking_for_data_does_not_take_its_event),
	PLAIN_TEST(each_arrival_makes_the_fd_readable_again),
	PLAIN_TEST(wait_after_a_ready_fd_returns_although_the_data_was_read),
	PLAIN_TEST(reader_of_exactly_what_is_ready_never_sleeps_for_ever),
	PLAIN_TEST(room_makes_the_fd_readable_for_who_saw_too_little),
	PLAIN_TEST(wait_after_a_ready_fd_returns_although_its_work_was_done),
	PLAIN_TEST(room_wakes_a_blocked_writer),
	PLAIN_TEST(writer_is_woken_although_the_driver_took_the_kernels_room),
	PLAIN_TEST(what_buffer_space_promises_never_blocks),
	PLAIN_TEST(data_ready_makes_progress_by_itself),
	PLAIN_TEST(empty_non_blocking_reads_return_0),
	PLAIN_TEST(more_than_the_ring_at_once_is_emsgsize),
	PLAIN_TEST(read_takes_at_most_a_ring),
	PLAIN_TEST(size_0_returns_0_and_no_buffer_is_einval),
	PLAIN_TEST(what_came_before_the_end_can_be_read),
	PLAIN_TEST(end_is_one_event_and_then_silence),
	PLAIN_TEST(end_after_a_half_close_is_no_second_event),
	PLAIN_TEST(asking_for_the_state_does_not_take_the_event_of_the_end),
	PLAIN_TEST(end_is_an_event_also_when_nobody_calls),
	PLAIN_TEST(recv_of_more_than_came_is_econnreset_and_leaves_it),
	PLAIN_TEST(end_wakes_a_blocked_reader),
	PLAIN_TEST(end_wakes_a_blocked_writer),
	PLAIN_TEST(close_delivers_what_was_written),
	cmocka_unit_test(close_waits_no_longer_than_the_linger_time),
	cmocka_unit_test(close_that_may_not_wait_sends_what_the_kernel_takes),
	cmocka_unit_test(thousand_handles_leave_nothing_behind),
	PLAIN_TEST(forked_child_has_dead_copies_and_the_parent_notices_nothing),
	PLAIN_TEST(forked_child_can_open_channels_of_its_own),
	cmocka_unit_test(dead_parent_is_noticed_although_a_child_lives),
	cmocka_unit_test(exit_without_close_delivers_what_was_written),
	cmocka_unit_test(exit_delivers_although_other_channels_come_and_go),
	cmocka_unit_test(exit_that_is_not_scheduled_delivers_all_the_same),
	cmocka_unit_test(exit_receives_beside_nobody),
	cmocka_unit_test(exit_waits_for_no_receiver_that_never_signs),
	cmocka_unit_test(close_receives_beside_nobody),
	TWO_TEST(signals_make_no_call_fail),
	PLAIN_TEST(writing_to_nobody_raises_no_sigpipe),
	PLAIN_TEST(what_a_full_ring_left_behind_is_told_after_a_wait_between_reads),
	PLAIN_TEST(wait_returns_although_another_thread_takes_the_data),
	cmocka_unit_test(fds_are_above_the_standard_ones),
	cmocka_unit_test(fork_handlers_of_the_program_may_take_its_locks),
	TWO_TEST(streams_arrive_whole_where_nothing_can_be_polled),
	FRAMED_TEST(framed_streams_arrive_whole_where_nothing_can_be_polled),
	PLAIN_TEST(nobody_spins_where_nothing_can_be_polled),
	PLAIN_TEST(end_is_the_last_event_although_room_comes),
	FRAMED_TEST(framed_blocking_streams_both_ways_arrive_whole),
	FRAMED_TEST(framed_non_blocking_stream_arrives_whole),
	FRAMED_TEST(framed_round_trips_of_every_size_come_back_whole),
	FRAMED_TEST(framed_signals_make_no_call_fail),
};

UNIT_MAIN(tests)
