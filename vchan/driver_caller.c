/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * No thread: each call begins with what nobody has done since the last one
 * (driver_catch_up), and what comes up during a call is done at once
 * (driver_wake).  A call that blocks goes on driving: it sleeps for the
 * connection's work as well as for its own.
 *
 * So that the program knows when to call, what conn_step would sleep for lies in
 * an epoll fd of its own (h->wake), with a timerfd, and that one in the fd that
 * the program sleeps on.  It is kept up to date only for those who sleep there.
 *
 * The program may have two threads in calls.  One of them drives at a time:
 * `idle` says that nobody does, and who cannot drive leaves it to the other, who
 * looks again after unsetting it, as the thread does before it sleeps
 * (tests/model/caller.pml).
 */
#define _GNU_SOURCE
#include "driver.h"

#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#include "clock.h"
#include "fd.h"
#include "life.h"
#include "nudge.h"
#include "setup.h"
#include "wake.h"

/* How long a wait stays for a peer that is at the door, but not in yet: programs
 * take the first event of a server for its connection. */
#define AT_THE_DOOR (50 * CLOCK_MS)
/* When the kernel cannot watch for us. */
#define LOOK_AGAIN (20 * CLOCK_MS)

const bool driver_attends = false;

/* ---- what the program is to be woken for ---- */

static int control(libvchan_t *h, int op, int fd, short events)
{
	struct epoll_event ev;

	memset(&ev, 0, sizeof ev);
	ev.events = (uint32_t)events; /* POLLIN is EPOLLIN, and so on */
	return epoll_ctl(h->wake, op, fd, &ev);
}

/* Input and the end of the connection are in the program's own epoll fd. */
static short to_watch(const libvchan_t *h, const struct pollfd *p)
{
	if (p->fd == h->sock)
		return (short)(p->events & POLLOUT);
	return p->events;
}

static short events_of(const libvchan_t *h, const struct conn_sleep *s, int fd)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->fds[i].fd == fd)
			return to_watch(h, &s->fds[i]);
	return 0;
}

/* NULL: it is not watched. */
static struct pollfd *watched(libvchan_t *h, int fd)
{
	for (unsigned i = 0; i < h->watched_count; i++)
		if (h->watched[i].fd == fd)
			return &h->watched[i];
	return NULL;
}

/* Their events do not change while they are watched. */
static void watch_no_more(libvchan_t *h, const struct conn_sleep *s)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < h->watched_count; i++) {
		struct pollfd *old = &h->watched[i];

		if (events_of(h, s, old->fd) == old->events)
			h->watched[kept++] = *old;
		else
			control(h, EPOLL_CTL_DEL, old->fd, 0);
	}
	h->watched_count = kept;
}

/* False: the kernel has no memory for it. */
static bool watch_more(libvchan_t *h, const struct conn_sleep *s)
{
	for (unsigned i = 0; i < s->count; i++) {
		struct pollfd new = { s->fds[i].fd, to_watch(h, &s->fds[i]), 0 };

		if (!new.events || watched(h, new.fd))
			continue;
		if (control(h, EPOLL_CTL_ADD, new.fd, new.events) < 0)
			return false;
		h->watched[h->watched_count++] = new;
	}
	return true;
}

static void set_timer(libvchan_t *h, int64_t until)
{
	struct itimerspec t;

	if (until == h->timer_until)
		return;
	h->timer_until = until;
	memset(&t, 0, sizeof t);
	if (until != CLOCK_NEVER) {
		t.it_value.tv_sec = (time_t)(until / CLOCK_S);
		t.it_value.tv_nsec = (long)(until % CLOCK_S);
	}
	timerfd_settime(h->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static void watch(libvchan_t *h, struct conn_sleep *s)
{
	/* The fd is quiet after the end; what is left goes in the calls to come. */
	if (handle_state(h) == DISCONNECTED) {
		s->count = 0;
		s->until = CLOCK_NEVER;
	}
	watch_no_more(h, s);
	if (!watch_more(h, s) && s->until > clock_now() + LOOK_AGAIN)
		s->until = clock_now() + LOOK_AGAIN;
	set_timer(h, s->until);
	atomic_store(&h->has_watched, h->watched_count > 0 || h->timer_until != CLOCK_NEVER);
}

void driver_forget(libvchan_t *h, int fd)
{
	struct pollfd *old = watched(h, fd);

	if (!old)
		return;
	*old = h->watched[--h->watched_count];
	control(h, EPOLL_CTL_DEL, fd, 0);
}

/* ---- driving ---- */

static bool become_driver(libvchan_t *h)
{
	return atomic_exchange(&h->idle, false);
}

static void stop_driving(libvchan_t *h)
{
	atomic_store(&h->idle, true);
	atomic_fetch_add(&h->handovers, 1);
	if (atomic_load(&h->successors))
		wake_changed(&h->handovers);
}

static void take_steps(libvchan_t *h, struct conn_sleep *s)
{
	do
		conn_step(h, s);
	while (s->until != CLOCK_NEVER && s->until <= clock_now());
}

/* Whoever sleeps on h->wake said so before he looked. */
static bool has_sleeper(const libvchan_t *h)
{
	return atomic_load(&h->fd_used) || atomic_load(&h->input_sleeper);
}

/* False: there was nobody to watch for. */
static bool make_progress(libvchan_t *h, struct conn_sleep *s)
{
	bool watches;

	take_steps(h, s);
	watches = has_sleeper(h) || atomic_load(&h->has_watched);
	if (watches)
		watch(h, s);
	return watches;
}

/* Another thread was sending when we would have.  If it still is, it will see that
 * nobody drives when it has stopped; if not, what it did not see is ours. */
static bool has_left_some(libvchan_t *h)
{
	if (pthread_mutex_trylock(&h->draining) != 0)
		return false;
	wire_unlock(h);
	return wire_unsent(h);
}

/* False: another thread does. */
static bool drive(libvchan_t *h)
{
	struct conn_sleep s;
	sigset_t saved;
	bool more = true, watches, drove = false;

	signals_block(&saved); /* as in a thread of ours */
	while (more && become_driver(h)) {
		drove = true;
		watches = make_progress(h, &s);
		stop_driving(h);
		/* What came up meanwhile, for who saw that somebody drives. */
		more = (!watches && has_sleeper(h)) ||
		       (!s.patient && conn_has_work(h, &s)) ||
		       (s.busy && has_left_some(h));
	}
	signals_restore(&saved);
	return drove;
}

/* For who cannot wait until the other thread that drives has done what is due. */
static void drive_or_pause(libvchan_t *h)
{
	const struct timespec pause = { 0, CLOCK_MS };

	if (!drive(h))
		nanosleep(&pause, NULL);
}

void driver_wake(libvchan_t *h)
{
	drive(h);
}

/* The fd is readable for what is done now: the next wait returns all the same. */
static void spare_the_next_wait(libvchan_t *h)
{
	struct pollfd p = { h->wake, POLLIN, 0 };

	if (atomic_load(&h->has_watched) && poll(&p, 1, 0) > 0)
		atomic_store(&h->taken, true);
}

static bool is_to_be_nudged(const libvchan_t *h)
{
	return setup_is_for_guest(h) && handle_state(h) == CONNECTED &&
	       clock_now() >= atomic_load(&h->nudge_at);
}

static void catch_up(libvchan_t *h)
{
	enum state s = handle_state(h);

	/* What is watched but not unsent was sent by somebody who did not drive. */
	if (s == WAITING || s == CONNECTING || wire_unsent(h) || atomic_load(&h->has_watched) ||
	    is_to_be_nudged(h))
		drive(h);
}

void driver_catch_up(libvchan_t *h)
{
	if (atomic_load(&h->orphan))
		return;
	spare_the_next_wait(h);
	catch_up(h);
}

/* ---- its life ---- */

static int open_fds(libvchan_t *h)
{
	h->wake = fd_above_standard(epoll_create1(EPOLL_CLOEXEC));
	if (h->wake < 0)
		return -1;
	h->timer = fd_above_standard(
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	if (h->timer < 0 || control(h, EPOLL_CTL_ADD, h->timer, POLLIN) < 0)
		return -1;
	return events_add_driver(&h->events, h->wake);
}

int driver_open(libvchan_t *h)
{
	sigset_t saved;
	int ret;

	h->timer_until = CLOCK_NEVER;
	life_enter(&saved);
	ret = open_fds(h);
	life_leave(&saved);
	return ret;
}

void driver_close(libvchan_t *h)
{
	life_close(&h->wake);
	life_close(&h->timer);
}

int driver_start(libvchan_t *h)
{
	atomic_store(&h->idle, true);
	/* An asynchronous connect begins now. */
	if (atomic_load(&h->fd_used))
		drive(h);
	return 0;
}

static bool never(const libvchan_t *h)
{
	(void)h;
	return false;
}

/* Nobody else is in a call any more; a frame that exit() has stopped may still be
 * the driver. */
void driver_stop(libvchan_t *h)
{
	atomic_store(&h->closing, true);
	atomic_store(&h->idle, false);
	driver_run(h, never);
}

/* ---- calls that block ---- */

/* As the driver: asleep between the steps, until it is enough, or time is over. */
static void drive_on(libvchan_t *h, bool (*enough)(const libvchan_t *h), int64_t until)
{
	struct conn_sleep s;
	sigset_t saved;

	signals_block(&saved);
	for (;;) {
		make_progress(h, &s);
		if (enough(h) || (until != CLOCK_NEVER && clock_now() >= until))
			break;
		driver_sleep(s.fds, s.count, s.until < until ? s.until : until, &saved);
	}
	stop_driving(h);
	signals_restore(&saved);
}

static bool is_decided(const libvchan_t *h)
{
	enum state s = handle_state(h);

	return s != WAITING && s != CONNECTING;
}

void driver_await_peer(libvchan_t *h)
{
	int seen;

	atomic_fetch_add(&h->successors, 1);
	while (seen = atomic_load(&h->handovers), !is_decided(h)) {
		if (become_driver(h))
			drive_on(h, is_decided, CLOCK_NEVER);
		else
			wake_await_change(&h->handovers, seen);
	}
	atomic_fetch_sub(&h->successors, 1);
	catch_up(h);
}

static bool is_door_free(const libvchan_t *h)
{
	return is_decided(h) || !setup_has_visitor(h);
}

/* Work was due.  If that is somebody who may be the peer, he should be in before long. */
static void let_in(libvchan_t *h)
{
	if (become_driver(h))
		drive_on(h, is_door_free, clock_now() + AT_THE_DOOR);
	catch_up(h);
}

int driver_wait(libvchan_t *h, bool at_once)
{
	int seen;

	/* The fd was readable: whatever it was for, return. */
	seen = events_wait(&h->events, true);
	if (seen & EVENTS_DRIVER)
		let_in(h);
	else
		catch_up(h);
	while (!at_once && !seen) {
		seen = events_wait(&h->events, false);
		if (!(seen & EVENTS_DRIVER))
			continue;
		drive_or_pause(h);
		seen &= ~EVENTS_DRIVER;
	}
	return seen;
}

/* Nothing else tells of a guest that has started anew (conn.c). */
static int64_t until_nudge(const libvchan_t *h)
{
	return setup_is_for_guest(h) ? clock_now() + NUDGE_EVERY : CLOCK_NEVER;
}

bool driver_await_input(libvchan_t *h)
{
	struct pollfd p[2] = { { h->sock, POLLIN | POLLRDHUP, 0 }, { h->wake, POLLIN, 0 } };

	atomic_store(&h->input_sleeper, true);
	catch_up(h);
	while (handle_state(h) == CONNECTED && !p[0].revents) {
		if (!driver_sleep(p, 2, until_nudge(h), NULL))
			break;
		if (p[1].revents || !p[0].revents)
			drive_or_pause(h);
	}
	atomic_store(&h->input_sleeper, false);
	return false;
}

bool driver_await_output(libvchan_t *h)
{
	struct pollfd p = { h->sock, POLLOUT | POLLRDHUP, 0 };

	if (wake_poll(&p, 1, NULL, NULL) > 0 && (p.revents & POLLRDHUP))
		conn_ended(h, true);
	return false;
}
