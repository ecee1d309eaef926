/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls that make a handle and that end it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "address.h"
#include "clock.h"
#include "conn.h"
#include "driver.h"
#include "handle.h"
#include "life.h"
#include "setup.h"
#include "vsock.h"
#include "wire.h"

#define EXPORT __attribute__((visibility("default")))

/* The last step of every init that fails: frees all that there is. */
static libvchan_t *discard(libvchan_t *h)
{
	int err = errno;

	life_remove(h);
	handle_free(h);
	errno = err;
	return NULL;
}

static int ask_kernel(uint32_t *cid)
{
	sigset_t saved;
	int ret;

	life_enter(&saved); /* it opens an fd for a moment */
	ret = vsock_local_cid(cid);
	life_leave(&saved);
	return ret;
}

static int own_domain(libvchan_t *h, uint32_t *cid)
{
	if (h->config.has_domain) {
		*cid = address_cid(h->config.domain);
		return 0;
	}
	if (ask_kernel(cid) == 0)
		return 0;
	/* Between machines a server's own CID is not part of its address. */
	if (h->server && !h->config.loopback)
		return 0;
	log_error(&h->log, "VCHAN_DOMAIN is not set and /dev/vsock does not tell: %s",
		  log_reason(errno).text);
	return -1;
}

/* Who is who, and the port between them. */
static int find_address(libvchan_t *h, uint32_t peer, uint32_t port)
{
	bool loopback = h->config.loopback;
	uint32_t own = 0;
	const char *why;
	int ret;

	if (own_domain(h, &own) < 0)
		return -1;
	ret = address_port(loopback, h->config.port_base, h->server ? own : peer,
			   h->server ? peer : own, port, &h->port, &why);
	if (ret < 0) {
		log_error(&h->log, "%s: %s", why, log_reason(ERANGE).text);
		errno = ERANGE;
		return -1;
	}
	h->peer_cid = loopback ? CID_LOCAL : peer;
	/* A client in the same machine may be seen with either of its CIDs. */
	if (h->server && !loopback && own == peer)
		h->own_cid = own;
	h->between_guests = !loopback && own > CID_HOST && peer > CID_HOST && own != peer &&
			    h->config.relay != RELAY_NEVER;
	h->vchan_port = port;
	return 0;
}

static int configure(libvchan_t *h, const char *call, int domain, int port)
{
	(void)snprintf(h->log.name, sizeof h->log.name, "%s(domain %d, port %d)", call,
		       domain, port);
	if (config_read(&h->config, &h->log) < 0)
		return -1;
	if (domain < 0 || port < 0) {
		log_error(&h->log, "the %s must not be negative: %s",
			  domain < 0 ? "domain" : "port", log_reason(EINVAL).text);
		errno = EINVAL;
		return -1;
	}
	return find_address(h, address_cid((uint32_t)domain), (uint32_t)port);
}

static int open_rings(libvchan_t *h, size_t read_min, size_t write_min)
{
	sigset_t saved;
	int ret;

	life_enter(&saved); /* it may open an fd for a moment */
	ret = handle_open_rings(h, read_min, write_min);
	life_leave(&saved);
	if (ret < 0)
		log_error(&h->log, "rings of %zu and %zu bytes (at most %zu): %s", read_min,
			  write_min, RING_MAX, log_reason(errno).text);
	return ret;
}

static int open_events(libvchan_t *h)
{
	sigset_t saved;
	int ret;

	life_enter(&saved);
	ret = events_open(&h->events);
	life_leave(&saved);
	if (ret < 0)
		log_error(&h->log, "epoll fd or eventfd: %s", log_reason(errno).text);
	return ret;
}

static int open_inside(libvchan_t *h, size_t read_min, size_t write_min)
{
	if (open_rings(h, read_min, write_min) < 0 || open_events(h) < 0)
		return -1;
	if (driver_open(h) == 0)
		return 0;
	log_error(&h->log, "the fds to sleep on: %s", log_reason(errno).text);
	return -1;
}

/* A handle with all but its socket and its driver. */
static libvchan_t *prepare(bool server, const char *call, int domain, int port)
{
	libvchan_t *h = handle_new();

	if (!h)
		return NULL;
	h->server = server;
	atomic_store(&h->state, server ? WAITING : CONNECTING);
	if (life_add(h) < 0) {
		handle_free(h);
		errno = ENOMEM;
		return NULL;
	}
	return configure(h, call, domain, port) < 0 ? discard(h) : h;
}

static libvchan_t *start(libvchan_t *h)
{
	if (driver_start(h) < 0) {
		log_error(&h->log, "connection thread: %s", log_reason(errno).text);
		return discard(h);
	}
	return h;
}

EXPORT libvchan_t *libvchan_server_init(int domain, int port, size_t read_min,
					size_t write_min)
{
	libvchan_t *h = prepare(true, "libvchan_server_init", domain, port);
	uint32_t vsock_port = 0;

	if (!h)
		return NULL;
	atomic_store(&h->finished, true);
	if (open_inside(h, read_min, write_min) < 0)
		return discard(h);
	if (setup_listen(h, &vsock_port) < 0) {
		log_error(&h->log, "vsock port %u: %s", vsock_port, log_reason(errno).text);
		return discard(h);
	}
	log_debug(&h->log, "listening on vsock port %u", h->port);
	return start(h);
}

libvchan_t *handle_adopt(int sock, size_t read_min, size_t write_min, bool framed)
{
	libvchan_t *h = prepare(true, "adopted", 0, 0);

	if (!h)
		return NULL;
	atomic_store(&h->finished, true);
	if (open_inside(h, read_min, write_min) < 0)
		return discard(h);
	if (framed)
		wire_be_framed(h, frame_window((uint32_t)h->out_size), h->config.buffer_size);
	conn_established(h, sock);
	return start(h);
}

/* A handle that wants to be driven. */
static libvchan_t *prepare_client(const char *call, int domain, int port)
{
	libvchan_t *h = prepare(false, call, domain, port);

	if (!h)
		return NULL;
	if (open_inside(h, h->config.client_ring, h->config.client_ring) < 0)
		return discard(h);
	if (setup_prepare(h) < 0) {
		log_error(&h->log, "vsock socket: %s", log_reason(errno).text);
		return discard(h);
	}
	return h;
}

EXPORT libvchan_t *libvchan_client_init_async(int domain, int port, EVTCHN *watch_fd)
{
	libvchan_t *h;

	if (!watch_fd) {
		errno = EINVAL;
		return NULL;
	}
	h = prepare_client("libvchan_client_init_async", domain, port);
	if (h)
		conn_use_fd(h);
	if (!h || !start(h))
		return NULL;
	*watch_fd = h->events.epoll;
	return h;
}

static int finish(libvchan_t *h)
{
	switch (handle_state(h)) {
	case CONNECTING:
		return 1;
	case FAILED:
		if (!atomic_exchange(&h->finished, true))
			log_error(&h->log, "vsock CID %u port %u: %s", h->peer_cid,
				  h->port, log_reason(h->error).text);
		errno = h->error;
		return -1;
	default:
		atomic_store(&h->finished, true);
		return 0;
	}
}

EXPORT int libvchan_client_init_async_finish(libvchan_t *h, bool blocking)
{
	int ret;

	if (!h || h->server) {
		errno = EINVAL;
		return -1;
	}
	driver_help(h);
	if (atomic_load(&h->orphan)) {
		errno = EPIPE;
		return -1;
	}
	ret = finish(h);
	if (ret == 0)
		libvchan_set_blocking(h, blocking);
	return ret;
}

EXPORT libvchan_t *libvchan_client_init(int domain, int port)
{
	libvchan_t *h = prepare_client("libvchan_client_init", domain, port);

	if (!h)
		return NULL;
	/* Nobody has to be woken for each step when we take them ourselves. */
	driver_connect(h);
	return finish(h) == 0 ? start(h) : discard(h);
}

EXPORT void libvchan_close(libvchan_t *h)
{
	int err = errno;

	if (!h)
		return;
	if (!atomic_load(&h->orphan)) {
		/* exit() in a signal handler may have stopped a close below us. */
		if (atomic_load(&h->closing))
			return;
		h->linger_until = clock_now() + h->config.linger_ms * CLOCK_MS;
		driver_stop(h);
		life_remove(h);
	}
	handle_free(h);
	errno = err;
}
