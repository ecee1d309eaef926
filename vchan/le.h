/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Little-endian numbers, as they are on the wire.
 */
#ifndef VCHAN_LE_H
#define VCHAN_LE_H

#include <stdint.h>

static inline void put16(unsigned char *to, uint16_t v)
{
	to[0] = (unsigned char)v;
	to[1] = (unsigned char)(v >> 8);
}

static inline void put32(unsigned char *to, uint32_t v)
{
	put16(to, (uint16_t)v);
	put16(to + 2, (uint16_t)(v >> 16));
}

static inline uint16_t get16(const unsigned char *from)
{
	return (uint16_t)(from[0] | from[1] << 8);
}

static inline uint32_t get32(const unsigned char *from)
{
	return get16(from) | (uint32_t)get16(from + 2) << 16;
}

#endif
