/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan/relay.c: what a guest asks the relay, and what it is answered, byte by byte.
 */
#include "unit.h"
#include "vchan/relay.h"

static void a_request_is_laid_out_as_documented(void **state)
{
	static const unsigned char expected[RELAY_REQUEST_SIZE] = {
		'v', 'c', 'h', '1', 'r', 'e', 'l', 'y', 1, 0, 3, 0,
		0x04, 0x03, 0x02, 0x01, 0xfe, 0xca, 0, 0, 0, 0, 0, 0,
	};
	struct relay_request r = { true, true, 0x01020304, 0xcafe };
	unsigned char bytes[RELAY_REQUEST_SIZE];

	(void)state;
	memset(bytes, 0xff, sizeof bytes);
	relay_encode_request(&r, bytes);
	assert_memory_equal(bytes, expected, sizeof bytes);
}

static void each_flag_is_a_bit_of_its_own(void **state)
{
	unsigned char bytes[RELAY_REQUEST_SIZE];

	(void)state;
	for (unsigned flags = 0; flags < 4; flags++) {
		struct relay_request r = { flags & RELAY_FRAMED, flags & RELAY_OURS, 42, 512 };

		relay_encode_request(&r, bytes);
		assert_int_equal(bytes[10], flags);
		memset(&r, 0xff, sizeof r);
		assert_null(relay_decode_request(bytes, &r));
		assert_int_equal(r.framed, (flags & RELAY_FRAMED) != 0);
		assert_int_equal(r.ours, (flags & RELAY_OURS) != 0);
		assert_int_equal(r.target, 42);
		assert_int_equal(r.port, 512);
	}
}

static void every_request_can_be_read_back(void **state)
{
	struct random random = random_start();
	unsigned char bytes[RELAY_REQUEST_SIZE];

	(void)state;
	for (int i = 0; i < 10000; i++) {
		struct relay_request back, r = {
			random_below(&random, 2), random_below(&random, 2),
			(uint32_t)random_below(&random, UINT64_C(1) << 32),
			(uint32_t)random_below(&random, 65536),
		};

		relay_encode_request(&r, bytes);
		assert_null(relay_decode_request(bytes, &back));
		assert_int_equal(back.target, r.target);
		assert_int_equal(back.port, r.port);
		assert_int_equal(back.framed, r.framed);
		assert_int_equal(back.ours, r.ours);
	}
}

/* The request with one byte of it changed. */
static const char *what_is_wrong(unsigned at, unsigned char value)
{
	struct relay_request r = { false, false, 42, 512 }, got;
	unsigned char bytes[RELAY_REQUEST_SIZE];

	relay_encode_request(&r, bytes);
	bytes[at] = value;
	return relay_decode_request(bytes, &got);
}

static void what_is_no_request_is_refused(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 8; at++)
		assert_string_equal(what_is_wrong(at, 0), "no magic");
	assert_string_equal(what_is_wrong(8, 0), "another version");
	assert_string_equal(what_is_wrong(8, 2), "another version");
	assert_string_equal(what_is_wrong(9, 1), "another version");
	for (unsigned bit = 2; bit < 8; bit++)
		assert_string_equal(what_is_wrong(10, (unsigned char)(1 << bit)),
				    "unknown flags");
	assert_string_equal(what_is_wrong(11, 1), "unknown flags");
	assert_string_equal(what_is_wrong(18, 1), "a port beyond 65535");
	assert_string_equal(what_is_wrong(19, 0x80), "a port beyond 65535");
	for (unsigned at = 20; at < 24; at++)
		assert_string_equal(what_is_wrong(at, 1), "a field that is not zero");
}

static void an_answer_is_laid_out_as_documented(void **state)
{
	static const unsigned char expected[RELAY_ANSWER_SIZE] = {
		'v', 'c', 'h', '1', 'r', 'e', 'l', 'y', 1, 0, RELAY_DENIED, 0, 0, 0, 0, 0,
	};
	unsigned char bytes[RELAY_ANSWER_SIZE];

	(void)state;
	memset(bytes, 0xff, sizeof bytes);
	relay_encode_answer(RELAY_DENIED, bytes);
	assert_memory_equal(bytes, expected, sizeof bytes);
}

static void every_answer_can_be_read_back(void **state)
{
	unsigned char bytes[RELAY_ANSWER_SIZE];
	enum relay_status back;

	(void)state;
	for (unsigned status = RELAY_OK; status <= RELAY_SILENT; status++) {
		relay_encode_answer((enum relay_status)status, bytes);
		assert_null(relay_decode_answer(bytes, &back));
		assert_int_equal(back, status);
	}
}

static void what_is_no_answer_is_refused(void **state)
{
	unsigned char bytes[RELAY_ANSWER_SIZE];
	enum relay_status status;

	(void)state;
	relay_encode_answer(RELAY_OK, bytes);
	bytes[10] = RELAY_SILENT + 1;
	assert_string_equal(relay_decode_answer(bytes, &status), "an unknown status");
	bytes[8] = 2;
	assert_string_equal(relay_decode_answer(bytes, &status), "another version");
	bytes[0] = 'V';
	assert_string_equal(relay_decode_answer(bytes, &status), "no magic");
}

static void each_status_has_its_errno(void **state)
{
	(void)state;
	assert_int_equal(relay_errno(RELAY_OK), 0);
	assert_int_equal(relay_errno(RELAY_REFUSED), ECONNRESET);
	assert_int_equal(relay_errno(RELAY_BUSY), ECONNRESET);
	assert_int_equal(relay_errno(RELAY_NO_MACHINE), ENODEV);
	assert_int_equal(relay_errno(RELAY_DENIED), EACCES);
	assert_int_equal(relay_errno(RELAY_SILENT), ETIMEDOUT);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(a_request_is_laid_out_as_documented),
	cmocka_unit_test(each_flag_is_a_bit_of_its_own),
	cmocka_unit_test(every_request_can_be_read_back),
	cmocka_unit_test(what_is_no_request_is_refused),
	cmocka_unit_test(an_answer_is_laid_out_as_documented),
	cmocka_unit_test(every_answer_can_be_read_back),
	cmocka_unit_test(what_is_no_answer_is_refused),
	cmocka_unit_test(each_status_has_its_errno),
};

UNIT_MAIN(tests)
