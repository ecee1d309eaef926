/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One side of a connection, a stream socket or a vchan, as the proxy sees it.  None of
 * these calls blocks.
 *
 * Both kinds tell of news once, by an edge: a socket through epoll's EPOLLET, a vchan by
 * its nature.  So an end remembers: `readable` and `writable` are set when there is news
 * and unset when a call has found nothing more to do.
 */
#ifndef TOOLS_PROXY_END_H
#define TOOLS_PROXY_END_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proxy_endpoint.h"
#include "libvchan.h"

/* What epoll's data points to. */
struct source {
	void (*ready)(struct source *source, uint32_t events);
};

struct pair;

struct end {
	struct source source;
	struct pair *pair;
	const struct endpoint *endpoint;
	int fd;                  /* to watch: a socket, or a vchan's; -1: none */
	libvchan_t *vchan;       /* NULL: it is a socket, or none */
	bool readable, writable;
	bool starved;            /* memory is short, and nobody will tell when it is not */
	bool ended;              /* nothing more will come from it */
	bool deaf;               /* nobody is there to read: the peer has closed */
	bool finished;           /* it was told that nothing more will follow */
	int error;               /* why it ended, if not in the usual way */
};

void proxy_end_take_socket(struct end *e, int fd);
void proxy_end_take_vchan(struct end *e, libvchan_t *vchan);
/* 0; -1 and errno. */
int proxy_end_watch(struct end *e, int epoll);

/* There is news: what epoll says of it. */
void proxy_end_notice(struct end *e, uint32_t events);

/* The bytes; 0: none now, or `ended`. */
size_t proxy_end_read(struct end *e, void *data, size_t size);
/* The bytes that it took; fewer: not writable now, starved, or -1: it never will be. */
ssize_t proxy_end_write(struct end *e, const void *data, size_t size);
/* Nothing more will be written.  A vchan cannot be told so. */
void proxy_end_finish(struct end *e);
/* Nobody will read what is written from now on. */
bool proxy_end_is_deaf(const struct end *e);
/* Does the other side, or its kernel, have all that was written? */
bool proxy_end_has_delivered(const struct end *e);
/* Also when there is nothing. */
void proxy_end_close(struct end *e, int epoll);

#endif
