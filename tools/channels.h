/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From vsock sockets back to channels, by the rules of vchan/address.h.  Pure.
 *
 * A socket of ours listens at the port of its channel, has been accepted there, or has
 * connected to it.  Which of the last two it is, its own CID tells: only what was
 * accepted has one.  And the client's CID, which is in the port, has to be that of the
 * machine at the client's end, so that other programs' ports, which are random, are
 * hardly ever taken for a channel's.
 *
 * In loopback mode the sockets between CID 1 and CID 1 are channels, otherwise all
 * others are.
 */
#ifndef TOOLS_CHANNELS_H
#define TOOLS_CHANNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "diag.h"

struct channel_rules {
	bool loopback;
	uint32_t port_base;
	uint32_t relay_port;
	uint32_t own_cid;    /* this machine's domain; 0: not known */
	uint32_t kernel_cid; /* as the kernel has it, which may be another; 0: not known */
};

enum channel_role {
	CHANNEL_SERVER,
	CHANNEL_CLIENT,
	CHANNEL_NONE, /* it is no channel of ours */
};

#define CHANNEL_UNKNOWN UINT32_MAX

/* What is open of a channel that waits, or the wire of one that is connected. */
#define CHANNEL_PLAIN 1u
#define CHANNEL_FRAMED 2u

struct channel {
	enum channel_role role;
	uint32_t server, client, port; /* CIDs; CHANNEL_UNKNOWN: cannot be known here */
	unsigned wires;
	bool relayed; /* a relay on the host is in between */
	struct diag_socket socket;
};

struct channel channel_of(const struct diag_socket *socket, const struct channel_rules *rules);

/* Are the two one server, which waits at two ports? */
bool channel_is_same_server(const struct channel *a, const struct channel *b);

/* For qsort: channels before others, by server, client, port, role, state. */
int channel_compare(const void *left, const void *right);

#endif
