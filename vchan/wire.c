/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "vsock.h"

ssize_t wire_not_sent(libvchan_t *h, ssize_t n)
{
	bool starved = n < 0 && vsock_is_short_of_memory(errno);

	if (atomic_load(&h->starved) != starved)
		atomic_store(&h->starved, starved);
	if (n >= 0)
		return n;
	if (starved || errno == EAGAIN)
		return 0;
	log_info(&h->log, "send: %s", log_reason(errno).text);
	atomic_store(&h->dead, true);
	/* The peer may be there all the same, and wait for what we cannot say. */
	shutdown(h->sock, SHUT_WR);
	return -1;
}

size_t wire_drain(libvchan_t *h)
{
	size_t moved = 0, todo = ring_fill(&h->out);
	ssize_t n;

	if (h->framed)
		return framed_drain(h);
	/* What is put meanwhile is for the next call, or there might be no end. */
	while (!atomic_load(&h->dead) && moved < todo) {
		n = wire_sent(h, vsock_send(h->sock, ring_fill_at(&h->out), todo - moved, false));
		atomic_store(&h->stalled, n == 0);
		if (n <= 0)
			break;
		ring_taken(&h->out, (size_t)n);
		moved += (size_t)n;
	}
	return moved;
}

void wire_unlock(libvchan_t *h)
{
	if (handle_is_framed(h))
		framed_unlock(h);
	else
		pthread_mutex_unlock(&h->draining);
}

ssize_t wire_send(libvchan_t *h, const void *data, size_t size, bool wait)
{
	if (h->framed)
		return framed_send(h, data, size);
	return wire_sent(h, vsock_send(h->sock, data, size, wait));
}

ssize_t wire_not_received(libvchan_t *h, bool gone, ssize_t n)
{
	/* A peer that is gone has nothing on the way any more: all that it
	 * sent is in the kernel before its end is. */
	if (n < 0 && !gone && errno == EAGAIN)
		return 0;
	/* One that was reset says so for ever, and in the simple flavour nobody else
	 * looks. */
	if (n < 0 && !gone && vsock_is_short_of_memory(errno) && !vsock_has_ended(h->sock))
		return 0;
	if (n < 0 && errno != EAGAIN)
		log_info(&h->log, "receive: %s", log_reason(errno).text);
	h->eof = true;
	return -1;
}

/* As wire_received, of one piece. */
static ssize_t plain_recv(libvchan_t *h, char *data, size_t size, bool wait)
{
	bool gone = handle_state(h) == DISCONNECTED;
	ssize_t n = wire_received(h, gone, vsock_recv(h->sock, data, size, wait && !gone));

	wire_look_for_rest(h, n, size);
	if (n > 0)
		atomic_store_explicit(&h->flow.received, h->flow.received + (uint64_t)n,
				      memory_order_relaxed);
	return n;
}

static size_t plain_pull(libvchan_t *h, size_t most, bool wait)
{
	size_t fill = ring_fill(&h->in), room = h->in_size - fill;
	ssize_t n;

	if (fill >= h->in_size) {
		wire_note_rest(h, true);
		return 0;
	}
	n = plain_recv(h, ring_room_at(&h->in), room < most ? room : most, wait);
	if (n <= 0)
		return 0;
	ring_added(&h->in, (size_t)n);
	return (size_t)n;
}

static ssize_t plain_recv_near(libvchan_t *h, char *data, size_t size, bool wait)
{
	char near[COPIED_READ + NEAR_MORE];
	ssize_t n = plain_recv(h, near, size + NEAR_MORE, wait);

	if (n <= 0)
		return n;
	wire_deal_out(h, data, size, near, (size_t)n);
	if (atomic_load(&h->rest))
		wire_pull_some(h, false);
	return (size_t)n < size ? n : (ssize_t)size;
}

size_t wire_pull(libvchan_t *h, size_t most, bool wait)
{
	if (h->eof)
		return 0;
	return h->framed ? framed_pull(h, most, wait) : plain_pull(h, most, wait);
}

size_t wire_pull_some(libvchan_t *h, bool wait)
{
	size_t n = wire_pull(h, h->portion, wait);

	if (n >= h->portion && h->portion < PORTION_MOST)
		h->portion *= 2;
	return n;
}

/* Of what lies in the ring now, as wire_recv. */
static ssize_t take_pulled(libvchan_t *h, char *data, size_t size, size_t n)
{
	if (n == 0)
		return h->eof ? -1 : 0;
	h->ahead = n > size;
	if (n > size)
		n = size;
	ring_get(&h->in, data, n);
	return (ssize_t)n;
}

ssize_t wire_recv(libvchan_t *h, char *data, size_t size, bool wait)
{
	if (size >= SMALL_READ) {
		h->portion = PORTION_LEAST;
		return h->framed ? framed_recv(h, data, size, wait) :
				   plain_recv(h, data, size, wait);
	}
	/* What waits in the write ring wants signals blocked (handle.h). */
	if (size > COPIED_READ || h->ahead || (h->framed && wire_unsent(h)))
		return take_pulled(h, data, size, wire_pull_some(h, wait));
	return h->framed ? framed_recv_near(h, data, size, wait) :
			   plain_recv_near(h, data, size, wait);
}
