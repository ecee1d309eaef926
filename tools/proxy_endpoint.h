/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the proxy listens and whither it connects, as the command line names it:
 *
 *   unix:PATH, unix:@NAME        a Unix stream socket, also of the abstract namespace
 *   tcp:HOST:PORT, tcp:[IPV6]:PORT
 *   vsock:CID:PORT               a number, "any", "local" or "host"
 *   vchan:DOMAIN:PORT            a number, or "host"
 */
#ifndef TOOLS_PROXY_ENDPOINT_H
#define TOOLS_PROXY_ENDPOINT_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define ENDPOINT_ADDRESSES 8 /* of one name */

enum endpoint_kind { ENDPOINT_UNIX, ENDPOINT_TCP, ENDPOINT_VSOCK, ENDPOINT_VCHAN };

struct endpoint {
	const char *text; /* as it was given */
	enum endpoint_kind kind;
	bool listens;
	char host[256];   /* of TCP: */
	char service[8];
	struct {
		struct sockaddr_storage at;
		socklen_t size;
	} addresses[ENDPOINT_ADDRESSES]; /* of a socket */
	unsigned count;
	int domain, port; /* of a vchan */
};

/* False: it was refused by name, as tool_usage does. */
bool endpoint_parse(const char *text, bool listens, struct endpoint *e);

/* Looks up the names, which may take its time.  False: said why. */
bool endpoint_resolve(struct endpoint *e);

/* A non-blocking socket that listens at the address `which`; -1 and errno.  A Unix
 * socket that nobody listens at is replaced; one where somebody does is EADDRINUSE, and
 * what is no such socket EEXIST.  mode: of that socket's file, -1: what umask leaves. */
int endpoint_listen(const struct endpoint *e, unsigned which, int mode);

/* A non-blocking socket; *pending: its connect is under way.  -1 and errno; EAGAIN: a
 * Unix socket's queue is full. */
int endpoint_connect(const struct endpoint *e, unsigned which, bool *pending);

/* Where a listening socket is indeed, as the command line would have it. */
const char *endpoint_name_of(int fd, const struct endpoint *e, char *text, size_t size);

/* The file of a Unix socket; NULL: it has none. */
const char *endpoint_file(const struct endpoint *e);

/* What is usual on a connection of this kind, for either side. */
void endpoint_tune(int fd, enum endpoint_kind kind);

#endif
