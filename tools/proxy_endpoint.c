/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proxy_endpoint.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "tool.h"
#include "vchan/address.h"
#include "vchan/config.h"
#include "vchan/vsock.h"

/* A TCP peer that closes looks like one that only ends its sending.  When its kernel has
 * forgotten it (after a minute) these are answered with a reset. */
#define KEEPALIVE_IDLE 60  /* s */
#define KEEPALIVE_EVERY 15 /* s */
#define KEEPALIVE_COUNT 4

/* ---- parsing ---- */

static const char *role(const struct endpoint *e)
{
	return e->listens ? "LISTEN" : "CONNECT";
}

static bool refuse(const struct endpoint *e, const char *why)
{
	tool_usage("%s: \"%s\": %s", role(e), e->text, why);
	return false;
}

/* The number is all of text[0..length), and at most `most`. */
static bool parse_number(const char *text, size_t length, uint64_t most, uint64_t *number)
{
	*number = 0;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		*number = *number * 10 + (uint64_t)(text[i] - '0');
		if (*number > most)
			return false;
	}
	return length > 0;
}

static bool parse_unix(const char *path, struct endpoint *e)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&e->addresses[0].at;
	size_t length = strlen(path);

	if (length == 0 || strcmp(path, "@") == 0)
		return refuse(e, "the path is missing: unix:PATH or unix:@NAME");
	if (length >= sizeof un->sun_path)
		return refuse(e, "the path is too long: a Unix socket's has at most 107 bytes");
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, length);
	if (*path == '@')
		un->sun_path[0] = '\0';
	else
		length++;
	e->addresses[0].size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	e->count = 1;
	return true;
}

static bool parse_tcp(const char *text, struct endpoint *e)
{
	const char *colon = strrchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : 0; /* of the host */
	bool bracketed = length > 2 && text[0] == '[' && text[length - 1] == ']';
	uint64_t port;

	if (bracketed) {
		text++;
		length -= 2;
	}
	if (length == 0 || length >= sizeof e->host ||
	    (!bracketed && memchr(text, ':', length)))
		return refuse(e, "it is not tcp:HOST:PORT or tcp:[IPV6]:PORT");
	if (!parse_number(colon + 1, strlen(colon + 1), UINT16_MAX, &port) ||
	    (port == 0 && !e->listens))
		return refuse(e, "the port is not a number from 1 to 65535");
	memcpy(e->host, text, length);
	e->host[length] = '\0';
	(void)snprintf(e->service, sizeof e->service, "%u", (unsigned)port);
	return true;
}

static bool parse_cid(const char *text, size_t length, unsigned *cid)
{
	static const struct {
		const char *name;
		unsigned cid;
	} words[] = {
		{ "any", VMADDR_CID_ANY }, { "local", CID_LOCAL }, { "host", CID_HOST },
	};
	uint64_t number;

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		if (strlen(words[i].name) == length &&
		    strncmp(text, words[i].name, length) == 0) {
			*cid = words[i].cid;
			return true;
		}
	}
	if (!parse_number(text, length, VMADDR_CID_ANY - 1, &number))
		return false;
	*cid = (unsigned)number;
	return true;
}

static bool parse_vsock(const char *text, struct endpoint *e)
{
	struct sockaddr_vm *vm = (struct sockaddr_vm *)&e->addresses[0].at;
	const char *colon = strchr(text, ':');
	uint64_t port;

	if (!colon || !parse_cid(text, (size_t)(colon - text), &vm->svm_cid))
		return refuse(e, "it is not vsock:CID:PORT with a number, any, local or host as CID");
	if (vm->svm_cid == VMADDR_CID_ANY && !e->listens)
		return refuse(e, "\"any\" is no machine to connect to");
	if (!parse_number(colon + 1, strlen(colon + 1), VMADDR_PORT_ANY - 1, &port))
		return refuse(e, "the port is not a number from 0 to 4294967294");
	vm->svm_family = AF_VSOCK;
	vm->svm_port = (unsigned)port;
	e->addresses[0].size = sizeof *vm;
	e->count = 1;
	return true;
}

static bool parse_vchan(const char *text, struct endpoint *e)
{
	const char *colon = strchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : 0;
	uint64_t domain = 0, port;

	if (!colon || (!(length == 4 && strncmp(text, "host", 4) == 0) &&
		       !parse_number(text, length, INT32_MAX, &domain)))
		return refuse(e, "it is not vchan:DOMAIN:PORT with a CID or \"host\" as domain");
	if (!parse_number(colon + 1, strlen(colon + 1), UINT16_MAX, &port))
		return refuse(e, "the port is not a number from 0 to 65535");
	e->domain = (int)domain;
	e->port = (int)port;
	return true;
}

bool endpoint_parse(const char *text, bool listens, struct endpoint *e)
{
	static const struct {
		const char *prefix;
		enum endpoint_kind kind;
		bool (*parse)(const char *text, struct endpoint *e);
	} kinds[] = {
		{ "unix:", ENDPOINT_UNIX, parse_unix },
		{ "tcp:", ENDPOINT_TCP, parse_tcp },
		{ "vsock:", ENDPOINT_VSOCK, parse_vsock },
		{ "vchan:", ENDPOINT_VCHAN, parse_vchan },
	};

	memset(e, 0, sizeof *e);
	e->text = text;
	e->listens = listens;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		size_t length = strlen(kinds[i].prefix);

		if (strncmp(text, kinds[i].prefix, length) != 0)
			continue;
		e->kind = kinds[i].kind;
		return kinds[i].parse(text + length, e);
	}
	return refuse(e, "it begins with none of unix:, tcp:, vsock: and vchan:");
}

bool endpoint_resolve(struct endpoint *e)
{
	struct addrinfo hints, *found, *a;
	bool any = e->listens && strcmp(e->host, "*") == 0;
	int err;

	if (e->kind != ENDPOINT_TCP)
		return true;
	memset(&hints, 0, sizeof hints);
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICSERV | (any ? AI_PASSIVE : 0);
	err = getaddrinfo(any ? NULL : e->host, e->service, &hints, &found);
	if (err) {
		tool_failed("%s: cannot look up \"%s\": %s", e->text, e->host,
			    err == EAI_SYSTEM ? strerror(errno) : gai_strerror(err));
		return false;
	}
	for (a = found; a && e->count < ENDPOINT_ADDRESSES; a = a->ai_next) {
		memcpy(&e->addresses[e->count].at, a->ai_addr, a->ai_addrlen);
		e->addresses[e->count++].size = a->ai_addrlen;
	}
	freeaddrinfo(found);
	return true;
}

/* ---- sockets ---- */

static const struct sockaddr *address(const struct endpoint *e, unsigned which)
{
	return (const struct sockaddr *)&e->addresses[which].at;
}

static int close_failed(int fd)
{
	int err = errno;

	close(fd);
	errno = err;
	return -1;
}

static int new_socket(const struct endpoint *e, unsigned which)
{
	struct config config;
	struct log log = { LOG_NONE, "" };

	if (e->kind == ENDPOINT_VSOCK)
		return config_read(&config, &log) < 0 ? -1 : vsock_socket(config.buffer_size);
	return socket(address(e, which)->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
		      0);
}

const char *endpoint_file(const struct endpoint *e)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&e->addresses[0].at;

	return e->kind == ENDPOINT_UNIX && un->sun_path[0] ? un->sun_path : NULL;
}

static int bind_file(int fd, const struct endpoint *e, int mode)
{
	/* Never open to more than will be allowed, not even for a moment. */
	mode_t saved = mode < 0 ? 0 : umask(~(mode_t)mode & 0777);
	int ret = bind(fd, address(e, 0), e->addresses[0].size);
	int err = errno;

	if (mode >= 0)
		umask(saved);
	errno = err;
	return ret;
}

/* 0: nobody listens at this socket, and it is gone. */
static int remove_stale(const struct endpoint *e)
{
	const char *path = endpoint_file(e);
	bool pending, is_stale;
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -1;
	if (!S_ISSOCK(st.st_mode)) {
		errno = EEXIST;
		return -1;
	}
	fd = endpoint_connect(e, 0, &pending);
	is_stale = fd < 0 && errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	if (!is_stale) {
		errno = EADDRINUSE;
		return -1;
	}
	return unlink(path);
}

static int bind_unix(int fd, const struct endpoint *e, int mode)
{
	if (bind_file(fd, e, mode) == 0)
		return 0;
	if (errno != EADDRINUSE || !endpoint_file(e) || remove_stale(e) < 0)
		return -1;
	return bind_file(fd, e, mode);
}

static int bind_tcp(int fd, const struct endpoint *e, unsigned which)
{
	int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	/* IPv4 has an address of its own among the name's. */
	if (address(e, which)->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	return bind(fd, address(e, which), e->addresses[which].size);
}

int endpoint_listen(const struct endpoint *e, unsigned which, int mode)
{
	int fd = new_socket(e, which), ret;

	if (fd < 0)
		return -1;
	if (e->kind == ENDPOINT_UNIX)
		ret = bind_unix(fd, e, mode);
	else if (e->kind == ENDPOINT_TCP)
		ret = bind_tcp(fd, e, which);
	else
		ret = bind(fd, address(e, which), e->addresses[which].size);
	if (ret < 0 || listen(fd, SOMAXCONN) < 0)
		return close_failed(fd);
	return fd;
}

int endpoint_connect(const struct endpoint *e, unsigned which, bool *pending)
{
	int fd = new_socket(e, which);

	*pending = false;
	if (fd < 0)
		return -1;
	if (connect(fd, address(e, which), e->addresses[which].size) == 0)
		return fd;
	if (errno != EINPROGRESS)
		return close_failed(fd);
	*pending = true;
	return fd;
}

const char *endpoint_name_of(int fd, const struct endpoint *e, char *text, size_t size)
{
	struct sockaddr_storage at;
	socklen_t length = sizeof at;
	char host[64], port[8];

	if (e->kind != ENDPOINT_TCP || getsockname(fd, (struct sockaddr *)&at, &length) < 0 ||
	    getnameinfo((struct sockaddr *)&at, length, host, sizeof host, port, sizeof port,
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return e->text;
	(void)snprintf(text, size, at.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
		       port);
	return text;
}

void endpoint_tune(int fd, enum endpoint_kind kind)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 }, /* what comes together was sent together */
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE },
		{ IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EVERY },
		{ IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT },
	};

	if (kind != ENDPOINT_TCP)
		return;
	for (size_t i = 0; i < sizeof options / sizeof *options; i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			   sizeof options[i].value);
}
