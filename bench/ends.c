/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How ends of all kinds are opened; tools/traffic.c has what goes through them. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "bench.h"

#define LARGE_BUFFER (4u << 20) /* VCHAN_VSOCK_BUFFER_SIZE's default */

/* ---- plain sockets ---- */

static int open_socket(bool large)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t size = LARGE_BUFFER;

	if (fd >= 0 && large) {
		setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, sizeof size);
		setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size);
	}
	return fd;
}

static int close_keeping_errno(int fd)
{
	int err = errno;

	close(fd);
	errno = err;
	return -1;
}

int socket_listen(uint32_t *port, bool large)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY,
				 .svm_port = VMADDR_PORT_ANY };
	socklen_t len = sizeof a;
	int fd = open_socket(large);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return close_keeping_errno(fd);
	*port = a.svm_port;
	return fd;
}

int socket_connect(uint32_t cid, uint32_t port, bool large)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
	int fd = open_socket(large);

	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return close_keeping_errno(fd);
	return fd;
}

/* ---- any kind ---- */

static bool is_vchan(enum way way)
{
	return way == FRAMED || way == PLAIN;
}

static void choose_wire(enum way way)
{
	setenv("VCHAN_VSOCK_WIRE", way == PLAIN ? "plain" : "framed", 1);
}

int end_serve(struct end *e, const struct self *self, const struct order *o,
	      unsigned number, uint32_t *port)
{
	e->sock = -1;
	e->vchan = NULL;
	if (!is_vchan(o->way)) {
		e->sock = socket_listen(port, o->way == LARGE_SOCKET);
		return e->sock < 0 ? -1 : 0;
	}
	choose_wire(o->way);
	e->vchan = libvchan_server_init(self->domain, o->port + (int)number, RING, RING);
	return e->vchan ? 0 : -1;
}

int end_accept(struct end *e)
{
	int fd;

#ifdef SIMPLE
	/* Without a thread somebody has to do it before the client turns to the next. */
	while (e->vchan && libvchan_is_open(e->vchan) == VCHAN_WAITING)
		libvchan_wait(e->vchan);
#endif
	if (e->vchan)
		return 0;
	fd = accept4(e->sock, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return -1;
	close(e->sock);
	e->sock = fd;
	return 0;
}

int end_connect(struct end *e, const struct self *self, const struct order *o,
		unsigned number, uint32_t port)
{
	e->sock = -1;
	e->vchan = NULL;
	if (!is_vchan(o->way)) {
		e->sock = socket_connect(self->cid, port, o->way == LARGE_SOCKET);
		return e->sock < 0 ? -1 : 0;
	}
	choose_wire(o->way);
	e->vchan = libvchan_client_init(self->domain, o->port + (int)number);
	return e->vchan ? 0 : -1;
}
