/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tools/relay_limits.c: the ports that channels come from, and the kernel that keeps some.
 */
#include <fcntl.h>

#include "unit.h"
#include "vchan/clock.h"
#include "vchan/vsock.h"

#define PORTS 1024
#define NOW CLOCK_S

static bool kept[PORTS]; /* by the kernel */
static unsigned binds;

static int socket_of(uint32_t buffer)
{
	(void)buffer;
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int bind_to_port(int fd, uint32_t port)
{
	(void)fd;
	assert_in_range(port, 1, PORTS - 1);
	binds++;
	errno = EADDRINUSE;
	return kept[port] ? -1 : 0;
}

#define vsock_socket socket_of
#define vsock_bind bind_to_port
/* It is the tool's, and not among the library's objects. */
#include "tools/relay_limits.c" /* NOLINT(bugprone-suspicious-include): no object has it */
#undef vsock_socket
#undef vsock_bind

static int start(void **state)
{
	(void)state;
	memset(kept, 0, sizeof kept);
	memset(taken, 0, sizeof taken);
	memset(closed, 0, sizeof closed);
	binds = 0;
	return 0;
}

/* A channel, and its end. */
static void come_and_go(uint32_t source, uint32_t target, bool keep)
{
	uint32_t port = 0;

	assert_int_equal(ports_bind(-1, false, false, &port), 0);
	ports_release(port, source, target, NOW);
	kept[port] = keep;
}

static void keep_all_of(uint32_t source, uint32_t target)
{
	for (unsigned i = 0; i < HELD_MOST; i++) {
		assert_true(ports_may_open(source, target, false, NOW));
		come_and_go(source, target, true);
	}
	assert_false(ports_may_open(source, target, false, NOW));
}

static void a_pair_may_keep_some_ports_and_no_more(void **state)
{
	uint32_t last;

	(void)state;
	keep_all_of(42, 43);
	assert_true(ports_may_open(42, 44, false, NOW));
	assert_true(ports_may_open(44, 43, false, NOW));
	assert_true(ports_may_open(42, 43, true, NOW));
	for (last = RELAY_TO; !kept[last]; last--)
		;
	kept[last] = false;
	assert_true(ports_may_open(42, 43, false, NOW + HELD_LOOK));
	come_and_go(42, 43, true);
	assert_false(ports_may_open(42, 43, false, NOW + HELD_LOOK));
}

static void who_asks_often_does_not_have_them_looked_at_often(void **state)
{
	(void)state;
	keep_all_of(42, 43);
	binds = 0;
	for (int i = 0; i < 1000; i++)
		assert_false(ports_may_open(42, 43, false, NOW + HELD_LOOK - 1));
	assert_int_equal(binds, 0);
	for (int i = 0; i < 1000; i++)
		assert_false(ports_may_open(42, 43, false, NOW + HELD_LOOK));
	assert_int_equal(binds, HELD_MOST);
}

static void a_source_may_keep_those_of_some_pairs(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < SUCH_PAIRS; i++) {
		assert_true(ports_may_open(42, 99, false, NOW));
		keep_all_of(42, 43 + i);
	}
	assert_false(ports_may_open(42, 99, false, NOW));
	assert_true(ports_may_open(44, 99, false, NOW));
}

static void the_kernel_keeps_none_for_longer_than_it_does(void **state)
{
	(void)state;
	keep_all_of(42, 43);
	assert_false(ports_may_open(42, 43, false, NOW + 8 * CLOCK_S));
	assert_true(ports_may_open(42, 43, false, NOW + HELD_FOR));
}

/* And hardly more than one bind is tried for each. */
static void channels_that_come_and_go_are_no_reason(void **state)
{
	(void)state;
	for (int i = 0; i < 10000; i++) {
		assert_true(ports_may_open(42, 43, false, NOW));
		come_and_go(42, 43, false);
	}
	assert_in_range(binds, 10000, 20000);
}

static void a_port_that_is_used_again_is_nobodys_any_more(void **state)
{
	uint32_t port = 0;

	(void)state;
	for (unsigned i = 0; i < HELD_MOST; i++)
		come_and_go(42, 43, false);
	for (uint32_t i = 0; i < RELAY_TO - RELAY_FROM; i++) /* 768 is none */
		assert_int_equal(ports_bind(-1, false, false, &port), 0);
	assert_int_equal(ports_bind(-1, false, false, &port), -1);
	binds = 0;
	assert_true(ports_may_open(42, 43, false, NOW));
	assert_int_equal(binds, 0);
}

#define LIMITS_TEST(name) cmocka_unit_test_setup_teardown(name, start, NULL)

static const struct CMUnitTest tests[] = {
	LIMITS_TEST(a_pair_may_keep_some_ports_and_no_more),
	LIMITS_TEST(who_asks_often_does_not_have_them_looked_at_often),
	LIMITS_TEST(a_source_may_keep_those_of_some_pairs),
	LIMITS_TEST(the_kernel_keeps_none_for_longer_than_it_does),
	LIMITS_TEST(channels_that_come_and_go_are_no_reason),
	LIMITS_TEST(a_port_that_is_used_again_is_nobodys_any_more),
};

UNIT_MAIN(tests)
