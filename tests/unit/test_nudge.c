/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a nudge asks of the kernel, which this program is.
 */
#include "unit.h"

#include <sys/socket.h>

#include "vchan/nudge.h"
#include "vchan/vsock.h"

#define BUFFER (4u << 20)

static uint64_t size_set;

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	(void)fd;
	(void)level;
	(void)name;
	assert_int_equal(len, sizeof(size_set));
	memcpy(&size_set, value, sizeof(size_set));
	return 0;
}

/* The kernel would drop what is on the way to a buffer that has become too small for it. */
static void nudges_make_the_buffer_no_smaller(void **state)
{
	uint64_t before = BUFFER;

	(void)state;
	for (unsigned count = 1; count < 60000; count++) {
		vsock_nudge(-1, BUFFER, count);
		assert_true(size_set > before); /* the same again would tell nobody */
		before = size_set;
	}
	assert_true(before < BUFFER + (BUFFER >> 4));
}

static void nudges_change_the_buffer_for_ever(void **state)
{
	(void)state;
	for (unsigned count = 0; count < 300000; count++) {
		uint64_t before = size_set;

		vsock_nudge(-1, BUFFER, count);
		assert_true(size_set != before);
		assert_in_range(size_set, BUFFER, BUFFER + (BUFFER >> 4));
	}
}

static void pauses_grow_to_a_minute(void **state)
{
	(void)state;
	assert_int_equal(nudge_pause(1), CLOCK_S);
	assert_int_equal(nudge_pause(60), CLOCK_S);
	assert_int_equal(nudge_pause(61), 2 * CLOCK_S);
	assert_int_equal(nudge_pause(66), 64 * CLOCK_S);
	assert_int_equal(nudge_pause(100000), 64 * CLOCK_S);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(nudges_make_the_buffer_no_smaller),
	cmocka_unit_test(nudges_change_the_buffer_for_ever),
	cmocka_unit_test(pauses_grow_to_a_minute),
};

UNIT_MAIN(tests)
