/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tools/relay_pair.c, between Unix sockets: no event is awaited that does not come, and
 * every byte arrives, then the end.
 */
#include <sys/epoll.h>
#include <sys/socket.h>

#include "unit.h"
#include "vchan/vsock.h"

static int failures; /* of receives that are to come */

static ssize_t receive(int fd, void *to, size_t size, bool wait)
{
	if (failures > 0) {
		failures--;
		errno = ENOMEM;
		return -1;
	}
	return vsock_recv(fd, to, size, wait);
}

#define vsock_recv receive
/* It is the tool's, and not among the library's objects. */
#include "tools/relay_pair.c" /* NOLINT(bugprone-suspicious-include): no object has it */
#undef vsock_recv

#define SIZE ((size_t)1 << 20)
#define SMALL 8192

static struct pair pair;
static int ends[2]; /* the guests' */
static int epoll;
static bool watches_room[2];
static unsigned char sent[SIZE], got[SIZE + 1];
static size_t arrived;

static void watch(int i, int op)
{
	struct epoll_event e;

	memset(&e, 0, sizeof e);
	e.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (pair.side[i].blocked ? EPOLLOUT : 0);
	e.data.ptr = &pair.side[i];
	assert_int_equal(epoll_ctl(epoll, op, pair.side[i].fd, &e), 0);
}

static int start(void **state)
{
	int size = SMALL;

	(void)state;
	memset(&pair, 0, sizeof pair);
	arrived = 0;
	failures = 0;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		int fds[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
		assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
		ends[i] = fds[1];
		pair.side[i].fd = fds[0];
		watches_room[i] = false;
		watch(i, EPOLL_CTL_ADD);
	}
	for (size_t i = 0; i < SIZE; i++)
		sent[i] = (unsigned char)(i * 2654435761u >> 13);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	pair_close(&pair);
	close(epoll);
	for (int i = 0; i < 2; i++)
		if (ends[i] >= 0)
			close(ends[i]);
	return 0;
}

static void leave(int end)
{
	close(ends[end]);
	ends[end] = -1;
}

/* As the relay does it.  False: nothing, for a while. */
static bool take_events(void)
{
	struct epoll_event events[2];
	int n;

	for (int i = 0; i < 2; i++)
		if (pair.side[i].blocked != watches_room[i]) {
			watches_room[i] = pair.side[i].blocked;
			watch(i, EPOLL_CTL_MOD);
		}
	n = epoll_wait(epoll, events, 2, 200);
	for (int i = 0; i < n; i++)
		pair_event(events[i].data.ptr, events[i].events);
	return n > 0;
}

static void read_some(int end)
{
	ssize_t n = recv(ends[end], got + arrived, sizeof got - arrived, MSG_DONTWAIT);

	if (n > 0)
		arrived += (size_t)n;
}

/* Until it is over, or nothing happens any more. */
static enum pair_state go_on(int reader)
{
	enum pair_state state;

	do {
		state = pair_turn(&pair);
		if (reader >= 0)
			read_some(reader);
	} while (state == PAIR_MORE || (state == PAIR_ASLEEP && take_events()));
	return state;
}

static void a_reader_that_lags_has_every_byte_and_the_end(void **state)
{
	size_t first = SMALL * 4;

	(void)state;
	assert_int_equal(send(ends[0], sent, first, 0), first);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_true(pair.side[1].blocked);
	assert_true(pair_undelivered(&pair) > 0);
	/* Nothing more comes: only the room there tells. */
	assert_int_equal(go_on(1), PAIR_ASLEEP);
	assert_int_equal(arrived, first);
	assert_int_equal(pair_undelivered(&pair), 0);
	leave(0);
	assert_int_equal(go_on(1), PAIR_OVER);
	assert_memory_equal(got, sent, first);
}

static void what_is_kept_is_no_more_than_a_piece(void **state)
{
	(void)state;
	for (int i = 0; i < 50; i++) {
		(void)send(ends[0], sent, SIZE, MSG_DONTWAIT);
		pair_event(&pair.side[0], EPOLLIN);
		pair_turn(&pair);
		assert_true(pair_undelivered(&pair) <= PAIR_PIECE);
	}
}

static void who_has_gone_has_his_last_bytes_delivered(void **state)
{
	(void)state;
	assert_int_equal(send(ends[0], sent, SMALL * 4, 0), SMALL * 4);
	leave(0);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_true(pair_lingers(&pair));
	assert_int_equal(go_on(1), PAIR_OVER);
	read_some(1);
	assert_int_equal(arrived, SMALL * 4);
	assert_memory_equal(got, sent, arrived);
}

static void who_writes_to_one_that_has_gone_is_told(void **state)
{
	(void)state;
	/* The other one has last bytes, which are not taken yet. */
	assert_int_equal(send(ends[1], sent, SMALL * 4, 0), SMALL * 4);
	leave(1);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_errno((int)send(ends[0], "x", 1, MSG_NOSIGNAL), -1, EPIPE);
	assert_int_equal(go_on(0), PAIR_OVER);
	read_some(0);
	assert_int_equal(arrived, SMALL * 4);
}

static void a_half_close_is_passed_on_and_no_more(void **state)
{
	char byte;

	(void)state;
	assert_int_equal(send(ends[0], sent, 5, 0), 5);
	assert_int_equal(shutdown(ends[0], SHUT_WR), 0);
	assert_int_equal(go_on(1), PAIR_ASLEEP);
	assert_int_equal(arrived, 5);
	assert_int_equal(recv(ends[1], &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(send(ends[1], "yes", 3, MSG_NOSIGNAL), 3);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_int_equal(recv(ends[0], got, 9, MSG_DONTWAIT), 3);
	assert_int_equal(shutdown(ends[1], SHUT_WR), 0);
	assert_int_equal(go_on(-1), PAIR_OVER);
	assert_false(pair_lingers(&pair));
}

/* It takes nothing and sends no more, and must not keep the channel of one that has gone. */
static void who_goes_after_the_others_half_close_is_waited_for_no_longer_than_others(
	void **state)
{
	size_t size = SMALL * 4;

	(void)state;
	assert_int_equal(send(ends[0], sent, size, 0), size);
	assert_int_equal(shutdown(ends[1], SHUT_WR), 0);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_true(pair.side[0].told);
	assert_true(pair_undelivered(&pair) > 0);
	assert_false(pair_lingers(&pair));
	leave(0);
	assert_int_equal(go_on(-1), PAIR_ASLEEP);
	assert_true(pair_lingers(&pair));
	assert_int_equal(go_on(1), PAIR_OVER);
	assert_int_equal(arrived, size);
	assert_memory_equal(got, sent, size);
}

static void bytes_wait_while_memory_is_short(void **state)
{
	(void)state;
	failures = 20;
	assert_int_equal(send(ends[0], sent, 100, 0), 100);
	while (failures) {
		/* No event would wake it. */
		assert_int_equal(go_on(1), PAIR_STARVED);
		assert_false(pair.side[0].ended);
	}
	assert_int_equal(go_on(1), PAIR_ASLEEP);
	assert_int_equal(arrived, 100);
	assert_memory_equal(got, sent, 100);
	leave(0);
	assert_int_equal(go_on(1), PAIR_OVER);
	assert_int_equal(pair.side[0].error, 0);
}

#define PAIR_TEST(name) cmocka_unit_test_setup_teardown(name, start, finish)

static const struct CMUnitTest tests[] = {
	PAIR_TEST(a_reader_that_lags_has_every_byte_and_the_end),
	PAIR_TEST(what_is_kept_is_no_more_than_a_piece),
	PAIR_TEST(who_has_gone_has_his_last_bytes_delivered),
	PAIR_TEST(who_writes_to_one_that_has_gone_is_told),
	PAIR_TEST(a_half_close_is_passed_on_and_no_more),
	PAIR_TEST(who_goes_after_the_others_half_close_is_waited_for_no_longer_than_others),
	PAIR_TEST(bytes_wait_while_memory_is_short),
};

UNIT_MAIN(tests)
