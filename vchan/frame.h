/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The framed wire's format (docs/wire.md): a hello each way, then frames.  Pure
 * functions; all numbers are little-endian.
 */
#ifndef VCHAN_FRAME_H
#define VCHAN_FRAME_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "hot.h"

#define HELLO_SIZE 32
#define FRAME_HEADER 8
#define FRAME_LENGTH_MAX 0x0fffffffu /* bytes: the length's field */

#define WIRE_VERSION 1

struct hello {
	uint16_t version;
	uint32_t features;   /* bits; unknown ones are ignored */
	uint32_t read_ring;  /* bytes; a client says 0, it takes the server's */
	uint32_t write_ring;
	uint32_t window;     /* bytes that the sender of this takes in unread; 0: by the rule */
	uint32_t buffer;     /* bytes, the kernel's for this socket; 0: not known */
};

struct frame {
	uint32_t length; /* bytes of payload that follow */
	bool ask;        /* tell me when your program has read something */
	bool end;        /* nothing comes after this */
	bool count;      /* with ask: tell me now what you have taken in; without:
	                  * that is so much */
	uint32_t handed; /* payload that the sender's program has had, modulo 2^32;
	                  * with count: that the sender of this has taken in */
};

void hello_encode(const struct hello *h, unsigned char to[HELLO_SIZE]);
/* NULL, or what is wrong with it.  */
const char *hello_decode(const unsigned char from[HELLO_SIZE], struct hello *h);
/* A server's: both rings must be powers of two, 4 KiB to 1 GiB.  NULL, or
 * what is wrong. */
const char *hello_check_rings(const struct hello *h);

/* How much may be under way to a program that reads through a ring of this
 * size: the ring where programs take their clock from it (below 64 KiB), as on
 * Xen, and a MiB or more where only throughput matters. */
uint32_t frame_window(uint32_t ring);

/* ---- inline, as each message passes through them ---- */

#define FRAME_COUNT 0x10000000u
#define FRAME_ASK 0x40000000u
#define FRAME_END 0x80000000u

HOT void frame_encode(const struct frame *f, unsigned char to[FRAME_HEADER])
{
	const uint32_t words[2] = {
		htole32(f->length | (f->count ? FRAME_COUNT : 0) | (f->ask ? FRAME_ASK : 0) |
			(f->end ? FRAME_END : 0)),
		htole32(f->handed),
	};

	memcpy(to, words, sizeof words);
}

/* False: bits are set that have no meaning together. */
HOT bool frame_decode(const unsigned char from[FRAME_HEADER], struct frame *f)
{
	uint32_t words[2], rare;

	memcpy(words, from, sizeof words);
	words[0] = le32toh(words[0]);
	f->length = words[0] & FRAME_LENGTH_MAX;
	f->handed = le32toh(words[1]);
	f->ask = words[0] & FRAME_ASK;
	f->end = words[0] & FRAME_END;
	f->count = words[0] & FRAME_COUNT;
	rare = words[0] & ~(FRAME_LENGTH_MAX | FRAME_ASK);
	return !rare || (!f->length && (rare == FRAME_END || rare == FRAME_COUNT));
}

#endif
