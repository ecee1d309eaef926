/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay.h"

#include <errno.h>
#include <string.h>

#include "le.h"

#define VERSION 1u

static const unsigned char magic[8] = { 'v', 'c', 'h', '1', 'r', 'e', 'l', 'y' };

static void begin(unsigned char *bytes, size_t size)
{
	memset(bytes, 0, size);
	memcpy(bytes, magic, sizeof magic);
	put16(bytes + 8, VERSION);
}

static const char *check(const unsigned char *bytes)
{
	if (memcmp(bytes, magic, sizeof magic) != 0)
		return "no magic";
	return get16(bytes + 8) == VERSION ? NULL : "another version";
}

void relay_encode_request(const struct relay_request *r,
			  unsigned char bytes[RELAY_REQUEST_SIZE])
{
	begin(bytes, RELAY_REQUEST_SIZE);
	put16(bytes + 10, (uint16_t)((r->framed ? RELAY_FRAMED : 0) |
				     (r->ours ? RELAY_OURS : 0)));
	put32(bytes + 12, r->target);
	put32(bytes + 16, r->port);
}

const char *relay_decode_request(const unsigned char bytes[RELAY_REQUEST_SIZE],
				 struct relay_request *r)
{
	const char *why = check(bytes);
	unsigned flags = get16(bytes + 10);

	if (why)
		return why;
	if (flags & ~(RELAY_FRAMED | RELAY_OURS))
		return "unknown flags";
	if (get32(bytes + 20) != 0)
		return "a field that is not zero";
	r->framed = flags & RELAY_FRAMED;
	r->ours = flags & RELAY_OURS;
	r->target = get32(bytes + 12);
	r->port = get32(bytes + 16);
	return r->port < 65536 ? NULL : "a port beyond 65535";
}

void relay_encode_answer(enum relay_status status, unsigned char bytes[RELAY_ANSWER_SIZE])
{
	begin(bytes, RELAY_ANSWER_SIZE);
	put16(bytes + 10, (uint16_t)status);
}

const char *relay_decode_answer(const unsigned char bytes[RELAY_ANSWER_SIZE],
				enum relay_status *status)
{
	const char *why = check(bytes);
	unsigned value = get16(bytes + 10);

	if (why)
		return why;
	if (value > RELAY_SILENT)
		return "an unknown status";
	*status = (enum relay_status)value;
	return NULL;
}

int relay_errno(enum relay_status status)
{
	switch (status) {
	case RELAY_OK:
		return 0;
	case RELAY_NO_MACHINE:
		return ENODEV;
	case RELAY_DENIED:
		return EACCES;
	case RELAY_SILENT:
		return ETIMEDOUT;
	default: /* time may mend it */
		return ECONNRESET;
	}
}
