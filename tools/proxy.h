/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The proxy, as its files share it: proxy.c runs it, pair.c is one connection, end.c one
 * side of that, endpoint.c an address.  One thread, which never blocks but in epoll; in a
 * round of its loop all events are noted first, then each connection that has some is run
 * for a bounded piece of work.
 */
#ifndef TOOLS_PROXY_H
#define TOOLS_PROXY_H

#include <sys/types.h>

#include "proxy_endpoint.h"
#include "proxy_pair.h"

/* After a shortage of fds or memory. */
#define PROXY_PAUSE (100 * CLOCK_MS)

struct listener {
	struct source source;
	struct proxy *proxy;
	int fd;             /* a socket; -1: none */
	libvchan_t *vchan;  /* the server for the next client; NULL: none */
	bool watched;       /* by epoll, for what comes */
	bool has_news;
};

/* Said of failures: the first at once, then once in a while how many there were. */
struct complaints {
	int64_t next_at;    /* ns; not before */
	unsigned held_back;
	char last[512];
};

struct proxy {
	/* Options. */
	struct endpoint from, to;
	uint64_t max;
	int64_t timeout, drain, linger; /* ns */
	int mode;
	bool once, verbose, no_half_close;

	int epoll;
	struct source signals;
	int signal_fd;
	struct listener listeners[ENDPOINT_ADDRESSES];
	unsigned listener_count;
	dev_t file_device;  /* of the Unix socket's file, if there is one */
	ino_t file_inode;
	bool has_file;

	struct pair *pairs;
	struct pair *ready, **ready_end; /* to be run */
	unsigned long count, total;      /* now, and ever */
	int64_t wake_at;    /* ns; no pair's is earlier */
	int64_t accept_at;  /* ns; 0: at any time */
	int64_t short_said; /* ns; when a shortage was mentioned last; 0: never */
	bool failed;        /* a connection has */
	bool stopping, at_once;
	int64_t stop_at;    /* ns */
	struct complaints complaints;
};

void proxy_make_ready(struct pair *p);
void proxy_wake_at(struct pair *p, int64_t at);
/* Fds or memory are short: nobody is let in for a moment. */
void proxy_is_short(struct proxy *proxy, int err);
void proxy_complain(struct proxy *proxy, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* With --verbose. */
void proxy_tell(const struct proxy *proxy, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
