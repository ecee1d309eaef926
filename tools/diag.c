/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dump is a request, and datagrams with any number of messages each, up to one that
 * says that it is done.  When sockets came or went meanwhile the kernel may say so in
 * each message; then all of it is asked for again.
 */
#include "diag.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/vm_sockets_diag.h>

#define TRIES 10
#define PATIENCE_MS 5000
/* The kernel makes datagrams of up to 32 KiB, when it is offered that much. */
#define DATAGRAM 65536

void diag_free(struct diag_sockets *list)
{
	free(list->sockets);
	memset(list, 0, sizeof *list);
}

/* ---- an answer ---- */

static int add(struct diag_sockets *list, const struct vsock_diag_msg *m)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		void *bigger = reallocarray(list->sockets, room, sizeof *list->sockets);

		if (!bigger)
			return -1;
		list->sockets = bigger;
		list->room = room;
	}
	list->sockets[list->count++] = (struct diag_socket){
		m->vdiag_type, m->vdiag_state, m->vdiag_src_cid, m->vdiag_src_port,
		m->vdiag_dst_cid, m->vdiag_dst_port, m->vdiag_ino,
	};
	return 0;
}

/* A dump that ends has a status behind its header, an error begins with one: 0 or less
 * than that. */
static enum diag_progress read_status(const char *payload, size_t size, bool wanted, int *err)
{
	int status = 0;

	if (size >= sizeof status)
		memcpy(&status, payload, sizeof status);
	else if (wanted)
		return DIAG_MALFORMED;
	if (status < 0) {
		*err = -status;
		return DIAG_REFUSED;
	}
	return DIAG_DONE;
}

static enum diag_progress read_socket(const char *payload, size_t size,
				      struct diag_sockets *list, int *err)
{
	struct vsock_diag_msg m;

	/* Newer kernels may say more than we know of, but not less. */
	if (size < sizeof m)
		return DIAG_MALFORMED;
	memcpy(&m, payload, sizeof m);
	if (m.vdiag_family != AF_VSOCK || add(list, &m) == 0)
		return DIAG_MORE;
	*err = ENOMEM;
	return DIAG_REFUSED;
}

static enum diag_progress read_message(const struct nlmsghdr *header, const char *payload,
				       struct diag_sockets *list, int *err)
{
	size_t size = header->nlmsg_len - NLMSG_HDRLEN;

	switch (header->nlmsg_type) {
	case NLMSG_DONE:
		return read_status(payload, size, false, err);
	case NLMSG_ERROR:
		return read_status(payload, size, true, err);
	case NLMSG_OVERRUN:
		return DIAG_INTERRUPTED;
	case SOCK_DIAG_BY_FAMILY:
		return read_socket(payload, size, list, err);
	default:
		return DIAG_MORE;
	}
}

enum diag_progress diag_parse(const void *data, size_t size, uint32_t sequence,
			      struct diag_sockets *list, int *err)
{
	const char *at = data;
	enum diag_progress progress = DIAG_MORE;
	bool interrupted = false;

	while (size > 0 && progress == DIAG_MORE) {
		struct nlmsghdr header;
		size_t step;

		if (size < NLMSG_HDRLEN)
			return DIAG_MALFORMED;
		memcpy(&header, at, sizeof header);
		if (header.nlmsg_len < NLMSG_HDRLEN || header.nlmsg_len > size)
			return DIAG_MALFORMED;
		/* Others are left over from a request that was given up. */
		if (header.nlmsg_seq == sequence) {
			interrupted |= (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
			progress = read_message(&header, at + NLMSG_HDRLEN, list, err);
		}
		step = NLMSG_ALIGN(header.nlmsg_len);
		step = step < size ? step : size;
		at += step;
		size -= step;
	}
	return interrupted && (progress == DIAG_MORE || progress == DIAG_DONE) ?
		DIAG_INTERRUPTED : progress;
}

/* ---- asking ---- */

static int open_netlink(void)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	int err;

	/* Connected, it hears nobody but the kernel. */
	if (fd < 0 || connect(fd, (struct sockaddr *)&kernel, sizeof kernel) == 0)
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

static int ask(int fd, uint32_t sequence)
{
	struct {
		struct nlmsghdr header;
		struct vsock_diag_req request;
	} message = {
		{ sizeof message, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0 },
		{ .sdiag_family = AF_VSOCK, .vdiag_states = UINT32_MAX },
	};
	ssize_t n;

	do
		n = send(fd, &message, sizeof message, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -1 : 0;
}

/* The next datagram's size, or -1. */
static ssize_t receive(int fd, void *data, size_t size)
{
	struct pollfd p = { fd, POLLIN, 0 };
	ssize_t n;
	int ready;

	do
		ready = poll(&p, 1, PATIENCE_MS);
	while (ready < 0 && errno == EINTR);
	if (ready == 0)
		errno = ETIMEDOUT;
	if (ready <= 0)
		return -1;
	do
		n = recv(fd, data, size, MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n == 0 || n > (ssize_t)size) {
		errno = EPROTO; /* an end, or one that is larger than all that there are */
		return -1;
	}
	return n;
}

static enum diag_progress read_dump(int fd, uint32_t sequence, struct diag_sockets *list, int *err)
{
	static char data[DATAGRAM];
	enum diag_progress progress = DIAG_MORE;

	list->count = 0;
	if (ask(fd, sequence) < 0) {
		*err = errno;
		return DIAG_REFUSED;
	}
	while (progress == DIAG_MORE) {
		ssize_t n = receive(fd, data, sizeof data);

		if (n >= 0) {
			progress = diag_parse(data, (size_t)n, sequence, list, err);
		} else if (errno == ENOBUFS) {
			progress = DIAG_INTERRUPTED; /* some was lost */
		} else {
			*err = errno;
			progress = DIAG_REFUSED;
		}
	}
	return progress;
}

static const char *refusal(int err)
{
	static char text[256];

	switch (err) {
	case ENOENT:
	case EPROTONOSUPPORT:
	case EOPNOTSUPP:
		return "this kernel does not list its vsock sockets; as root: "
		       "modprobe vsock_diag";
	case EACCES:
	case EPERM:
		return "this user may not ask the kernel for its sockets (netlink, "
		       "NETLINK_SOCK_DIAG); try as root, and see the security policy";
	case EAFNOSUPPORT:
		return "this kernel has no netlink, so its sockets cannot be listed";
	default:
		snprintf(text, sizeof text, "the kernel's list of vsock sockets: %s",
			 strerror(err));
		return text;
	}
}

const char *diag_read(struct diag_sockets *list)
{
	enum diag_progress progress = DIAG_INTERRUPTED;
	int err = 0, fd;

	memset(list, 0, sizeof *list);
	fd = open_netlink();
	if (fd < 0)
		return refusal(errno);
	for (uint32_t i = 1; i <= TRIES && progress == DIAG_INTERRUPTED; i++)
		progress = read_dump(fd, i, list, &err);
	close(fd);
	switch (progress) {
	case DIAG_DONE:
		return NULL;
	case DIAG_REFUSED:
		return refusal(err);
	case DIAG_INTERRUPTED:
		return "sockets come and go faster than the kernel can list them; try again";
	default:
		return "the kernel's list of vsock sockets is malformed";
	}
}
