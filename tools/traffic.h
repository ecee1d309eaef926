/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The traffic that is measured, over a vchan or a plain socket, with as little between
 * the clock and what is measured as a branch.  For `vchan-vsock bench`, and for bench/.
 *
 * All calls block, and return 0, or -1 and errno.
 */
#ifndef TOOLS_TRAFFIC_H
#define TOOLS_TRAFFIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "libvchan.h"

#define TRAFFIC_LARGEST (1u << 20) /* bytes of a message */

/* One end of a channel; `sock` is -1 when it is a vchan. */
struct end {
	int sock;
	libvchan_t *vchan;
};

void end_close(struct end *e);

/* All of it. */
int end_write(struct end *e, const void *data, size_t size);
int end_send(struct end *e, const void *data, size_t size);
int end_recv(struct end *e, void *data, size_t size);
/* What there is, up to `size`: the bytes; 0: the end. */
ssize_t end_read(struct end *e, void *data, size_t size);
/* All of it, with poll before each call that would block. */
int end_recv_polled(struct end *e, void *data, size_t size);

/* A header and a payload of at most `size` bytes, as qrexec sends and receives
 * them: the bytes of payload. */
ssize_t end_send_message(struct end *e, const void *data, size_t size);
ssize_t end_recv_message(struct end *e, void *data, size_t size);

int socket_send(int fd, const void *data, size_t size);
int socket_recv(int fd, void *data, size_t size);

/* A byte from whoever is first, a byte back: both are there. */
int traffic_greet(struct end *e, bool first);

int traffic_round_trips(struct end *e, bool first, bool polled, void *buffer, size_t size,
			uint64_t count);

/* `count` times `size` bytes in a row, with end_write or end_send. */
typedef int end_put(struct end *e, const void *data, size_t size);
int traffic_write(struct end *e, end_put *put, const void *buffer, size_t size,
		  uint64_t count);
int traffic_read(struct end *e, void *buffer, size_t size, uint64_t count);

/* As much, in qrexec's messages, which may be shorter than asked for; an empty one is
 * the last. */
int traffic_write_messages(struct end *e, const void *buffer, size_t size, uint64_t count);
int traffic_read_messages(struct end *e, void *buffer, size_t size, uint64_t count);

/* TRAFFIC_LARGEST bytes, always the same. */
char *traffic_buffer(void);

#endif
