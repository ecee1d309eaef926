/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the two ends of `vchan-vsock bench` say to each other, over a vchan of their
 * own on PORT.  The driver gives orders, the server obeys.
 *
 *     driver             server
 *     hello   <------->  hello     both at once
 *     order    ------->
 *             <-------   ready     the channel to measure can be connected
 *             ( traffic over it, and its end )
 *             <-------   done
 *     ... the next order; the last is BENCH_BYE, which nothing answers.
 *
 * The channels that are measured have neighbouring ports, two of each kind, which a
 * set-up uses in turn; everything else uses the first:
 *     a vchan         the vchan ports PORT + 1 and PORT + 2
 *     a plain socket  the vsock ports that vchans on PORT + 3 and PORT + 4 would have
 *
 * Numbers are little-endian.  The first 16 bytes of a hello stay as they are in every
 * version, so that two versions can tell each other apart.
 *
 *     hello:  0  8  magic "vchbench"          order:  0  4  enum bench_what
 *             8  2  version, 1                        4  4  enum bench_way
 *            10  6  0                                 8  4  1: the server writes; or 0
 *            16 32  of vchan-vsock, text             12  4  bytes of a message
 *            48 80  of the kernel, text              16  4  messages
 *     text: A-Z a-z 0-9 . _ + - ~ :                  20 12  0
 *           and zeros to the end
 *                                            answer:  0  4  enum bench_answer
 *                                                     4  4  1: it went wrong; or 0
 *                                                     8  4  ready: the first vsock
 *                                                           port of a plain socket; or 0
 *                                                    12  4  0
 *
 * The other side is another security domain: each decode_ function looks at all bytes,
 * and returns NULL, or what is wrong with them.
 */
#ifndef TOOLS_BENCH_WIRE_H
#define TOOLS_BENCH_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#define BENCH_PORTS 4 /* above PORT */

#define BENCH_PREFIX_SIZE 16u
#define BENCH_HELLO_SIZE 128u
#define BENCH_ORDER_SIZE 32u
#define BENCH_ANSWER_SIZE 16u

#define BENCH_MOST_MESSAGES (1u << 26)

enum bench_what { BENCH_BYE, BENCH_TRIP, BENCH_STREAM, BENCH_QREXEC, BENCH_SETUP, BENCH_WHATS };

/* Over what the bytes go. */
enum bench_way { BENCH_VCHAN, BENCH_PLAIN, BENCH_WAYS };

enum bench_answer { BENCH_READY = 1, BENCH_DONE };

/* Who one is. */
struct bench_hello {
	char version[32 + 1]; /* of vchan-vsock */
	char kernel[80 + 1];
};

struct bench_order {
	enum bench_what what;
	enum bench_way way;
	bool inward;    /* the server writes */
	uint32_t size;  /* of a message, bytes */
	uint32_t count; /* messages, round trips, set-ups */
};

/* This machine's. */
void bench_own_hello(struct bench_hello *hello);

void bench_encode_hello(const struct bench_hello *hello, unsigned char bytes[BENCH_HELLO_SIZE]);
/* The first bytes of a hello tell whether the rest can be understood; the answer may be
 * overwritten by the next call. */
const char *bench_decode_prefix(const unsigned char bytes[BENCH_PREFIX_SIZE]);
const char *bench_decode_hello(const unsigned char bytes[BENCH_HELLO_SIZE],
			       struct bench_hello *hello);

void bench_encode_order(const struct bench_order *order, unsigned char bytes[BENCH_ORDER_SIZE]);
const char *bench_decode_order(const unsigned char bytes[BENCH_ORDER_SIZE],
			       struct bench_order *order);

void bench_encode_answer(enum bench_answer answer, bool failed, uint32_t port,
			 unsigned char bytes[BENCH_ANSWER_SIZE]);
const char *bench_decode_answer(const unsigned char bytes[BENCH_ANSWER_SIZE],
				enum bench_answer wanted, bool *failed, uint32_t *port);

#endif
