/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Notification: the one fd that a program sleeps on.
 *
 * It is an epoll fd with members.  The connected socket, edge-triggered, once
 * the program has shown that it sleeps on the fd (each arrival costs more then):
 * each arrival of data, and the end, make the epoll fd readable with nobody's
 * help, until they are harvested.  And an eventfd for all else: connected,
 * room, disconnected, data that is unread although no new edge will tell of
 * it.  An eventfd cannot fill up as a pipe does.
 *
 * What one must know about an epoll fd: it looks at its members again when it
 * is polled.  Data that somebody has taken from the socket makes the edge
 * vanish, which is right when a reader got it and wrong when it lies in the
 * read ring.  Whoever moves data into the ring and leaves it there therefore
 * raises the eventfd (tests/model/events.pml).
 *
 * Where the caller drives the connection a third member tells of work for it.
 *
 * The lock makes "the connection ended" one event: who sees it first, the
 * thread or a caller, sets the state, takes the socket out and raises, or
 * clears, in one step.  A caller may be interrupted for good while it holds
 * the lock (a signal handler that calls exit()), so the thread never waits
 * for it without looking whether the handle is being closed: events_trylock.
 */
#ifndef VCHAN_EVENTS_H
#define VCHAN_EVENTS_H

#include <pthread.h>
#include <stdbool.h>

struct events {
	int epoll, eventfd; /* -1: none */
	pthread_mutex_t lock;
	bool raised; /* the eventfd is readable; under the lock */
};

/* What events_wait found. */
#define EVENTS_INPUT 1 /* an edge: the socket has data, or its end */
#define EVENTS_END 2   /* the peer is gone or goes; with EVENTS_INPUT */
#define EVENTS_RAISED 4
#define EVENTS_DRIVER 8 /* there is work for the driver, if that is the caller */

/* Open the two fds.  -1 and errno: events_close is still to be called. */
int events_open(struct events *e);
void events_close(struct events *e);

/* Block for an event, or, with at_once, only look; harvests the edge. */
int events_wait(struct events *e, bool at_once);

void events_lock(struct events *e);
bool events_trylock(struct events *e);
void events_unlock(struct events *e);

/* Under the lock. */
void events_raise(struct events *e);
void events_clear(struct events *e);
/* Once: an fd that is readable when the driver has work. */
int events_add_driver(struct events *e, int fd);
int events_add_socket(struct events *e, int fd);
void events_drop_socket(struct events *e, int fd);
/* An edge if there is something now.  -1: the socket is not there. */
int events_rearm_socket(struct events *e, int fd);

#endif
