/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay's process: one thread, one epoll set, no end but by a signal.
 *
 *   SIGHUP           reads the policy again; channels stay.  A bad one: the old one stays
 *   SIGTERM, SIGINT  lets nobody in, and waits for the channels, for `drain`; twice: at once
 */
#ifndef TOOLS_RELAY_DAEMON_H
#define TOOLS_RELAY_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "relay_limits.h"

struct relay_options {
	const char *policy;
	uint32_t port, drain_s;
	struct limits limits;
	bool json;
};

/* The exit status. */
int relay_daemon(const struct relay_options *options);

#endif
