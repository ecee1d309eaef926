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

#include <errno.h>
#include <sys/types.h>

#include "handle.h"

/* Reads of less than this also fill the read ring: a system call for a handful
 * of bytes costs more than copying them twice.  Larger ones are not worth it. */
#define SMALL_READ 16384
/* Even smaller ones are copied once more, with up to NEAR_MORE that may lie behind.
 * Only when there was more has the read ring anything to do: a ring that is not
 * touched costs no memory. */
#define COPIED_READ 4096
#define NEAR_MORE 256
/* Of what lies in the socket, bytes: at first; after a large read, which is likely to
 * be followed by others; and after many small ones, at most. */
#define PORTION ((size_t)16 << 10)
#define PORTION_LEAST ((size_t)4 << 10)
#define PORTION_MOST ((size_t)64 << 10)

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
ssize_t wire_recv(libvchan_t *h, char *data, size_t size, bool wait);

/* The receiver: receive what there is into the read ring, about `most` bytes of it at
 * most; the number of bytes. */
size_t wire_pull(libvchan_t *h, size_t most, bool wait);
/* The same, for who will read it soon: not all, as what a large read wants need not be
 * copied twice. */
size_t wire_pull_some(libvchan_t *h, bool wait);

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
ssize_t wire_not_sent(libvchan_t *h, ssize_t n);
HOT ssize_t wire_sent(libvchan_t *h, ssize_t n)
{
	return n >= 0 && !atomic_load(&h->starved) ? n : wire_not_sent(h, n);
}

/* Takes what recvmsg(2) returned: n, or 0 when there is nothing now, or -1. */
ssize_t wire_not_received(libvchan_t *h, bool gone, ssize_t n);
HOT ssize_t wire_received(libvchan_t *h, bool gone, ssize_t n)
{
	return n > 0 ? n : wire_not_received(h, gone, n);
}

/* The receiver: may there be more in the socket? */
HOT void wire_note_rest(libvchan_t *h, bool rest)
{
	if (atomic_load(&h->rest) != rest)
		atomic_store(&h->rest, rest);
}

/* There may, when what it has asked for came in full; or when nothing came, but for
 * want of memory.  Takes what wire_received returned. */
HOT void wire_look_for_rest(libvchan_t *h, ssize_t n, size_t size)
{
	wire_note_rest(h, n == (ssize_t)size || (n == 0 && errno != EAGAIN));
}

/* The receiver, of a read of `size` bytes: the n bytes that came for it, and what is
 * too much into the read ring. */
HOT void wire_deal_out(libvchan_t *h, char *data, size_t size, const void *got,
				 size_t n)
{
	h->ahead = n > size;
	if (n > size)
		ring_put(&h->in, (const char *)got + size, n - size);
	memcpy(data, got, n < size ? n : size);
}

void framed_unlock(libvchan_t *h);
size_t framed_drain(libvchan_t *h);
ssize_t framed_send(libvchan_t *h, const void *data, size_t size);
/* To `at`, as much as comes: the bytes of payload; 0: none now; -1: eof. */
ssize_t framed_recv(libvchan_t *h, char *at, size_t room, bool wait);
/* A small read, as wire_recv. */
ssize_t framed_recv_near(libvchan_t *h, char *data, size_t size, bool wait);
size_t framed_pull(libvchan_t *h, size_t most, bool wait);
/* Anybody: tell the peer what its program has had, if it should know by now. */
void framed_tell(libvchan_t *h);

/* ---- inline, as each message passes through them ---- */

/* Anybody: is there anything that the peer might still get? */
HOT bool wire_unsent(const libvchan_t *h)
{
	enum state s = handle_state(h);

	return (ring_fill(&h->out) > 0 || atomic_load(&h->flow.head_left)) &&
	       (s == CONNECTED || s == DISCONNECTED) && !atomic_load(&h->dead);
}

/* Anybody: sending is of no use until the kernel or the peer has room. */
HOT bool wire_is_stuck(const libvchan_t *h)
{
	return atomic_load(&h->stalled) || atomic_load(&h->blocked);
}

HOT size_t framed_room(const libvchan_t *h)
{
	/* In this order: an acknowledgement meanwhile makes it too small. */
	uint64_t acked = atomic_load(&h->flow.acked);
	uint64_t unread = atomic_load(&h->flow.accepted) - acked;
	size_t fill = ring_fill(&h->out), room;

	if (unread >= h->flow.tx_window || fill >= h->out_size)
		return 0;
	room = h->flow.tx_window - (size_t)unread;
	return room < h->out_size - fill ? room : h->out_size - fill;
}

/* The writer: the bytes that may be put now. */
HOT size_t wire_room(const libvchan_t *h)
{
	size_t fill;

	if (handle_is_framed(h))
		return framed_room(h);
	fill = ring_fill(&h->out);
	return fill < h->out_size ? h->out_size - fill : 0;
}

/* The writer: n bytes, for which there is memory, go into the write ring. */
HOT void wire_put(libvchan_t *h, const void *data, size_t n)
{
	atomic_fetch_add(&h->flow.accepted, n);
	ring_put(&h->out, data, n);
}

/* The most that one libvchan_send may have. */
HOT size_t wire_send_most(const libvchan_t *h)
{
	return handle_is_framed(h) ? h->out.size : h->out_size;
}

/* Anybody: our program has had more than the peer knows. */
HOT bool framed_owes_news(const libvchan_t *h)
{
	return atomic_load(&h->flow.handed) != atomic_load(&h->flow.told);
}

/* Anybody: with what it has been told, does the peer see less room than its ring has? */
HOT bool framed_owes_room(const libvchan_t *h)
{
	uint64_t owed = atomic_load(&h->flow.handed) - atomic_load(&h->flow.told);

	return owed + h->in_size > h->flow.rx_window;
}

/* Anybody: so much more that it is told without having asked. */
HOT bool framed_owes_much(const struct flow *f)
{
	return atomic_load(&f->handed) - atomic_load(&f->told) >= f->rx_window / 2;
}

/* Anybody: may the peer be waiting to hear what our program has had?  False if
 * the driver will look after that. */
HOT bool framed_has_to_tell(const struct flow *f)
{
	return !atomic_load(&f->untold) || atomic_load(&f->due) || atomic_load(&f->asked_us) ||
	       framed_owes_much(f);
}

/* The reader: its program has had n bytes. */
HOT void wire_handed(libvchan_t *h, size_t n)
{
	if (!handle_is_framed(h))
		return;
	atomic_fetch_add(&h->flow.handed, n);
	if (framed_has_to_tell(&h->flow))
		framed_tell(h);
}

#endif
