/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "frame.h"

#include <string.h>

#include "le.h"
#include "ring.h"

#define RING_MIN 4096u
#define EXACT_BELOW (64u << 10)
#define WINDOW_LARGE (1u << 20)

/* Its fourth byte is a digit, so that as a frame's header it sets a bit that
 * has no meaning: a second hello never passes for a frame. */
static const unsigned char magic[8] = { 'v', 'c', 'h', '1', 'w', 'i', 'r', 'e' };

void hello_encode(const struct hello *h, unsigned char to[HELLO_SIZE])
{
	memcpy(to, magic, sizeof magic);
	put16(to + 8, h->version);
	put16(to + 10, 0);
	put32(to + 12, h->features);
	put32(to + 16, h->read_ring);
	put32(to + 20, h->write_ring);
	put32(to + 24, h->window);
	put32(to + 28, h->buffer);
}

const char *hello_decode(const unsigned char from[HELLO_SIZE], struct hello *h)
{
	if (memcmp(from, magic, sizeof magic) != 0)
		return "no magic";
	h->version = get16(from + 8);
	h->features = get32(from + 12);
	h->read_ring = get32(from + 16);
	h->write_ring = get32(from + 20);
	h->window = get32(from + 24);
	h->buffer = get32(from + 28);
	return h->version ? NULL : "version 0";
}

static bool is_ring(uint32_t size)
{
	return size >= RING_MIN && size <= RING_MAX && (size & (size - 1)) == 0;
}

const char *hello_check_rings(const struct hello *h)
{
	if (is_ring(h->read_ring) && is_ring(h->write_ring))
		return NULL;
	return "ring sizes that are no powers of two from 4 KiB to 1 GiB";
}

uint32_t frame_window(uint32_t ring)
{
	if (ring < EXACT_BELOW || ring > WINDOW_LARGE)
		return ring;
	return WINDOW_LARGE;
}
