/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a stranger says first: vchan/frame.c, beside a reading of docs/wire.md that
 * shares nothing with it.  The input is a hello, or a part of one.
 */
#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "vchan/frame.h"

static uint32_t number_at(const uint8_t *bytes, unsigned at, unsigned size)
{
	uint32_t n = 0;

	while (size--)
		n = n * 256 + bytes[at + size];
	return n;
}

static bool is_ring(uint32_t size)
{
	for (unsigned bits = 12; bits <= 30; bits++)
		if (size == UINT32_C(1) << bits)
			return true;
	return false;
}

static void check_fields(const uint8_t *bytes, const struct hello *h)
{
	FUZZ_CHECK(h->version == number_at(bytes, 8, 2));
	FUZZ_CHECK(h->features == number_at(bytes, 12, 4));
	FUZZ_CHECK(h->read_ring == number_at(bytes, 16, 4));
	FUZZ_CHECK(h->write_ring == number_at(bytes, 20, 4));
	FUZZ_CHECK(h->window == number_at(bytes, 24, 4));
	FUZZ_CHECK(h->buffer == number_at(bytes, 28, 4));
}

/* The same bytes but for what is reserved. */
static void check_way_back(const uint8_t *bytes, const struct hello *h)
{
	uint8_t expected[HELLO_SIZE], *back = malloc(HELLO_SIZE);

	memcpy(expected, bytes, HELLO_SIZE);
	memset(expected + 10, 0, 2);
	hello_encode(h, back);
	FUZZ_CHECK(memcmp(back, expected, HELLO_SIZE) == 0);
	free(back);
}

/* Of a ring that a hello may name, the window: docs/wire.md's table. */
static void check_window(uint32_t ring)
{
	uint32_t least = 64 << 10, mib = 1 << 20;

	if (is_ring(ring))
		FUZZ_CHECK(frame_window(ring) == (ring >= least && ring < mib ? mib : ring));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Of its own, so that who reads too much is seen. */
	uint8_t *bytes = calloc(1, HELLO_SIZE);
	const char *wrong;
	struct hello h;
	bool rings;

	if (size)
		memcpy(bytes, data, size < HELLO_SIZE ? size : HELLO_SIZE);
	wrong = hello_decode(bytes, &h);
	FUZZ_CHECK(!wrong == (!memcmp(bytes, "vch1wire", 8) && (bytes[8] || bytes[9])));
	if (!wrong) {
		rings = is_ring(number_at(bytes, 16, 4)) && is_ring(number_at(bytes, 20, 4));
		check_fields(bytes, &h);
		check_way_back(bytes, &h);
		FUZZ_CHECK(!hello_check_rings(&h) == rings);
		check_window(h.read_ring);
	}
	free(bytes);
	return 0;
}
