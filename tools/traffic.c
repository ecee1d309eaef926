/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "traffic.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct message {
	uint32_t type, length;
};

/* ---- plain sockets ---- */

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

/* ---- either kind ---- */

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

/* ---- what is measured ---- */

int traffic_greet(struct end *e, bool first)
{
	char byte = 'x';

	if (!first)
		return end_recv(e, &byte, 1) < 0 ? -1 : end_send(e, &byte, 1);
	return end_send(e, &byte, 1) < 0 ? -1 : end_recv(e, &byte, 1);
}

int traffic_round_trips(struct end *e, bool first, bool polled, void *buffer, size_t size,
			uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		if (first && end_write(e, buffer, size) < 0)
			return -1;
		if ((polled ? end_recv_polled : end_recv)(e, buffer, size) < 0)
			return -1;
		if (!first && end_write(e, buffer, size) < 0)
			return -1;
	}
	return 0;
}

int traffic_write(struct end *e, end_put *put, const void *buffer, size_t size, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (put(e, buffer, size) < 0)
			return -1;
	return 0;
}

int traffic_read(struct end *e, void *buffer, size_t size, uint64_t count)
{
	uint64_t left = size * count;

	while (left > 0) {
		ssize_t n = end_read(e, buffer, left < size ? left : size);

		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0)
			return -1;
		left -= (uint64_t)n;
	}
	return 0;
}

int traffic_write_messages(struct end *e, const void *buffer, size_t size, uint64_t count)
{
	uint64_t left = size * count;
	ssize_t n;

	do {
		n = end_send_message(e, buffer, left < size ? left : size);
		if (n < 0)
			return -1;
		left -= (uint64_t)n;
	} while (n > 0);
	return 0;
}

int traffic_read_messages(struct end *e, void *buffer, size_t size, uint64_t count)
{
	uint64_t left = size * count;
	ssize_t n;

	do {
		n = end_recv_message(e, buffer, left < size ? left : size);
		if (n < 0)
			return -1;
		left -= (uint64_t)n;
	} while (n > 0);
	if (left == 0)
		return 0;
	errno = EBADMSG;
	return -1;
}

/* Not where the kernel's buffers begin, too, in the lower bits of the address: then an
 * emulated processor copies several times slower, by chance (vchan/ring.c). */
char *traffic_buffer(void)
{
	static char space[TRAFFIC_LARGEST + (1 << 17)];
	uintptr_t at = ((uintptr_t)space + 0xffff) & ~(uintptr_t)0xffff;

	return (char *)at + (9 << 12);
}
