/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ring of bytes: pure data, no fds and no locks.
 *
 * The memory is mapped twice in a row, so that the content and the room are
 * each one contiguous piece.  The counters run free and are masked; when the
 * ring is found empty the producer starts again at the first byte, so that
 * small traffic stays in the processor's cache.
 *
 * One producer and one consumer may work at the same time.  All counters are
 * sequentially consistent: "I am about to wait" flags beside the ring are set
 * and the counter is read again, and neither may overtake the other.
 */
#ifndef VCHAN_RING_H
#define VCHAN_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "hot.h"

#define RING_MAX ((size_t)1 << 30) /* bytes that a program may ask for */

struct ring {
	char *base;              /* 2 * size bytes of address space */
	size_t size;             /* a power of two, at least a page */
	_Atomic uint64_t put;    /* bytes ever put in: the producer's */
	_Atomic uint64_t got;    /* bytes ever taken out: the consumer's */
	_Atomic uint64_t origin; /* the counter that lies at base: the producer's */
};

/* The size of a ring for `min` bytes; 0 when that is over 2 * RING_MAX. */
size_t ring_size_for(size_t min);

/* 0, or -1 with EINVAL (over 2 * RING_MAX) or ENOMEM; under valgrind, which takes an
 * fd for a moment, also EMFILE or ENFILE. */
int ring_init(struct ring *r, size_t min);
/* Also of a ring that is all zero. */
void ring_free(struct ring *r);

/* The C library copies more than this by the processor's string instructions, which
 * are many times slower than its loops where the processor is emulated. */
#define RING_COPY_MOST ((size_t)4096)

HOT void ring_copy(char *to, const char *from, size_t n)
{
	for (; n > RING_COPY_MOST; n -= RING_COPY_MOST) {
		memcpy(to, from, RING_COPY_MOST);
		to += RING_COPY_MOST;
		from += RING_COPY_MOST;
	}
	memcpy(to, from, n);
}

/* ---- inline, as each byte passes through them ---- */

/* Bytes to take out. */
HOT size_t ring_fill(const struct ring *r)
{
	/* Take `got` first: `put` only grows, so the difference never wraps
	 * below 0; a consumer meanwhile makes it too large by what it took. */
	uint64_t got = atomic_load(&r->got);
	uint64_t fill = atomic_load(&r->put) - got;

	return fill > r->size ? r->size : (size_t)fill;
}

/* Bytes that fit in. */
HOT size_t ring_room(const struct ring *r)
{
	return r->size - ring_fill(r);
}

HOT size_t ring_place(const struct ring *r, uint64_t counter)
{
	return (size_t)(counter - atomic_load(&r->origin)) & (r->size - 1);
}

/* The producer: write at most ring_room() bytes here, then say how many. */
HOT char *ring_room_at(struct ring *r)
{
	uint64_t put = atomic_load(&r->put);

	/* Empty: the consumer holds no pointer into it, so it can move. */
	if (atomic_load(&r->got) == put && atomic_load(&r->origin) != put)
		atomic_store(&r->origin, put);
	return r->base + ring_place(r, put);
}

HOT void ring_added(struct ring *r, size_t n)
{
	atomic_fetch_add(&r->put, n);
}

/* The consumer: read at most ring_fill() bytes here, then say how many. */
HOT const char *ring_fill_at(const struct ring *r)
{
	return r->base + ring_place(r, atomic_load(&r->got));
}

HOT void ring_taken(struct ring *r, size_t n)
{
	atomic_fetch_add(&r->got, n);
}

/* Both in one: n bytes must fit, or be there. */
HOT void ring_put(struct ring *r, const void *data, size_t n)
{
	ring_copy(ring_room_at(r), data, n);
	ring_added(r, n);
}

HOT void ring_get(struct ring *r, void *data, size_t n)
{
	ring_copy(data, ring_fill_at(r), n);
	ring_taken(r, n);
}

#endif
