/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a guest says to the relay, or a relay to a guest: vchan/relay.c, beside a
 * reading of its header that shares nothing with it.  The input is a request, and its
 * beginning an answer.
 */
#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "vchan/relay.h"

static uint32_t number_at(const uint8_t *bytes, unsigned at, unsigned size)
{
	uint32_t n = 0;

	while (size--)
		n = n * 256 + bytes[at + size];
	return n;
}

static bool begins_well(const uint8_t *bytes)
{
	return memcmp(bytes, "vch1rely\1", 10) == 0;
}

static void try_request(const uint8_t *bytes)
{
	uint8_t *back = malloc(RELAY_REQUEST_SIZE);
	struct relay_request r;
	bool good = begins_well(bytes) && number_at(bytes, 10, 2) < 4 &&
		    number_at(bytes, 16, 4) <= 65535 && number_at(bytes, 20, 4) == 0;

	FUZZ_CHECK(!relay_decode_request(bytes, &r) == good);
	if (good) {
		FUZZ_CHECK(r.target == number_at(bytes, 12, 4));
		FUZZ_CHECK(r.port == number_at(bytes, 16, 4));
		relay_encode_request(&r, back);
		FUZZ_CHECK(memcmp(back, bytes, RELAY_REQUEST_SIZE) == 0);
	}
	free(back);
}

/* What is reserved in it is ignored. */
static void try_answer(const uint8_t *bytes)
{
	uint8_t *back = malloc(RELAY_ANSWER_SIZE);
	enum relay_status status;
	bool good = begins_well(bytes) && number_at(bytes, 10, 2) <= 5;

	FUZZ_CHECK(!relay_decode_answer(bytes, &status) == good);
	if (good) {
		relay_encode_answer(status, back);
		FUZZ_CHECK(memcmp(back, bytes, 12) == 0);
		FUZZ_CHECK(number_at(back, 12, 4) == 0);
		FUZZ_CHECK(!relay_errno(status) == (status == RELAY_OK));
	}
	free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Of their own, so that who reads too much is seen. */
	uint8_t *request = calloc(1, RELAY_REQUEST_SIZE), *answer = malloc(RELAY_ANSWER_SIZE);

	if (size)
		memcpy(request, data, size < RELAY_REQUEST_SIZE ? size : RELAY_REQUEST_SIZE);
	memcpy(answer, request, RELAY_ANSWER_SIZE);
	try_request(request);
	try_answer(answer);
	free(answer);
	free(request);
	return 0;
}
