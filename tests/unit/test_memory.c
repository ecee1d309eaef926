/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel is short of memory for a moment, or says so of a connection that was
 * reset: no byte is lost, and nobody waits for ever.  The library's calls of send and
 * recv go through syscall(2), which is defined here, too.  (Under ThreadSanitizer they
 * do not, so nothing fails there.)
 */
#include "unit.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "libvchan.h"
#include "vchan/handle.h"

#define RING 4096
#define FOR_EVER 1000000000

static atomic_int failures; /* so many calls fail ... */
static atomic_int failing;  /* ... receiving, or sending ... */
static atomic_int failure;  /* ... with this */

enum { NOTHING, RECEIVING, SENDING };

static int direction(long number)
{
	switch (number) {
	case SYS_recvfrom:
	case SYS_recvmsg:
		return RECEIVING;
	case SYS_sendto:
	case SYS_sendmsg:
		return SENDING;
	default:
		return NOTHING;
	}
}

long syscall(long number, ...)
{
	static long (*_Atomic real)(long number, ...);
	long (*call)(long number, ...) = atomic_load(&real);
	long a[6];
	va_list args;

	va_start(args, number);
	for (size_t i = 0; i < ARRAY_SIZE(a); i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (!call) {
		*(void **)&call = dlsym(RTLD_NEXT, "syscall");
		atomic_store(&real, call);
	}
	if (direction(number) == atomic_load(&failing) && atomic_load(&failures) > 0) {
		atomic_fetch_sub(&failures, 1);
		errno = atomic_load(&failure);
		return -1;
	}
	return call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void let_fail(int what, int times, int err)
{
	atomic_store(&failure, err);
	atomic_store(&failing, what);
	atomic_store(&failures, times);
}

static const int ERRORS[] = { ENOMEM, ENOBUFS };

/* A channel, and the plain socket at its other end. */
static libvchan_t *open_one(int *peer, bool framed)
{
	libvchan_t *chan;
	int fds[2];

	let_fail(NOTHING, 0, 0);
	/* So that nobody asks /dev/vsock. */
	setenv("VCHAN_DOMAIN", "7", 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	chan = handle_adopt(fds[0], RING, RING, framed);
	assert_non_null(chan);
	*peer = fds[1];
	return chan;
}

static void await_end(libvchan_t *chan)
{
	while (libvchan_is_open(chan) == VCHAN_CONNECTED)
		sched_yield();
}

static void memory_that_is_short_is_not_the_end(void **state)
{
	char got[6] = "";
	int peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ERRORS); i++) {
		libvchan_t *chan = open_one(&peer, false);

		assert_int_equal(send(peer, "hello", 5, 0), 5);
		close(peer);
		await_end(chan);
		let_fail(RECEIVING, 3, ERRORS[i]);
		assert_int_equal(libvchan_data_ready(chan), 5);
		assert_int_equal(libvchan_read(chan, got, 5), 5);
		assert_string_equal(got, "hello");
		libvchan_close(chan);
	}
}

static void reader_of_what_was_reset_gets_the_end(void **state)
{
	char got[2 * RING];
	int peer;

	(void)state;
	for (size_t size = 1; size <= RING; size *= RING)
		for (int framed = 0; framed < 2; framed++) {
			libvchan_t *chan = open_one(&peer, framed);

			let_fail(RECEIVING, FOR_EVER, ENOBUFS);
			close(peer);
			assert_errno(libvchan_read(chan, got, size), -1, ECONNRESET);
			assert_errno(libvchan_recv(chan, got, size), -1, ECONNRESET);
			libvchan_close(chan);
		}
}

static void *read_all(void *arg)
{
	static char some[1 << 16];
	int peer = *(int *)arg;
	intptr_t total = 0;
	ssize_t n;

	while ((n = recv(peer, some, sizeof(some), 0)) > 0)
		total += n;
	return (void *)total;
}

/* Full, and only then the peer says that it sends nothing any more, and reads. */
static void what_is_left_to_send_survives_short_memory(void **state)
{
	static const char some[RING];
	int peer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ERRORS); i++) {
		libvchan_t *chan = open_one(&peer, false);
		intptr_t total = 0;
		pthread_t reader;
		void *got;
		int n;

		libvchan_set_blocking(chan, false);
		while ((n = libvchan_write(chan, some, sizeof(some))) > 0)
			total += n;
		shutdown(peer, SHUT_WR);
		await_end(chan);
		let_fail(SENDING, 3, ERRORS[i]);
		assert_int_equal(pthread_create(&reader, NULL, read_all, &peer), 0);
		libvchan_close(chan);
		pthread_join(reader, &got);
		close(peer);
		assert_int_equal((intptr_t)got, total);
	}
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(memory_that_is_short_is_not_the_end),
	cmocka_unit_test(reader_of_what_was_reset_gets_the_end),
	cmocka_unit_test(what_is_left_to_send_survives_short_memory),
};

UNIT_MAIN(tests)
