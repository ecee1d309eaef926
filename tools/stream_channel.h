/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel for a command: made, waited for, and each failure said in one line.  The
 * library's own lines are left out, unless VCHAN_VSOCK_LOG asks for them.
 */
#ifndef TOOLS_STREAM_CHANNEL_H
#define TOOLS_STREAM_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libvchan.h"

struct channel_address {
	int domain; /* the peer's */
	int port;
};

/* The environment parses, and the address is one.  False: said why. */
bool channel_check(const struct channel_address *a, bool server);
/* They return when the peer is there, or has been; NULL: failed, as was said, or
 * stop_signal() says which signal has come.  Non-blocking. */
libvchan_t *channel_serve(const struct channel_address *a, size_t read_ring,
			  size_t write_ring, int stop_fd);
/* timeout_ms -1: what the environment says. */
libvchan_t *channel_connect(const struct channel_address *a, int64_t timeout_ms, int stop_fd);

#endif
