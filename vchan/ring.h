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

/* 0, or -1 with EINVAL (over 2 * RING_MAX), EMFILE, ENFILE or ENOMEM. */
int ring_init(struct ring *r, size_t min);
/* Also of a ring that is all zero. */
void ring_free(struct ring *r);

size_t ring_fill(const struct ring *r); /* bytes to take out */
size_t ring_room(const struct ring *r); /* bytes that fit in */

/* The producer: write at most ring_room() bytes here, then say how many. */
char *ring_room_at(struct ring *r);
void ring_added(struct ring *r, size_t n);
/* Both in one: n must fit. */
void ring_put(struct ring *r, const void *data, size_t n);

/* The consumer: read at most ring_fill() bytes here, then say how many. */
const char *ring_fill_at(const struct ring *r);
void ring_taken(struct ring *r, size_t n);
/* Both in one: n must be there. */
void ring_get(struct ring *r, void *data, size_t n);

#endif
