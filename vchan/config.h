/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The environment, read at each init, strictly: a value is a decimal number
 * in its range (or one of a few words) and nothing else.
 */
#ifndef VCHAN_CONFIG_H
#define VCHAN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "log.h"

enum wire_choice { WIRE_AUTO, WIRE_FRAMED, WIRE_PLAIN };
enum relay_choice { RELAY_AUTO, RELAY_NEVER, RELAY_ALWAYS };

struct config {
	bool has_domain;
	uint32_t domain;             /* VCHAN_DOMAIN, if has_domain */
	uint32_t loopback;           /* VCHAN_VSOCK_LOOPBACK, 0 or 1 */
	uint32_t port_base;          /* VCHAN_VSOCK_PORT_BASE */
	uint32_t client_ring;        /* VCHAN_VSOCK_CLIENT_RING, bytes */
	uint32_t buffer_size;        /* VCHAN_VSOCK_BUFFER_SIZE, bytes */
	uint32_t linger_ms;          /* VCHAN_VSOCK_LINGER_MS */
	uint32_t boot_wait_ms;       /* VCHAN_VSOCK_BOOT_WAIT_MS */
	uint32_t connect_timeout_ms; /* VCHAN_VSOCK_CONNECT_TIMEOUT_MS, 0: none */
	uint32_t require_privileged; /* VCHAN_VSOCK_REQUIRE_PRIVILEGED, 0 or 1 */
	enum log_level log;          /* VCHAN_VSOCK_LOG */
	enum wire_choice wire;       /* VCHAN_VSOCK_WIRE */
	enum relay_choice relay;     /* VCHAN_VSOCK_RELAY */
	uint32_t relay_port;         /* unless it is RELAY_NEVER */
};

/* 0, or -1/EINVAL: then one line, in the name of `log`, names the variable.
 * log->level is set from the environment in either case. */
int config_read(struct config *c, struct log *log);

#endif
