/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random numbers that a seed repeats; it must not be 0. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 7;
	r->state ^= r->state << 17;
	return r->state;
}

/* From 0 to limit - 1. */
static inline uint64_t random_below(struct random *r, uint64_t limit)
{
	return random_next(r) % limit;
}

/* Sizes of every order of magnitude up to `most` are equally likely. */
static inline size_t random_size(struct random *r, size_t most)
{
	unsigned bits = 0;
	size_t size;

	while (most >> bits)
		bits++;
	size = (size_t)(random_next(r) & ((UINT64_C(1) << random_below(r, bits + 1)) - 1));
	return size > most ? most : size;
}

#endif
