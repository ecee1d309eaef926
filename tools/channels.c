/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "channels.h"

#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "vchan/address.h"
#include "vchan/relay.h"

/* The server's domain, where it is this machine's. */
static uint32_t own_domain(const struct channel_rules *rules)
{
	return rules->own_cid ? rules->own_cid : CHANNEL_UNKNOWN;
}

/* Fills in what a vsock port says, whichever wire's it is. */
static bool take_parts(struct channel *c, uint32_t vsock_port, const struct channel_rules *rules)
{
	c->wires = vsock_port < FRAMED_PORT ? CHANNEL_PLAIN : CHANNEL_FRAMED;
	/* CID 0 is nobody's. */
	return address_parts(rules->loopback, rules->port_base, vsock_port % FRAMED_PORT,
			     &c->server, &c->client, &c->port) &&
	       c->client && c->server;
}

static bool is_own(uint32_t cid, const struct channel_rules *rules)
{
	return cid && (cid == rules->own_cid || cid == rules->kernel_cid);
}

/* Connections of a relay, which a host has to its guests for others of them. */
static bool is_from_relay(uint32_t from)
{
	return from >= RELAY_PRIVILEGED_FROM && from <= RELAY_TO;
}

static bool try_listener(struct channel *c, const struct channel_rules *rules)
{
	const struct diag_socket *s = &c->socket;

	if (rules->loopback != (s->cid == CID_LOCAL))
		return false;
	c->server = own_domain(rules);
	return take_parts(c, s->port, rules);
}

static bool try_accepted(struct channel *c, const struct channel_rules *rules)
{
	const struct diag_socket *s = &c->socket;

	c->server = s->cid == CID_LOCAL ? own_domain(rules) : s->cid;
	if (!take_parts(c, s->port, rules))
		return false;
	if (rules->loopback)
		return s->cid == CID_LOCAL && s->peer_cid == CID_LOCAL;
	/* From this machine it may come with either CID. */
	if (c->client == s->peer_cid || (s->peer_cid == CID_LOCAL && is_own(c->client, rules)))
		return true;
	c->relayed = s->peer_cid == CID_HOST && c->client > CID_HOST && is_from_relay(s->peer_port);
	return c->relayed;
}

/* This machine's CID, as who has that CID sees it. */
static bool is_client_of(uint32_t client, uint32_t server, const struct channel_rules *rules)
{
	return is_own(client, rules) || (server > CID_HOST && client == CID_HOST);
}

static bool try_connected(struct channel *c, const struct channel_rules *rules)
{
	const struct diag_socket *s = &c->socket;

	c->server = s->peer_cid == CID_LOCAL ? own_domain(rules) : s->peer_cid;
	if (!take_parts(c, s->peer_port, rules))
		return false;
	if (rules->loopback)
		return s->peer_cid == CID_LOCAL;
	if (is_client_of(c->client, c->server, rules))
		return true;
	c->relayed = c->server > CID_HOST && c->client > CID_HOST && is_from_relay(s->port);
	return c->relayed;
}

/* Between a guest and the relay on its host: who the other guest is, only they know. */
static bool try_relay(struct channel *c, const struct channel_rules *rules)
{
	const struct diag_socket *s = &c->socket;
	bool asks = s->peer_cid == CID_HOST && s->peer_port == rules->relay_port;
	bool serves = s->port == rules->relay_port && s->peer_cid > CID_HOST;

	if (rules->loopback || asks == serves)
		return false;
	c->relayed = true;
	c->role = asks ? CHANNEL_CLIENT : CHANNEL_SERVER;
	c->client = asks ? own_domain(rules) : s->peer_cid;
	c->server = c->port = CHANNEL_UNKNOWN;
	c->wires = 0;
	return true;
}

static bool try_pair(struct channel *c, const struct channel_rules *rules)
{
	bool accepted = c->socket.cid != VMADDR_CID_ANY;

	if (try_relay(c, rules))
		return true;
	c->role = CHANNEL_SERVER;
	if (accepted && try_accepted(c, rules))
		return true;
	c->role = CHANNEL_CLIENT;
	c->relayed = false;
	return try_connected(c, rules);
}

struct channel channel_of(const struct diag_socket *socket, const struct channel_rules *rules)
{
	const struct channel none = {
		CHANNEL_NONE, CHANNEL_UNKNOWN, CHANNEL_UNKNOWN, CHANNEL_UNKNOWN, 0, false, *socket,
	};
	struct channel c = none;
	bool found = false;

	c.role = CHANNEL_SERVER;
	/* What no process has is in a listener's queue, or on its way out. */
	if (socket->type != SOCK_STREAM || !socket->inode)
		return none;
	if (socket->state == DIAG_LISTENING)
		found = try_listener(&c, rules);
	else if (socket->peer_cid != VMADDR_CID_ANY)
		found = try_pair(&c, rules);
	return found ? c : none;
}

static bool is_same_address(const struct channel *a, const struct channel *b)
{
	return a->server == b->server && a->client == b->client && a->port == b->port;
}

bool channel_is_same_server(const struct channel *a, const struct channel *b)
{
	return a->role == CHANNEL_SERVER && b->role == CHANNEL_SERVER &&
	       a->socket.state == DIAG_LISTENING && b->socket.state == DIAG_LISTENING &&
	       is_same_address(a, b) && a->wires != b->wires;
}

static int order(uint32_t a, uint32_t b)
{
	return (a > b) - (a < b);
}

int channel_compare(const void *left, const void *right)
{
	const struct channel *a = left, *b = right;
	const uint32_t keys[][2] = {
		{ a->role == CHANNEL_NONE, b->role == CHANNEL_NONE },
		{ a->server, b->server },
		{ a->client, b->client },
		{ a->port, b->port },
		{ (uint32_t)a->role, (uint32_t)b->role },
		{ a->socket.state, b->socket.state },
		{ a->wires, b->wires },
		{ a->socket.port, b->socket.port },
		{ a->socket.peer_port, b->socket.peer_port },
		{ a->socket.inode, b->socket.inode },
	};

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (order(keys[i][0], keys[i][1]) != 0)
			return order(keys[i][0], keys[i][1]);
	return 0;
}
