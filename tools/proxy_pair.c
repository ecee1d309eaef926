/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proxy_pair.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy.h"
#include "tool.h"
#include "vchan/clock.h"

#define TURN 8                      /* pieces each way, then others have theirs */
#define STARVED_PAUSE (20 * CLOCK_MS)
#define CONNECT_AGAIN (10 * CLOCK_MS)
#define LOOK_VCHAN (20 * CLOCK_MS)  /* no event tells that the ring is empty */
#define LOOK_SOCKET (100 * CLOCK_MS)
/* A socket whose peer goes on sending after the end is closed all the same. */
#define DISCARD_MOST (16u << 20)

/* ---- the beginning ---- */

static void end_is_ready(struct source *source, uint32_t events)
{
	struct end *e = (struct end *)source;

	proxy_end_notice(e, events);
	proxy_make_ready(e->pair);
}

static void init_end(struct end *e, struct pair *p, const struct endpoint *endpoint)
{
	e->source.ready = end_is_ready;
	e->pair = p;
	e->endpoint = endpoint;
	e->fd = -1;
}

static void free_pair(struct pair *p)
{
	struct proxy *proxy = p->proxy;

	proxy->failed |= p->failed;
	if (p->next)
		p->next->prev = p->prev;
	if (p->prev)
		p->prev->next = p->next;
	else
		proxy->pairs = p->next;
	proxy->count--;
	for (int i = 0; i < 2; i++) {
		proxy_end_close(&p->ends[i], proxy->epoll);
		free(p->ways[i].left);
	}
	free(p);
}

void pair_begin(struct proxy *proxy, int socket, libvchan_t *vchan)
{
	struct pair *p = calloc(1, sizeof *p);

	if (!p) {
		proxy_complain(proxy, "a connection was dropped: %s", tool_reason(ENOMEM));
		if (vchan)
			libvchan_close(vchan);
		else
			close(socket);
		return;
	}
	p->proxy = proxy;
	p->next = proxy->pairs;
	if (p->next)
		p->next->prev = p;
	proxy->pairs = p;
	proxy->count++;
	p->number = ++proxy->total;
	p->wake_at = CLOCK_NEVER;
	p->began = clock_now();
	p->give_up_at = p->began + proxy->timeout;
	init_end(&p->ends[0], p, &proxy->from);
	init_end(&p->ends[1], p, &proxy->to);
	if (vchan)
		proxy_end_take_vchan(&p->ends[0], vchan);
	else
		proxy_end_take_socket(&p->ends[0], socket);
	proxy_tell(proxy, "connection %lu has come to %s", p->number, proxy->from.text);
	proxy_make_ready(p);
}

/* ---- connecting ---- */

static void cannot_connect(struct pair *p, int err)
{
	proxy_complain(p->proxy, "connection %lu is closed, %s cannot be reached: %s", p->number,
		       p->ends[1].endpoint->text, tool_reason(err));
	p->failed = true;
	free_pair(p);
}

/* True: connected.  False: not yet, or the pair is gone. */
static bool is_connected(struct pair *p)
{
	struct end *ends = p->ends;

	if (ends[1].vchan)
		proxy_end_take_vchan(&ends[1], ends[1].vchan);
	ends[1].deaf = false;
	/* What was said of them meanwhile is said again by what they do. */
	ends[0].readable = ends[0].writable = ends[1].readable = ends[1].writable = true;
	if (proxy_end_watch(&ends[0], p->proxy->epoll) < 0) {
		cannot_connect(p, errno);
		return false;
	}
	p->connected = true;
	p->give_up_at = 0;
	p->wake_at = CLOCK_NEVER;
	proxy_tell(p->proxy, "connection %lu: connected to %s", p->number,
		   ends[1].endpoint->text);
	return true;
}

static void start_vchan(struct pair *p)
{
	struct end *e = &p->ends[1];

	e->vchan = libvchan_client_init_async(e->endpoint->domain, e->endpoint->port, &e->fd);
}

/* 0: the connect is done, or under way; else errno. */
static int start_socket(struct pair *p)
{
	struct end *e = &p->ends[1];
	bool pending;
	int fd = -1, err = EHOSTUNREACH;

	for (; fd < 0 && p->address < e->endpoint->count; p->address++) {
		fd = endpoint_connect(e->endpoint, p->address, &pending);
		if (fd < 0)
			err = errno;
		if (fd < 0 && (err == EAGAIN || tool_is_shortage(err)))
			return err;
	}
	if (fd < 0)
		return err;
	proxy_end_take_socket(e, fd);
	/* Else it is the first news that tells. */
	e->writable = !pending;
	return 0;
}

/* 0, or errno. */
static int start_connect(struct pair *p)
{
	struct end *e = &p->ends[1];
	int err = 0;

	if (e->endpoint->kind != ENDPOINT_VCHAN)
		err = start_socket(p);
	else
		start_vchan(p);
	if (!err && !e->vchan && e->fd < 0)
		err = errno;
	if (!err && proxy_end_watch(e, p->proxy->epoll) < 0)
		err = errno;
	return err;
}

/* 0: connected; EINPROGRESS; or why not. */
static int look_at_connect(struct end *e)
{
	socklen_t size = sizeof(int);
	int err = 0, ret;

	if (e->vchan) {
		ret = libvchan_client_init_async_finish(e->vchan, false);
		if (ret == 0)
			return 0;
		return ret > 0 ? EINPROGRESS : errno;
	}
	if (!e->writable)
		return EINPROGRESS;
	if (getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0)
		return errno;
	return err;
}

static int step_connect(struct pair *p)
{
	struct end *e = &p->ends[1];
	bool more;
	int err;

	do {
		err = e->fd < 0 ? start_connect(p) : 0;
		if (!err)
			err = look_at_connect(e);
		more = false;
		if (err && err != EINPROGRESS) {
			proxy_end_close(e, p->proxy->epoll);
			/* The name has other addresses. */
			more = err != EAGAIN && !tool_is_shortage(err) &&
			       p->address < e->endpoint->count;
		}
	} while (more);
	return err;
}

/* True: connected.  False: not yet, or the pair is gone. */
static bool connect_pair(struct pair *p)
{
	int err = step_connect(p);
	int64_t now = clock_now();

	if (!err)
		return is_connected(p);
	if (tool_is_shortage(err))
		proxy_is_short(p->proxy, err);
	if (err != EINPROGRESS && err != EAGAIN && !tool_is_shortage(err)) {
		cannot_connect(p, err);
	} else if (now >= p->give_up_at) {
		cannot_connect(p, err == EINPROGRESS || err == EAGAIN ? ETIMEDOUT : err);
	} else if (err == EINPROGRESS) {
		proxy_wake_at(p, p->give_up_at);
	} else {
		proxy_wake_at(p, now + (err == EAGAIN ? CONNECT_AGAIN : PROXY_PAUSE));
	}
	return false;
}

/* ---- carrying ---- */

static char piece[PAIR_PIECE];

/* Nobody takes it any more; what comes all the same is thrown away. */
static void give_up(struct way *w)
{
	free(w->left);
	w->left = NULL;
	w->size = 0;
	w->done = true;
}

static void out_of_memory(struct pair *p)
{
	proxy_complain(p->proxy, "connection %lu is broken off: %s", p->number,
		       tool_reason(ENOMEM));
	p->failed = true;
	give_up(&p->ways[0]);
	give_up(&p->ways[1]);
}

/* What waits.  False: the other end takes no more now. */
static bool deliver(struct way *w, struct end *to)
{
	ssize_t n = proxy_end_write(to, w->left + w->at, w->size);

	if (n < 0) {
		give_up(w);
		return true;
	}
	w->at += (size_t)n;
	w->size -= (size_t)n;
	w->carried += (uint64_t)n;
	if (w->size)
		return false;
	free(w->left);
	w->left = NULL;
	return true;
}

/* What was read.  The same. */
static bool forward(struct pair *p, struct way *w, struct end *to, size_t size)
{
	ssize_t n = proxy_end_write(to, piece, size);

	if (n < 0) {
		give_up(w);
		return true;
	}
	w->carried += (uint64_t)n;
	if ((size_t)n == size)
		return true;
	w->at = 0;
	w->size = size - (size_t)n;
	w->left = malloc(w->size);
	if (w->left)
		memcpy(w->left, piece + n, w->size);
	else
		out_of_memory(p);
	return false;
}

/* False: there is nothing more to do now. */
static bool carry_piece(struct pair *p, struct way *w, struct end *from, struct end *to)
{
	size_t n;

	if (w->size)
		return to->writable && deliver(w, to);
	if (from->ended) {
		proxy_end_finish(to);
		w->done = true;
		return false;
	}
	if (!from->readable)
		return false;
	n = proxy_end_read(from, piece, sizeof piece);
	return n ? forward(p, w, to, n) : from->ended;
}

static bool discard_piece(struct pair *p, struct end *from)
{
	size_t n = from->readable && !from->ended ? proxy_end_read(from, piece, sizeof piece) : 0;

	p->discarded += n;
	return n > 0;
}

/* The same. */
static bool carry(struct pair *p, int from)
{
	struct way *w = &p->ways[from];
	bool more = true;

	for (int turn = 0; more && turn < TURN; turn++) {
		if (p->ends[from].fd < 0)
			more = false;
		else if (w->done)
			more = discard_piece(p, &p->ends[from]);
		else
			more = carry_piece(p, w, &p->ends[from], &p->ends[!from]);
	}
	return more;
}

/* ---- the end ---- */

/* Is a socket's end of sending its end?  A TCP server's, that cannot be passed on as such,
 * most likely is. */
static bool ends_altogether(const struct pair *p, int i)
{
	return p->proxy->no_half_close ||
	       (i == 1 && p->ends[1].endpoint->kind == ENDPOINT_TCP && p->ends[0].vchan);
}

/* Will this end read nothing more of what is sent to it? */
static bool has_left(const struct pair *p, int i)
{
	const struct end *e = &p->ends[i];

	if (!e->vchan && e->ended && p->ways[i].done && ends_altogether(p, i))
		return true;
	return proxy_end_is_deaf(e);
}

/* True: that has changed something. */
static bool notice_who_left(struct pair *p)
{
	bool changed = false;

	for (int i = 0; i < 2; i++) {
		if (p->ways[!i].done || !has_left(p, i))
			continue;
		give_up(&p->ways[!i]);
		changed = true;
	}
	return changed;
}

static bool may_close_vchan(struct pair *p, const struct end *e)
{
	if (proxy_end_has_delivered(e))
		return true;
	proxy_wake_at(p, clock_now() + LOOK_VCHAN);
	return false;
}

static bool may_close_socket(struct pair *p, struct end *e)
{
	int64_t now = clock_now();

	proxy_end_finish(e);
	if (e->ended || e->deaf)
		return true;
	if (!p->give_up_at)
		p->give_up_at = now + p->proxy->linger;
	if ((now >= p->give_up_at || p->discarded > DISCARD_MOST) && proxy_end_has_delivered(e))
		return true;
	proxy_wake_at(p, now + LOOK_SOCKET);
	return false;
}

/* Both ways are done.  True: so are both ends. */
static bool close_ends(struct pair *p)
{
	bool all = true;

	for (int i = 0; i < 2; i++) {
		struct end *e = &p->ends[i];

		if (e->fd < 0)
			continue;
		if (e->vchan ? may_close_vchan(p, e) : may_close_socket(p, e))
			proxy_end_close(e, p->proxy->epoll);
		else
			all = false;
	}
	return all;
}

static void conclude(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		const struct end *e = &p->ends[i];

		if (!e->error)
			continue;
		p->failed = true;
		/* That a peer breaks off is its own affair. */
		if (e->error != ECONNRESET && e->error != EPIPE)
			proxy_complain(p->proxy, "connection %lu was broken off at %s: %s",
				       p->number, e->endpoint->text, tool_reason(e->error));
	}
	proxy_tell(p->proxy, "connection %lu has ended%s after %.3f s: %" PRIu64
		   " bytes to %s, %" PRIu64 " back", p->number,
		   p->failed ? " early" : "", (double)(clock_now() - p->began) / CLOCK_S,
		   p->ways[0].carried, p->proxy->to.text, p->ways[1].carried);
	free_pair(p);
}

void pair_cut_off(struct pair *p)
{
	p->failed = true;
	conclude(p);
}

void pair_run(struct pair *p)
{
	bool more;

	p->wake_at = CLOCK_NEVER;
	if (!p->connected && !connect_pair(p))
		return;
	p->ends[0].starved = p->ends[1].starved = false;
	more = carry(p, 0);
	more |= carry(p, 1);
	more |= notice_who_left(p);
	if (p->ways[0].done && p->ways[1].done && close_ends(p)) {
		conclude(p);
		return;
	}
	if (p->ends[0].starved || p->ends[1].starved)
		proxy_wake_at(p, clock_now() + STARVED_PAUSE);
	if (more)
		proxy_make_ready(p);
}
