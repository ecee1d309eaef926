/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes on the wire: between the rings and the connected socket.
 *
 * The plain wire is the program's bytes and nothing else; the framed one
 * (docs/wire.md) puts a header before each piece, and so knows what the peer's
 * program has had.  None of these functions blocks unless it is told to wait;
 * each says which part of the handle its caller must own (handle.h).
 */
#ifndef VCHAN_WIRE_H
#define VCHAN_WIRE_H

#include <sys/types.h>

#include "handle.h"

/* Reads of less than this also fill the read ring: a system call for a handful
 * of bytes costs more than copying them twice.  Larger ones are not worth it. */
#define SMALL_READ 16384

/* Anybody: is there anything that the peer might still get? */
bool wire_unsent(libvchan_t *h);

/* Anybody: sending is of no use until the kernel or the peer has room. */
bool wire_is_stuck(libvchan_t *h);

/* The writer: the bytes that may be put now. */
size_t wire_room(const libvchan_t *h);
/* The writer: n bytes, for which there is memory, go into the write ring. */
void wire_put(libvchan_t *h, const void *data, size_t n);
/* The most that one libvchan_send may have. */
size_t wire_send_most(const libvchan_t *h);

/* The drainer: send what lies in the write ring.  Returns the number of bytes
 * that went: all that lay there, unless it is stuck or `dead` now. */
size_t wire_drain(libvchan_t *h);

/* The drainer: `draining` is given back. */
void wire_unlock(libvchan_t *h);

/* The writer, while the write ring is empty: send from the caller's buffer.
 * Returns the number of bytes that are dealt with, fewer when there is no room
 * now (plain, with `wait`: blocks in the kernel for it); -1: `dead`. */
ssize_t wire_send(libvchan_t *h, const void *data, size_t size, bool wait);

/* The receiver, while the read ring is empty: receive into the caller's buffer,
 * and into the read ring what small reads will ask for next.  Returns the
 * bytes in the caller's buffer, 0 when there are none now; -1: `eof`. */
ssize_t wire_recv(libvchan_t *h, void *data, size_t size, bool wait);

/* The receiver: receive what there is into the read ring; the number of bytes. */
size_t wire_pull(libvchan_t *h, bool wait);

/* Anybody: what the read ring may take in. */
size_t wire_in_room(const libvchan_t *h);

/* Anybody, after receiving: has the peer made room since this was last asked? */
bool wire_made_room(libvchan_t *h);

/* The reader: its program has had n bytes. */
void wire_handed(libvchan_t *h, size_t n);
/* Anybody: tell the peer of that, if it should know by now. */
void wire_tell(libvchan_t *h);

/* Anybody: tell the peer now. */
void wire_acknowledge(libvchan_t *h);
/* The writer: ask the peer to tell when it has room.  False: its room is not
 * what is short. */
bool wire_ask(libvchan_t *h);

/* The driver, at the end of all: nothing comes after this. */
void wire_end(libvchan_t *h);

/* Before the state is CONNECTED: this is the peer, of the framed wire. */
void wire_be_framed(libvchan_t *h, uint32_t tx_window, uint32_t buffer);

/* ---- between the two wires and what they share ---- */

/* Takes what send(2) returned: n, or 0 when the kernel has no room now, or -1
 * when it never will again. */
ssize_t wire_sent(libvchan_t *h, ssize_t n);
/* Takes what recvmsg(2) returned: n, or 0 when there is nothing now, or -1. */
ssize_t wire_received(libvchan_t *h, bool gone, ssize_t n);

void framed_unlock(libvchan_t *h);
size_t framed_room(const libvchan_t *h);
size_t framed_drain(libvchan_t *h);
ssize_t framed_send(libvchan_t *h, const void *data, size_t size);
ssize_t framed_recv(libvchan_t *h, void *data, size_t size, bool wait);
size_t framed_pull(libvchan_t *h, bool wait);
void framed_tell(libvchan_t *h);
/* Anybody: our program has had more than the peer knows. */
bool framed_owes_news(const libvchan_t *h);

#endif
