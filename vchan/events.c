/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "events.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fd.h"

#define SOCKET_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

enum member { EVENTFD, SOCKET, DRIVER, MEMBERS };

static int control(struct events *e, int op, int fd, uint32_t mask, enum member which)
{
	struct epoll_event ev;

	memset(&ev, 0, sizeof ev);
	ev.events = mask;
	ev.data.u32 = which;
	return epoll_ctl(e->epoll, op, fd, &ev);
}

int events_open(struct events *e)
{
	e->raised = false;
	e->eventfd = fd_above_standard(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (e->eventfd < 0)
		return -1;
	e->epoll = fd_above_standard(epoll_create1(EPOLL_CLOEXEC));
	if (e->epoll < 0)
		return -1;
	return control(e, EPOLL_CTL_ADD, e->eventfd, EPOLLIN, EVENTFD);
}

void events_close(struct events *e)
{
	if (e->epoll >= 0)
		close(e->epoll);
	if (e->eventfd >= 0)
		close(e->eventfd);
	e->epoll = e->eventfd = -1;
}

static int meaning(const struct epoll_event *ev)
{
	switch (ev->data.u32) {
	case EVENTFD:
		return EVENTS_RAISED;
	case DRIVER:
		return EVENTS_DRIVER;
	default:
		return (ev->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) ?
			EVENTS_INPUT | EVENTS_END : EVENTS_INPUT;
	}
}

int events_wait(struct events *e, bool at_once)
{
	struct epoll_event ev[MEMBERS];
	int n, seen = 0;

	do
		n = epoll_wait(e->epoll, ev, MEMBERS, at_once ? 0 : -1);
	while (n < 0 && errno == EINTR && !at_once);
	for (int i = 0; i < n; i++)
		seen |= meaning(&ev[i]);
	return seen;
}

void events_lock(struct events *e)
{
	pthread_mutex_lock(&e->lock);
}

bool events_trylock(struct events *e)
{
	return pthread_mutex_trylock(&e->lock) == 0;
}

void events_unlock(struct events *e)
{
	pthread_mutex_unlock(&e->lock);
}

void events_raise(struct events *e)
{
	uint64_t one = 1;

	if (e->raised)
		return;
	e->raised = true;
	if (write(e->eventfd, &one, sizeof one) < 0) {
		/* It counts to 2^64: full means readable, which is the aim. */
	}
}

void events_clear(struct events *e)
{
	uint64_t count;

	if (!e->raised)
		return;
	e->raised = false;
	if (read(e->eventfd, &count, sizeof count) < 0) {
		/* EAGAIN: nothing there, which is the aim. */
	}
}

int events_add_driver(struct events *e, int fd)
{
	return control(e, EPOLL_CTL_ADD, fd, EPOLLIN, DRIVER);
}

int events_add_socket(struct events *e, int fd)
{
	return control(e, EPOLL_CTL_ADD, fd, SOCKET_EVENTS, SOCKET);
}

int events_rearm_socket(struct events *e, int fd)
{
	return control(e, EPOLL_CTL_MOD, fd, SOCKET_EVENTS, SOCKET);
}

void events_drop_socket(struct events *e, int fd)
{
	epoll_ctl(e->epoll, EPOLL_CTL_DEL, fd, NULL);
}
