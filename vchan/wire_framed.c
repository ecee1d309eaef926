/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The framed wire: a header before each piece, acknowledgements, a window.
 *
 * Sending.  A frame is announced with its whole length, and never with more
 * than the window allows: so the peer can always take in all of it, and the
 * frame's end, behind which our acknowledgements wait, needs nobody's program.
 * When the kernel takes a part only, the rest of the payload lies at the front
 * of the write ring (`frame_left`), the rest of the header in `head`.
 *
 * Packets.  Newer kernels drop a connection of which more than buffer / 576
 * packets are unread.  So they are counted, in groups, and no frame is begun
 * while half of that is under way; then small writes gather in the ring.  At
 * half of that the peer is asked how much it has taken in (which its program
 * need not have read: it may wait for more).
 *
 * Receiving.  One recvmsg takes the rest of a frame or the header of the next,
 * and more; headers that came along in the middle are taken out in place.  The
 * read ring's memory is larger than the window, so there is always room.
 *
 * Acknowledging.  Every header carries how much our program has had.  One is
 * sent for itself when half of the window was handed over, or many frames
 * were, or the peer has asked: at once where the window is exact, after a moment
 * where it is large and more reading will soon do it anyway.
 *
 * Who cannot send now because another thread is sending leaves a flag
 * (flow.due), which that thread looks at after unlocking (tests/model/due.pml; the two ends
 * together: tests/model/framed.pml).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "driver.h"
#include "vsock.h"
#include "wake.h"
#include "wire.h"

/* Larger pieces gain nothing.  With its header a whole number of the kernel's
 * largest packets (64 KiB). */
#define FRAME_MOST ((128u << 10) - FRAME_HEADER)
#define PACKET_MOST (64u << 10)
/* What a kernel that counts packets takes for the size of one. */
#define PACKET_SIZE 576
#define PACKETS_LEAST 8
/* So much is sooner copied than described in two pieces, bytes. */
#define COPY_MOST 4096

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

void wire_be_framed(libvchan_t *h, uint32_t tx_window, uint32_t buffer)
{
	struct flow *f = &h->flow;

	f->tx_window = tx_window;
	f->rx_window = frame_window((uint32_t)h->in_size);
	f->packets_max = buffer / PACKET_SIZE / 2;
	if (f->packets_max < PACKETS_LEAST)
		f->packets_max = PACKETS_LEAST;
	h->framed = true;
}

/* ---- the window ---- */

static size_t window_left(const struct flow *f)
{
	uint64_t flying = atomic_load(&f->announced) - atomic_load(&f->acked);

	return flying < f->tx_window ? f->tx_window - (size_t)flying : 0;
}

/* ---- packets: `draining` is held ---- */

static void owe(struct flow *f, unsigned what)
{
	atomic_fetch_or(&f->due, what);
}

static void forget_packets(struct flow *f)
{
	uint64_t taken = atomic_load(&f->taken), acked = atomic_load(&f->acked);
	unsigned gone = 0;

	if (taken < acked)
		taken = acked;
	while (gone < f->batch_count && f->batches[gone].end <= taken)
		f->packets -= f->batches[gone++].packets;
	f->batch_count -= gone;
	memmove(f->batches, f->batches + gone, f->batch_count * sizeof *f->batches);
}

static void count_packets(struct flow *f, size_t sent)
{
	uint32_t n = 1 + (uint32_t)(sent / PACKET_MOST);
	struct batch *last = &f->batches[f->batch_count ? f->batch_count - 1 : 0];

	if (f->batch_count == 0 || (f->batch_count < BATCHES &&
				    last->packets >= f->packets_max / BATCHES)) {
		last = &f->batches[f->batch_count++];
		last->packets = 0;
	}
	last->packets += n;
	last->end = atomic_load(&f->announced);
	f->packets += n;
}

/* ---- sending: `draining` is held ---- */

/* How much of a frame of at most `size` bytes may be begun now. */
static size_t allowed(struct flow *f, size_t size)
{
	size_t n = min_size(min_size(size, FRAME_MOST), window_left(f));

	if (f->packets >= f->packets_max / 2) {
		forget_packets(f);
		if (f->packets >= f->packets_max / 2 && !atomic_exchange(&f->counting, true))
			owe(f, DUE_ASK_COUNT);
	}
	return f->packets < f->packets_max ? n : 0;
}

/* What every header says; and the flags, which are thereby done with. */
static void make_header(libvchan_t *h, uint32_t length, bool end)
{
	struct flow *f = &h->flow;
	struct frame frame = { length, false, end, false, 0 };
	uint64_t handed;

	if (atomic_load(&f->due))
		frame.ask = atomic_fetch_and(&f->due, ~(DUE_ASK | DUE_ACK)) & DUE_ASK;
	handed = atomic_load(&f->handed);
	if (handed != atomic_load(&f->told)) {
		/* Before `told`: who asks after this is answered again. */
		atomic_store(&f->asked_us, false);
		atomic_store(&f->told, handed);
	}
	frame.handed = (uint32_t)handed;
	frame_encode(&frame, f->head);
}

/* At least so much was taken in: what lies in whole frames, or our program has had. */
static uint64_t taken_in(const struct flow *f)
{
	uint64_t handed = atomic_load(&f->handed), whole = atomic_load(&f->whole);

	return whole > handed ? whole : handed;
}

/* What was taken in; or the question. */
static void make_count(libvchan_t *h, bool ask)
{
	struct flow *f = &h->flow;
	struct frame frame = { 0, ask, false, true, (uint32_t)taken_in(f) };

	frame_encode(&frame, f->head);
}

/* What the kernel has left, of so much header and of all. */
static void note_left(libvchan_t *h, unsigned head, bool any)
{
	if (atomic_load(&h->flow.head_left) != head)
		atomic_store(&h->flow.head_left, head);
	if (atomic_load(&h->stalled) != any)
		atomic_store(&h->stalled, any);
}

static ssize_t send_both(libvchan_t *h, unsigned head, const char *data, size_t size)
{
	const unsigned char *last = h->flow.head + FRAME_HEADER - head;
	unsigned char both[FRAME_HEADER + COPY_MOST];

	if (size > COPY_MOST || !size)
		return vsock_send_pair(h->sock, last, head, data, size);
	memcpy(both, last, head);
	memcpy(both + head, data, size);
	return vsock_send(h->sock, both, head + size, false);
}

/* The last `head` bytes of the header, and the frame's payload at `data`.  The bytes
 * of payload that went; -1: dead. */
static ssize_t send_pieces(libvchan_t *h, unsigned head, const char *data, size_t size)
{
	struct flow *f = &h->flow;
	ssize_t n = wire_sent(h, send_both(h, head, data, size));

	if (n < 0)
		return -1;
	if (n > 0)
		count_packets(f, (size_t)n);
	note_left(h, (size_t)n < head ? head - (unsigned)n : 0, (size_t)n < head + size);
	return (size_t)n < head ? 0 : n - (ssize_t)head;
}

static ssize_t send_header(libvchan_t *h)
{
	return send_pieces(h, FRAME_HEADER, NULL, 0);
}

/* Announced before it is sent: the peer may be quick. */
static ssize_t begin_frame(libvchan_t *h, const char *data, size_t size)
{
	ssize_t n;

	atomic_fetch_add(&h->flow.announced, size);
	make_header(h, (uint32_t)size, false);
	n = send_pieces(h, FRAME_HEADER, data, size);
	h->flow.frame_left = (uint32_t)(size - (n > 0 ? (size_t)n : 0));
	return n;
}

static bool is_amid(const struct flow *f)
{
	return f->frame_left || atomic_load(&f->head_left);
}

/* True: it was due. */
static bool take_due(struct flow *f, unsigned what)
{
	return atomic_fetch_and(&f->due, ~what) & what;
}

/* A header alone, if there is reason to and no frame is under way: true. */
static bool send_what_is_due(libvchan_t *h)
{
	struct flow *f = &h->flow;

	if (!atomic_load(&f->due) || is_amid(f) || atomic_load(&h->dead))
		return false;
	if (take_due(f, DUE_COUNT))
		make_count(h, false);
	else if (take_due(f, DUE_ASK_COUNT))
		make_count(h, true);
	/* Two threads may have seen the same news; it is told once. */
	else if ((take_due(f, DUE_ACK) && framed_owes_news(h)) ||
		 (atomic_load(&f->due) & DUE_ASK))
		make_header(h, 0, false);
	else
		return false;
	send_header(h);
	return true;
}

/* One piece of what lies in the ring: the bytes that went. */
static size_t drain_some(libvchan_t *h, size_t todo)
{
	struct flow *f = &h->flow;
	ssize_t n;
	size_t size;

	if (is_amid(f)) {
		size = min_size(todo, f->frame_left);
		n = send_pieces(h, atomic_load(&f->head_left), ring_fill_at(&h->out), size);
		if (n > 0)
			f->frame_left -= (uint32_t)n;
	} else {
		size = allowed(f, todo);
		if (!size)
			atomic_store(&h->blocked, true);
		n = size ? begin_frame(h, ring_fill_at(&h->out), size) : 0;
	}
	if (n <= 0)
		return 0;
	ring_taken(&h->out, (size_t)n);
	return (size_t)n;
}

size_t framed_drain(libvchan_t *h)
{
	size_t moved = 0, todo = ring_fill(&h->out);

	atomic_store(&h->stalled, false);
	atomic_store(&h->blocked, false);
	while (!atomic_load(&h->dead) && !wire_is_stuck(h) &&
	       (moved < todo || atomic_load(&h->flow.head_left)))
		moved += drain_some(h, todo - moved);
	if (atomic_load(&h->blocked) && h->flow.packets < h->flow.packets_max &&
	    !atomic_exchange(&h->flow.asked, true))
		owe(&h->flow, DUE_ASK);
	send_what_is_due(h);
	return moved;
}

/* ---- sending: nothing is held ---- */

/* Whoever could not send meanwhile has left a flag. */
void framed_unlock(libvchan_t *h)
{
	struct flow *f = &h->flow;
	bool again;

	do {
		again = send_what_is_due(h);
		pthread_mutex_unlock(&h->draining);
		again |= atomic_load(&f->due) != 0;
	} while (again && !atomic_load(&h->stalled) && !atomic_load(&h->dead) &&
		 pthread_mutex_trylock(&h->draining) == 0);
}

static void send_flags(libvchan_t *h)
{
	sigset_t saved;

	signals_block(&saved);
	if (pthread_mutex_trylock(&h->draining) == 0)
		framed_unlock(h);
	signals_restore(&saved);
	if (wire_unsent(h))
		driver_kick(h);
}

void wire_acknowledge(libvchan_t *h)
{
	if (!handle_is_framed(h) || atomic_load(&h->flow.handed) == atomic_load(&h->flow.told))
		return;
	owe(&h->flow, DUE_ACK);
	send_flags(h);
}

bool wire_ask(libvchan_t *h)
{
	struct flow *f = &h->flow;
	uint64_t acked = atomic_load(&f->acked);
	uint64_t unread = atomic_load(&f->accepted) - acked;

	if (!handle_is_framed(h) || unread == 0 || unread + h->out_size <= f->tx_window)
		return false;
	if (!atomic_exchange(&f->asked, true)) {
		owe(f, DUE_ASK);
		send_flags(h);
	}
	return true;
}

/* One frame of what lies in no ring: the bytes that are dealt with. */
static size_t send_frame(libvchan_t *h, const char *data, size_t size)
{
	size_t todo = allowed(&h->flow, min_size(size, h->out.size));
	ssize_t n;

	if (!todo)
		return 0;
	/* Before it is sent, or it might be acknowledged sooner than it is counted. */
	atomic_fetch_add(&h->flow.accepted, todo);
	n = begin_frame(h, data, todo);
	if (n < 0)
		return 0;
	/* Memory, not room: the frame has been announced. */
	if ((size_t)n < todo)
		ring_put(&h->out, data + n, todo - (size_t)n);
	return todo;
}

FLAT ssize_t framed_send(libvchan_t *h, const void *data, size_t size)
{
	struct flow *f = &h->flow;
	size_t done = 0;

	/* Signals are not blocked, as the write ring is empty (handle.h). */
	pthread_mutex_lock(&h->draining);
	if (atomic_load(&f->head_left))
		send_pieces(h, atomic_load(&f->head_left), NULL, 0);
	while (done < size && !is_amid(f) && !atomic_load(&h->dead)) {
		size_t n = send_frame(h, (const char *)data + done, size - done);

		if (n == 0)
			break;
		done += n;
	}
	framed_unlock(h);
	if (atomic_load(&h->stalled) && wire_unsent(h))
		driver_kick(h);
	/* The peer may have left with all of it, even now. */
	return !done && atomic_load(&h->dead) ? -1 : (ssize_t)done;
}

void wire_end(libvchan_t *h)
{
	sigset_t saved;

	if (handle_state(h) != CONNECTED || !h->framed || atomic_load(&h->dead))
		return;
	signals_block(&saved);
	/* Held for good: by a send that exit() has stopped, at a place in the
	 * stream that nobody knows. */
	if (pthread_mutex_trylock(&h->draining) == 0) {
		/* Not after what was dropped, or it would seem to be all. */
		if (!is_amid(&h->flow) && !ring_fill(&h->out)) {
			make_header(h, 0, true);
			send_header(h);
			atomic_store(&h->dead, true);
		}
		pthread_mutex_unlock(&h->draining);
	}
	signals_restore(&saved);
}

/* ---- receiving: `reading` is held ---- */

/* Whatever follows is not looked at any more. */
static void end_input(libvchan_t *h)
{
	h->eof = true;
	wire_note_rest(h, false);
	atomic_store(&h->dead, true);
}

/* The peer breaks the rules. */
static void cut_off(libvchan_t *h, const char *why)
{
	log_error(&h->log, "the peer %s: %s", why, log_reason(EPROTO).text);
	atomic_store(&h->error, EPROTO);
	end_input(h);
	shutdown(h->sock, SHUT_RDWR);
}

static bool take_acknowledgement(libvchan_t *h, uint32_t handed)
{
	struct flow *f = &h->flow;
	uint64_t acked = atomic_load(&f->acked);
	uint32_t more = handed - (uint32_t)acked;

	if (more > atomic_load(&f->announced) - acked) {
		cut_off(h, "acknowledges what was not sent");
		return false;
	}
	if (more) {
		/* In this order: who asks after it will be answered again. */
		atomic_store(&f->asked, false);
		atomic_store(&f->acked, acked + more);
		atomic_store(&f->made_room, true);
	}
	return true;
}

/* The peer says how much it has taken in, or asks. */
static bool take_count(libvchan_t *h, const struct frame *frame)
{
	struct flow *f = &h->flow;
	uint64_t taken = atomic_load(&f->taken), acked = atomic_load(&f->acked);
	uint32_t more;

	if (taken < acked)
		taken = acked; /* or it might be 2^32 behind */
	more = frame->handed - (uint32_t)taken;
	if (more > atomic_load(&f->announced) - taken) {
		cut_off(h, "has taken in what was not sent");
		return false;
	}
	atomic_store(&f->taken, taken + more);
	if (frame->ask) {
		owe(f, DUE_COUNT);
	} else {
		atomic_store(&f->counting, false);
		atomic_store(&f->made_room, true); /* for packets */
	}
	return true;
}

/* False: nothing may follow. */
static bool take_header(libvchan_t *h, const unsigned char *bytes)
{
	struct flow *f = &h->flow;
	struct frame frame;
	uint64_t received;

	f->part_len = 0;
	atomic_store_explicit(&f->whole, f->received, memory_order_relaxed);
	if (!frame_decode(bytes, &frame)) {
		cut_off(h, "sent what is no frame");
		return false;
	}
	if (frame.count)
		return take_count(h, &frame);
	if (!take_acknowledgement(h, frame.handed))
		return false;
	received = atomic_load(&f->received) + frame.length;
	if (received - atomic_load(&f->told) > f->rx_window) {
		cut_off(h, "sent more than the window allows");
		return false;
	}
	if (frame.length)
		atomic_store(&f->received, received);
	f->left = frame.length;
	if (frame.ask) {
		atomic_store(&f->asked_us, true);
		atomic_store(&f->pressed, true);
	}
	if (frame.end) {
		log_debug(&h->log, "the peer has closed");
		end_input(h);
	}
	return !frame.end;
}

/* n raw bytes at `at`: takes the headers out of them.  The bytes of payload,
 * which are then together. */
static size_t sift(libvchan_t *h, char *at, size_t n)
{
	struct flow *f = &h->flow;
	size_t from = 0, to = 0, k;

	if (n <= f->left) {
		f->left -= (uint32_t)n;
		return n;
	}
	while (from < n) {
		if (f->left) {
			k = min_size(f->left, n - from);
			if (from != to)
				memmove(at + to, at + from, k);
			f->left -= (uint32_t)k;
			to += k;
			from += k;
			continue;
		}
		k = min_size(FRAME_HEADER - f->part_len, n - from);
		memcpy(f->part + f->part_len, at + from, k);
		f->part_len += (unsigned)k;
		from += k;
		if (f->part_len == FRAME_HEADER && !take_header(h, f->part))
			break;
	}
	return to;
}

/* What recvmsg brought, where the next header's rest was to go first. */
static size_t take_raw(libvchan_t *h, unsigned head, char *at, size_t n)
{
	struct flow *f = &h->flow;
	size_t k = min_size(head, n);

	f->part_len += (unsigned)k;
	if (k && f->part_len == FRAME_HEADER && !take_header(h, f->part))
		return 0;
	return sift(h, at, n - k);
}

/* Takes what recv(2) returned for `size` bytes. */
static ssize_t received_raw(libvchan_t *h, bool gone, ssize_t n, size_t size)
{
	n = wire_received(h, gone, n);
	wire_look_for_rest(h, n, size);
	h->heard |= n > 0;
	/* Of no order: the driver only wants to know whether somebody looks. */
	atomic_store_explicit(&h->flow.receipts, h->flow.receipts + 1, memory_order_relaxed);
	if (n < 0)
		atomic_store(&h->dead, true); /* it reads no more, either */
	return n;
}

static ssize_t receive_once(libvchan_t *h, char *at, size_t room, bool wait)
{
	struct flow *f = &h->flow;
	bool gone = handle_state(h) == DISCONNECTED;
	unsigned head = f->left ? 0 : FRAME_HEADER - f->part_len;
	struct iovec to[2] = { { f->part + f->part_len, head }, { at, room } };
	ssize_t n = head ? vsock_recv_pair(h->sock, to, wait && !gone) :
			   vsock_recv(h->sock, at, room, wait && !gone);

	n = received_raw(h, gone, n, head + room);
	if (n <= 0)
		return n;
	n = (ssize_t)take_raw(h, head, at, (size_t)n);
	return n == 0 && h->eof ? -1 : n;
}

/* With signals blocked, as the write ring waits for what comes (handle.h). */
static ssize_t receive_unstopped(libvchan_t *h, char *at, size_t room, bool wait)
{
	struct pollfd p = { h->sock, POLLIN, 0 };
	sigset_t saved;
	ssize_t n;

	signals_block(&saved);
	n = receive_once(h, at, room, false);
	if (n == 0 && wait && !h->eof) {
		wake_poll(&p, 1, NULL, &saved);
		n = receive_once(h, at, room, false);
	}
	signals_restore(&saved);
	return n;
}

ssize_t framed_recv(libvchan_t *h, char *at, size_t room, bool wait)
{
	if (wire_unsent(h))
		return receive_unstopped(h, at, room, wait);
	return receive_once(h, at, room, wait);
}

/* How much to ask for at once: what follows the headers in it has to be moved, so
 * large frames end there, with the next header. */
static size_t portion(const libvchan_t *h, size_t room)
{
	size_t most = h->flow.left > PORTION ? h->flow.left + FRAME_HEADER : PORTION;

	return min_size(room, most);
}

size_t framed_pull(libvchan_t *h, size_t most, bool wait)
{
	size_t total = 0, room;
	ssize_t n;

	if (most > h->flow.rx_window)
		most = h->flow.rx_window;
	do {
		room = min_size(portion(h, ring_room(&h->in)), most - total);
		n = framed_recv(h, ring_room_at(&h->in), room, wait && !total);
		/* Headers alone are news to be passed on, and may come without end. */
		if (n <= 0)
			break;
		ring_added(&h->in, (size_t)n);
		total += (size_t)n;
	} while (total < most && !h->eof && atomic_load(&h->rest));
	return total;
}

/* Header and payload in one piece, with a little more. */
FLAT ssize_t framed_recv_near(libvchan_t *h, char *data, size_t size, bool wait)
{
	struct flow *f = &h->flow;
	unsigned head = f->left ? 0 : FRAME_HEADER - f->part_len;
	unsigned char near[FRAME_HEADER + COPIED_READ + NEAR_MORE];
	char *payload = (char *)near + head;
	bool gone = handle_state(h) == DISCONNECTED;
	size_t most = head + size + NEAR_MORE, k;
	ssize_t n = received_raw(h, gone, vsock_recv(h->sock, near, most, wait && !gone), most);

	if (n <= 0)
		return n;
	if (head == FRAME_HEADER && n >= FRAME_HEADER) {
		k = take_header(h, near) ? sift(h, payload, (size_t)n - head) : 0;
	} else {
		memcpy(f->part + f->part_len, near, min_size(head, (size_t)n));
		k = take_raw(h, head, payload, (size_t)n);
	}
	wire_deal_out(h, data, size, payload, k);
	if (atomic_load(&h->rest) && !h->eof)
		wire_pull_some(h, false);
	if (k == 0 && h->eof && ring_fill(&h->in) == 0)
		return -1;
	if (k >= size)
		return (ssize_t)size;
	/* Most of it were headers, and the rest lies in the ring now. */
	size = min_size(size - k, ring_fill(&h->in));
	ring_get(&h->in, data + k, size);
	return (ssize_t)(k + size);
}

/* ---- the reader ---- */

/* The same where nobody is there when the peer asks between two calls.  One that has
 * ever asked may do so again, and is told of all room. */
static bool is_ack_due_at_once(const libvchan_t *h)
{
	const struct flow *f = &h->flow;

	return framed_owes_news(h) && (framed_owes_much(f) || atomic_load(&f->asked_us) ||
				       (atomic_load(&f->pressed) && framed_owes_room(h)));
}

/* True: the peer should be told now. */
static bool is_ack_due(const libvchan_t *h)
{
	const struct flow *f = &h->flow;

	if (!driver_attends)
		return is_ack_due_at_once(h);
	return framed_owes_much(f) || (framed_owes_news(h) && atomic_load(&f->asked_us) &&
				       f->rx_window < PACKET_MOST);
}

/* Who asks is heard when the program receives; but it may read from the ring
 * for long, or do something else.  So the driver is told, once in a while. */
void framed_tell(libvchan_t *h)
{
	struct flow *f = &h->flow;

	if (atomic_load(&h->dead))
		return;
	if (atomic_load(&f->due) & DUE_COUNT)
		send_flags(h);
	if (is_ack_due(h)) {
		wire_acknowledge(h);
	} else if (driver_attends && !atomic_load(&f->untold) && framed_owes_news(h)) {
		atomic_store(&f->untold, true);
		driver_kick(h);
	}
}
