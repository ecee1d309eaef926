/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server's and a client's set-up share. */
#include "setup_parts.h"

#include <errno.h>

#include "driver.h"
#include "life.h"
#include "vsock.h"
#include "wire.h"

uint32_t setup_port_of(const libvchan_t *h, enum wire_kind kind)
{
	return kind == FRAMED ? h->port | FRAMED_PORT : h->port;
}

/* ---- fds ---- */

int setup_open_socket(libvchan_t *h, int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	*fd = vsock_socket(h->config.buffer_size);
	life_leave(&saved);
	return *fd < 0 ? -1 : 0;
}

void setup_let_go(libvchan_t *h, int *fd)
{
	driver_forget(h, *fd);
	life_close(fd);
}

void setup_close_socket(libvchan_t *h, int *fd)
{
	sigset_t saved;

	life_enter(&saved);
	setup_let_go(h, fd);
	life_leave(&saved);
}

void setup_close(libvchan_t *h)
{
	/* Whose framed attempt fails looks at his plain connection. */
	setup_let_go(h, &h->plain);
	setup_let_go(h, &h->listeners[PLAIN]);
	setup_let_go(h, &h->listeners[FRAMED]);
	setup_let_go(h, &h->attempt);
	for (int i = 0; i < CANDIDATES; i++)
		setup_let_go(h, &h->candidates[i].fd);
}

bool setup_has_visitor(const libvchan_t *h)
{
	for (int i = 0; i < CANDIDATES; i++)
		if (h->candidates[i].fd >= 0)
			return true;
	return h->plain >= 0;
}

void setup_close_all(libvchan_t *h)
{
	sigset_t saved;

	life_enter(&saved);
	setup_close(h);
	life_leave(&saved);
}

void setup_choose(libvchan_t *h, int *fd)
{
	sigset_t saved;
	int sock = *fd;

	life_enter(&saved);
	*fd = -1;
	h->sock = sock;
	setup_close(h);
	life_leave(&saved);
	conn_established(h, sock);
}

/* ---- hello ---- */

int setup_say_hello(libvchan_t *h, int fd)
{
	struct hello hello = { WIRE_VERSION, 0, 0, 0, 0, vsock_buffer(fd) };
	unsigned char bytes[HELLO_SIZE];
	ssize_t n;

	if (h->server) {
		hello.read_ring = (uint32_t)h->in_size;
		hello.write_ring = (uint32_t)h->out_size;
		hello.window = frame_window(hello.read_ring);
	}
	hello_encode(&hello, bytes);
	/* A socket that is new has room for it. */
	for (size_t done = 0; done < sizeof bytes; done += (size_t)n) {
		n = vsock_send(fd, bytes + done, sizeof bytes - done, false);
		if (n < 0)
			return -1;
	}
	return 0;
}

void setup_become_candidate(struct candidate *c, int fd)
{
	c->fd = fd;
	c->heard = 0;
	c->until = clock_now() + HELLO_WAIT;
}

enum heard setup_hear(struct candidate *c, const char **why)
{
	ssize_t n = vsock_recv(c->fd, c->hello + c->heard, HELLO_SIZE - c->heard, false);

	if (n > 0)
		c->heard += (unsigned)n;
	if (c->heard == HELLO_SIZE)
		return ALL;
	if (n == 0 || (n < 0 && !vsock_will_go_again(errno))) {
		*why = "it left before its hello";
		return NOTHING;
	}
	if (clock_now() >= c->until) {
		*why = "no hello came";
		return NOTHING;
	}
	return SOME;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a && a < b ? a : b; /* 0: not known */
}

void setup_be_framed(libvchan_t *h, int fd, const struct hello *peer)
{
	/* Of the ring that was said: a client's own may have been rounded up to a page. */
	uint32_t rule = frame_window(h->server ? (uint32_t)h->out_size : peer->read_ring);

	wire_be_framed(h, smaller(peer->window, rule),
		       smaller(peer->buffer, smaller(vsock_buffer(fd), h->config.buffer_size)));
}
