/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sockets: one place that never forgets close-on-exec, MSG_NOSIGNAL and
 * EINTR.  All calls: -1 and errno on failure.
 */
#ifndef VCHAN_VSOCK_H
#define VCHAN_VSOCK_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* The CID that the kernel gives this machine.  ENODEV where there is none. */
int vsock_local_cid(uint32_t *cid);

/* A new non-blocking socket whose kernel buffer holds `buffer` bytes. */
int vsock_socket(uint32_t buffer);

/* Bind and listen.  cid: CID_LOCAL or VMADDR_CID_ANY.  queue: as listen(2) has it,
 * one place less than there are. */
int vsock_listen(int fd, uint32_t cid, uint32_t port, int queue);

/* The port that a connection will come from.  EADDRINUSE. */
int vsock_bind(int fd, uint32_t port);

/* The next connection, in blocking mode, and the address that it comes from. */
int vsock_accept(int fd, uint32_t *peer_cid, uint32_t *peer_port);

/* 0: connected.  -1/EINPROGRESS: ask vsock_connected once it is writable. */
int vsock_connect(int fd, uint32_t cid, uint32_t port);
/* The same to another guest of our host, where that passes it on. */
int vsock_connect_sibling(int fd, uint32_t cid, uint32_t port);
/* 0 and the socket is in blocking mode, or -1 and why it failed. */
int vsock_connected(int fd);

/* Sends a packet without data, by changing the size of the kernel's buffer, that of
 * vsock_socket: `count` says how often that was done before and now.  Who knows nothing of
 * the connection answers with a reset. */
void vsock_nudge(int fd, uint32_t buffer, unsigned count);

/* The kernel's buffer of a socket, bytes; 0 when it does not tell. */
uint32_t vsock_buffer(int fd);

static inline bool vsock_is_short_of_memory(int err)
{
	return err == ENOBUFS || err == ENOMEM;
}
/* Nothing is wrong with the connection: there is no room, no data or no memory now. */
static inline bool vsock_will_go_again(int err)
{
	return err == EAGAIN || vsock_is_short_of_memory(err);
}

/* As send(2) and recvmsg(2).  wait: block in the kernel; else EAGAIN. */
ssize_t vsock_send(int fd, const void *data, size_t size, bool wait);
/* Two pieces in one, never blocking; the first may be empty. */
ssize_t vsock_send_pair(int fd, const void *head, size_t head_size, const void *data,
			size_t size);
ssize_t vsock_recv(int fd, void *to, size_t size, bool wait);
ssize_t vsock_recv_pair(int fd, struct iovec to[2], bool wait);
/* As recv(2) of one byte that stays, never blocking. */
ssize_t vsock_peek(int fd);
/* The peer sends nothing any more, whatever is unread. */
bool vsock_has_ended(int fd);

#endif
