/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content that tells its own position, and dice: both follow from a seed, so two
 * programs that know it need not tell each other.
 */
#ifndef CONTENT_H
#define CONTENT_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* splitmix64 */
static inline uint64_t mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

struct dice {
    uint64_t seed, count;
};

static inline uint64_t roll(struct dice *dice, uint64_t sides)
{
    return mix(dice->seed + ++dice->count) % sides;
}

static inline unsigned char content_byte(uint64_t seed, uint64_t position)
{
    return (unsigned char)(mix(seed + position / 8) >> (8 * (position % 8)));
}

/* `size` bytes of content from `position` on. */
static inline void content_make(uint64_t seed, uint64_t position, unsigned char *data,
                                size_t size)
{
    uint64_t at = position, end = at + size;

    while (at < end && at % 8)
        *data++ = content_byte(seed, at++);
    for (; at + 8 <= end; at += 8, data += 8) {
        uint64_t word = htole64(mix(seed + at / 8));

        memcpy(data, &word, 8);
    }
    while (at < end)
        *data++ = content_byte(seed, at++);
}

/* Is it what content_make makes? */
static inline bool content_is(uint64_t seed, uint64_t position, const unsigned char *data,
                              size_t size)
{
    unsigned char expected[4096];

    while (size) {
        size_t n = size < sizeof expected ? size : sizeof expected;

        content_make(seed, position, expected, n);
        if (memcmp(data, expected, n) != 0)
            return false;
        position += n;
        data += n;
        size -= n;
    }
    return true;
}

#endif
