/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_channel.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream_peer.h"
#include "stream_stop.h"
#include "tool.h"
#include "vchan/address.h"
#include "vchan/config.h"
#include "vchan/vsock.h"

/* ---- the environment ---- */

/* A variable of the library's that is another one for the time of one call: what
 * --exec starts has the user's. */
struct variable {
	const char *name;
	char *before; /* NULL: it was not set */
};

static struct variable set(const char *name, const char *value)
{
	const char *before = getenv(name);
	struct variable v = { name, before ? strdup(before) : NULL };

	setenv(name, value, 1);
	return v;
}

static void set_back(struct variable *v)
{
	if (v->before)
		setenv(v->name, v->before, 1);
	else
		unsetenv(v->name);
	free(v->before);
}

static struct variable hush(void)
{
	const char *asked = getenv("VCHAN_VSOCK_LOG");

	return set("VCHAN_VSOCK_LOG", asked ? asked : "none");
}

bool channel_check(const struct channel_address *a, bool server)
{
	struct log log = { LOG_ERROR, "" };
	uint32_t peer = address_cid((uint32_t)a->domain), own, vsock_port;
	struct config config;
	const char *why;

	(void)snprintf(log.name, sizeof log.name, "%s", tool_command->name);
	if (config_read(&config, &log) < 0)
		return false;
	if (config.has_domain)
		own = address_cid(config.domain);
	else if (vsock_local_cid(&own) < 0)
		return true; /* the library may do without, or says what is missing */
	if (address_port(config.loopback, config.port_base, server ? own : peer,
			 server ? peer : own, (uint32_t)a->port, &vsock_port, &why) == 0)
		return true;
	tool_failed("%s (domain %d, port %d, here domain %" PRIu32 ")", why, a->domain, a->port,
		    own);
	return false;
}

/* ---- waiting for the peer ---- */

/* False: a signal has come. */
static bool sleep_on(int fd, int stop_fd)
{
	struct pollfd fds[2] = { { fd, POLLIN, 0 }, { stop_fd, POLLIN, 0 } };

	poll(fds, 2, -1);
	if (fds[1].revents)
		stop_clear();
	return stop_signal() == 0;
}

static libvchan_t *give_up(libvchan_t *vchan)
{
	libvchan_close(vchan);
	return NULL;
}

/* False: a signal has come. */
static bool await_client(libvchan_t *vchan, int stop_fd)
{
	int event = libvchan_fd_for_select(vchan);

	while (libvchan_is_open(vchan) == VCHAN_WAITING) {
		if (!sleep_on(event, stop_fd))
			return false;
		/* It blocks if that was not for the channel. */
		if (poll(&(struct pollfd){ event, POLLIN, 0 }, 1, 0) > 0)
			libvchan_wait(vchan);
	}
	return true;
}

static libvchan_t *begin_to_serve(const struct channel_address *a, size_t read_ring,
				  size_t write_ring)
{
	struct variable log = hush();
	libvchan_t *vchan = libvchan_server_init(a->domain, a->port, read_ring, write_ring);
	int err = errno;

	set_back(&log);
	if (!vchan) {
		tool_failed("cannot serve port %d to domain %d: %s", a->port, a->domain,
			    tool_reason(err));
		return NULL;
	}
	libvchan_set_blocking(vchan, false);
	return vchan;
}

libvchan_t *channel_serve(const struct channel_address *a, size_t read_ring,
			  size_t write_ring, int stop_fd)
{
	libvchan_t *vchan;

	while ((vchan = begin_to_serve(a, read_ring, write_ring)) != NULL) {
		if (!await_client(vchan, stop_fd))
			return give_up(vchan);
		if (peer_was_there(vchan))
			break;
		/* The client's machine has gone, and may come again. */
		libvchan_close(vchan);
	}
	return vchan;
}

static libvchan_t *not_connected(libvchan_t *vchan, const struct channel_address *a, int err)
{
	tool_failed("cannot connect to port %d of domain %d: %s", a->port, a->domain,
		    tool_reason(err));
	return give_up(vchan);
}

static libvchan_t *begin_to_connect(const struct channel_address *a, int64_t timeout_ms,
				    int *watch_fd)
{
	struct variable log = hush(), timeout = { NULL, NULL };
	libvchan_t *vchan;
	char ms[24];
	int err;

	if (timeout_ms >= 0) {
		(void)snprintf(ms, sizeof ms, "%" PRId64, timeout_ms);
		timeout = set("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", ms);
	}
	vchan = libvchan_client_init_async(a->domain, a->port, watch_fd);
	err = errno;
	if (timeout.name)
		set_back(&timeout);
	set_back(&log);
	errno = err;
	return vchan;
}

libvchan_t *channel_connect(const struct channel_address *a, int64_t timeout_ms, int stop_fd)
{
	int watch_fd = -1, not_yet;
	libvchan_t *vchan = begin_to_connect(a, timeout_ms, &watch_fd);

	if (!vchan)
		return not_connected(NULL, a, errno);
	while ((not_yet = libvchan_client_init_async_finish(vchan, false)) > 0)
		if (!sleep_on(watch_fd, stop_fd))
			return give_up(vchan);
	return not_yet < 0 ? not_connected(vchan, a, errno) : vchan;
}
