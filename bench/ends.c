/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Channels of all kinds behind one set of calls, with as little between the
 * clock and what is measured as a branch. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "bench.h"

#define LARGE_BUFFER (4u << 20) /* VCHAN_VSOCK_BUFFER_SIZE's default */

struct message {
	uint32_t type, length;
};

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

int socket_send(int fd, const void *data, size_t size)
{
	const char *at = data;
	ssize_t n;

	while (size > 0) {
		n = send(fd, at, size, MSG_NOSIGNAL);
		if (n < 0)
			return -1;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

/* All of it; with `sleep` called before each recv, if that is given. */
static int socket_recv_after(int (*sleep)(int fd), int fd, void *data, size_t size)
{
	char *at = data;
	ssize_t n;

	while (size > 0) {
		if (sleep && sleep(fd) < 0)
			return -1;
		n = recv(fd, at, size, 0);
		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0)
			return -1;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

int socket_recv(int fd, void *data, size_t size)
{
	return socket_recv_after(NULL, fd, data, size);
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

void end_close(struct end *e)
{
	if (e->vchan)
		libvchan_close(e->vchan);
	else if (e->sock >= 0)
		close(e->sock);
	e->vchan = NULL;
	e->sock = -1;
}

int end_write(struct end *e, const void *data, size_t size)
{
	if (!e->vchan)
		return socket_send(e->sock, data, size);
	return libvchan_write(e->vchan, data, size) == (int)size ? 0 : -1;
}

int end_send(struct end *e, const void *data, size_t size)
{
	if (!e->vchan)
		return socket_send(e->sock, data, size);
	return libvchan_send(e->vchan, data, size) == (int)size ? 0 : -1;
}

int end_recv(struct end *e, void *data, size_t size)
{
	if (!e->vchan)
		return socket_recv(e->sock, data, size);
	return libvchan_recv(e->vchan, data, size) == (int)size ? 0 : -1;
}

ssize_t end_read(struct end *e, void *data, size_t size)
{
	int n;

	if (!e->vchan)
		return recv(e->sock, data, size, 0);
	n = libvchan_read(e->vchan, data, size);
	return n < 0 && errno == ECONNRESET ? 0 : n;
}

/* ---- as programs with a main loop do it ---- */

static int sleep_on(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, -1) < 0 ? -1 : 0;
}

/* Sleeps until something happens to the vchan. */
static int await_vchan(libvchan_t *v)
{
	if (sleep_on(libvchan_fd_for_select(v)) < 0)
		return -1;
	return libvchan_wait(v);
}

/* So many bytes are here. */
static int await_data(libvchan_t *v, int size)
{
	while (libvchan_data_ready(v) < size) {
		if (libvchan_is_open(v) != VCHAN_CONNECTED) {
			errno = ECONNRESET;
			return -1;
		}
		if (await_vchan(v) < 0)
			return -1;
	}
	return 0;
}

static int recv_polled_vchan(libvchan_t *v, char *at, size_t size)
{
	int n;

	while (size > 0) {
		if (await_data(v, 1) < 0)
			return -1;
		n = libvchan_read(v, at, size);
		if (n < 0)
			return -1;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

int end_recv_polled(struct end *e, void *data, size_t size)
{
	if (e->vchan)
		return recv_polled_vchan(e->vchan, data, size);
	return socket_recv_after(sleep_on, e->sock, data, size);
}

static ssize_t send_message_over_vchan(libvchan_t *v, const void *data, size_t size)
{
	struct message m = { 1, 0 };
	int room;

	while ((room = libvchan_buffer_space(v)) <= (int)sizeof m) {
		if (libvchan_is_open(v) != VCHAN_CONNECTED) {
			errno = EPIPE;
			return -1;
		}
		if (await_vchan(v) < 0)
			return -1;
	}
	m.length = (uint32_t)room - (uint32_t)sizeof m;
	if (m.length > size)
		m.length = (uint32_t)size;
	if (libvchan_send(v, &m, sizeof m) != (int)sizeof m ||
	    libvchan_send(v, data, m.length) != (int)m.length)
		return -1;
	return m.length;
}

static ssize_t send_message_over_socket(int fd, const void *data, size_t size)
{
	struct message m = { 1, (uint32_t)size };
	struct iovec pieces[2] = { { &m, sizeof m }, { (void *)(uintptr_t)data, size } };
	struct msghdr h = { .msg_iov = pieces, .msg_iovlen = 2 };
	ssize_t n = sendmsg(fd, &h, MSG_NOSIGNAL);

	if (n < (ssize_t)sizeof m)
		return -1;
	n -= (ssize_t)sizeof m;
	if (socket_send(fd, (const char *)data + n, size - (size_t)n) < 0)
		return -1;
	return (ssize_t)size;
}

ssize_t end_send_message(struct end *e, const void *data, size_t size)
{
	if (e->vchan)
		return send_message_over_vchan(e->vchan, data, size);
	return send_message_over_socket(e->sock, data, size);
}

ssize_t end_recv_message(struct end *e, void *data, size_t size)
{
	struct message m;
	int n;

	if (e->vchan ? await_data(e->vchan, sizeof m) : sleep_on(e->sock))
		return -1;
	if (end_recv(e, &m, sizeof m) < 0)
		return -1;
	if (m.length > size) {
		errno = EBADMSG;
		return -1;
	}
	if (!e->vchan)
		return socket_recv(e->sock, data, m.length) < 0 ? -1 : (ssize_t)m.length;
	for (uint32_t done = 0; done < m.length; done += (uint32_t)n) {
		n = libvchan_read(e->vchan, (char *)data + done, m.length - done);
		if (n < 0)
			return -1;
	}
	return m.length;
}
