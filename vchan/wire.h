/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes on the wire: between the rings and the connected socket.
 *
 * The plain wire is the program's bytes and nothing else.  A framed wire is
 * to take its place behind the same five functions.  None of them blocks
 * unless it is told to wait, none takes a lock; each says which part of the
 * handle its caller must own (handle.h).
 */
#ifndef VCHAN_WIRE_H
#define VCHAN_WIRE_H

#include <sys/types.h>

#include "handle.h"

/* Anybody: are there bytes in the write ring that the peer might still get? */
bool wire_unsent(libvchan_t *h);

/* The drainer: send what lies in the write ring.  Returns the number of bytes
 * that went: all that lay there, unless it is `stalled` or `dead` now. */
size_t wire_drain(libvchan_t *h);

/* The writer, while the write ring is empty: send from the caller's buffer.
 * Returns the number of bytes that went, fewer when the kernel has no more
 * room (with `wait`: blocks for it); -1: `dead`. */
ssize_t wire_send(libvchan_t *h, const void *data, size_t size, bool wait);

/* The reader, while the read ring is empty: receive into the caller's buffer,
 * and into the read ring what small reads will ask for next.  Returns the
 * bytes in the caller's buffer, 0 when there are none now; -1: `eof`. */
ssize_t wire_recv(libvchan_t *h, void *data, size_t size, bool wait);

/* The reader: receive what there is into the read ring; the number of bytes. */
size_t wire_pull(libvchan_t *h, bool wait);

#endif
