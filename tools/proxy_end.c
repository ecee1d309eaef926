/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proxy_end.h"

#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vchan/vsock.h"
#include "vchan/wire.h"

void proxy_end_take_socket(struct end *e, int fd)
{
	e->fd = fd;
	e->readable = e->writable = true;
	endpoint_tune(fd, e->endpoint->kind);
}

void proxy_end_take_vchan(struct end *e, libvchan_t *vchan)
{
	e->vchan = vchan;
	e->fd = libvchan_fd_for_select(vchan);
	e->readable = e->writable = true;
	libvchan_set_blocking(vchan, false);
}

int proxy_end_watch(struct end *e, int epoll)
{
	struct epoll_event ev;

	memset(&ev, 0, sizeof ev);
	ev.data.ptr = &e->source;
	/* A vchan's fd has no edges of its own: libvchan_wait makes it quiet. */
	ev.events = e->vchan ? EPOLLIN : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
	return epoll_ctl(epoll, EPOLL_CTL_ADD, e->fd, &ev);
}

void proxy_end_notice(struct end *e, uint32_t events)
{
	if (e->vchan) {
		libvchan_wait(e->vchan);
		e->readable = e->writable = true;
		return;
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		e->readable = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		e->writable = true;
	if (events & (EPOLLHUP | EPOLLERR))
		e->deaf = true;
}

static void end_input(struct end *e, int err)
{
	e->ended = true;
	e->readable = false;
	e->error = err;
}

/* A peer that has closed altogether takes no bytes, not even none.  TCP does not know. */
static void look_whether_deaf(struct end *e)
{
	if (send(e->fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE)
		e->deaf = true;
}

static size_t read_vchan(struct end *e, void *data, size_t size)
{
	int n = libvchan_read(e->vchan, data, size);

	if (n > 0)
		return (size_t)n;
	e->readable = false;
	/* The usual end, and a death, of which it cannot be told. */
	if (n < 0)
		end_input(e, errno == ECONNRESET ? 0 : errno);
	return 0;
}

static size_t read_socket(struct end *e, void *data, size_t size)
{
	ssize_t n;

	do
		n = recv(e->fd, data, size, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return (size_t)n;
	if (n == 0) {
		end_input(e, 0);
		if (!e->finished)
			look_whether_deaf(e);
	} else if (errno == EAGAIN) {
		e->readable = false;
	} else if (vsock_is_short_of_memory(errno) && !vsock_has_ended(e->fd)) {
		e->starved = true;
	} else {
		end_input(e, errno);
	}
	return 0;
}

size_t proxy_end_read(struct end *e, void *data, size_t size)
{
	return e->vchan ? read_vchan(e, data, size) : read_socket(e, data, size);
}

static ssize_t write_socket(struct end *e, const void *data, size_t size)
{
	ssize_t n;

	do
		n = send(e->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && vsock_is_short_of_memory(errno)) {
		e->starved = true;
		return 0;
	}
	if (n < 0 && errno == EAGAIN)
		n = 0;
	if (n < (ssize_t)size)
		e->writable = false;
	return n;
}

ssize_t proxy_end_write(struct end *e, const void *data, size_t size)
{
	ssize_t n;

	if (!e->vchan)
		return write_socket(e, data, size);
	n = libvchan_write(e->vchan, data, size);
	if (n < (ssize_t)size)
		e->writable = false;
	return n;
}

void proxy_end_finish(struct end *e)
{
	if (!e->finished && !e->vchan)
		shutdown(e->fd, SHUT_WR);
	e->finished = true;
}

bool proxy_end_is_deaf(const struct end *e)
{
	if (e->vchan)
		return libvchan_is_open(e->vchan) == VCHAN_DISCONNECTED;
	return e->deaf;
}

bool proxy_end_has_delivered(const struct end *e)
{
	int left = 0;

	if (e->vchan)
		return !wire_unsent(e->vchan);
	/* Who does not know says nothing; then it is in the peer's kernel (vsock). */
	return ioctl(e->fd, SIOCOUTQ, &left) < 0 || left == 0;
}

void proxy_end_close(struct end *e, int epoll)
{
	if (e->fd >= 0)
		epoll_ctl(epoll, EPOLL_CTL_DEL, e->fd, NULL);
	if (e->vchan)
		libvchan_close(e->vchan);
	else if (e->fd >= 0)
		close(e->fd);
	e->vchan = NULL;
	e->fd = -1;
}
