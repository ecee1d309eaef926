/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vsock sockets of this machine (of this network namespace), as the kernel lists
 * them: NETLINK_SOCK_DIAG, module vsock_diag.  Nobody's socket is touched.
 */
#ifndef TOOLS_DIAG_H
#define TOOLS_DIAG_H

#include <stddef.h>
#include <stdint.h>

/* As the kernel has them in a socket's state. */
enum diag_state {
	DIAG_ESTABLISHED = 1,
	DIAG_CONNECTING = 2,
	DIAG_CLOSED = 7,
	DIAG_LISTENING = 10,
	DIAG_CLOSING = 11,
};

struct diag_socket {
	unsigned type;  /* SOCK_STREAM, ... */
	unsigned state; /* enum diag_state, or what the kernel will think of */
	uint32_t cid, port;           /* cid: VMADDR_CID_ANY of who only connected */
	uint32_t peer_cid, peer_port;
	uint32_t inode; /* 0: no process has it */
};

struct diag_sockets {
	struct diag_socket *sockets;
	size_t count, room;
};

/* NULL, or what is wrong and what to do about it, in a static buffer.  *list is to be
 * freed in either case. */
const char *diag_read(struct diag_sockets *list);
void diag_free(struct diag_sockets *list);

enum diag_progress {
	DIAG_MORE,        /* another datagram follows */
	DIAG_DONE,
	DIAG_INTERRUPTED, /* the list changed meanwhile, and some may be missing */
	DIAG_MALFORMED,
	DIAG_REFUSED,     /* *err says why */
};

/* One datagram of the answer to the request numbered `sequence`; its sockets are added
 * to the list.  DIAG_REFUSED with ENOMEM: there is no room for them. */
enum diag_progress diag_parse(const void *data, size_t size, uint32_t sequence,
			      struct diag_sockets *list, int *err);

#endif
