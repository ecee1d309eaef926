/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a guest asks the relay on its host for a channel to another guest.
 *
 * It connects to RELAY_PORT of CID 2 and says a request; the relay answers, and
 * when the answer is RELAY_OK, all bytes that follow are the channel's, in both
 * directions.  The relay has then connected to the vsock port that stands for
 * (target, source, port) in the target, from a port below 1024, as root on the
 * host may.  Who the source is the kernel says, not the request.
 *
 * Numbers are little-endian.
 *
 *   request: 0  8  magic "vch1rely"        answer: 0  8  magic "vch1rely"
 *            8  2  version, 1                      8  2  version, 1
 *           10  2  RELAY_FRAMED, RELAY_OURS       10  2  RELAY_OK, ...
 *           12  4  target, a CID                  12  4  0
 *           16  4  vchan port
 *           20  4  0
 */
#ifndef VCHAN_RELAY_H
#define VCHAN_RELAY_H

#include <stdbool.h>
#include <stdint.h>

/* Privileged; no connection of ours comes from it. */
#define RELAY_PORT 768u
#define RELAY_PORT_MAX 2147483647u

#define RELAY_REQUEST_SIZE 24u
#define RELAY_ANSWER_SIZE 16u

/* Where the relay's connections come from.  Of each there is one at a time on a host.
 * A source whose own port was below 1024 has the first ones, which a server that
 * requires that can tell from the others. */
#define RELAY_PRIVILEGED_FROM 1u
#define RELAY_PRIVILEGED_TO 255u
#define RELAY_FROM 256u
#define RELAY_TO 1023u

#define RELAY_FRAMED 1u /* to the framed port */
#define RELAY_OURS 2u   /* to the plain port, by a client that will try framed, too */

enum relay_status {
	RELAY_OK,
	RELAY_REFUSED,    /* nobody serves that, now */
	RELAY_NO_MACHINE, /* there is no such guest, now */
	RELAY_DENIED,     /* by the policy */
	RELAY_BUSY,       /* too many, of this source or of all */
	RELAY_SILENT,     /* the guest does not answer; it may be booting */
};

struct relay_request {
	bool framed, ours;
	uint32_t target; /* CID */
	uint32_t port;   /* the vchan's, below 65536 */
};

void relay_encode_request(const struct relay_request *r,
			  unsigned char bytes[RELAY_REQUEST_SIZE]);
/* NULL, or what is wrong with it. */
const char *relay_decode_request(const unsigned char bytes[RELAY_REQUEST_SIZE],
				 struct relay_request *r);

void relay_encode_answer(enum relay_status status, unsigned char bytes[RELAY_ANSWER_SIZE]);
/* NULL, or what is wrong with it. */
const char *relay_decode_answer(const unsigned char bytes[RELAY_ANSWER_SIZE],
				enum relay_status *status);

/* The errno that an answer means to a client; 0 for RELAY_OK. */
int relay_errno(enum relay_status status);

#endif
