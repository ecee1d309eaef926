/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "life.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "driver.h"
#include "setup.h"
#include "wire.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static libvchan_t *handles;      /* under the lock */
static sigset_t mask_before_fork; /* under the lock */

void life_enter(sigset_t *saved)
{
	signals_block(saved);
	pthread_mutex_lock(&lock);
}

void life_leave(const sigset_t *saved)
{
	int err = errno;

	pthread_mutex_unlock(&lock);
	signals_restore(saved); /* a handler that has waited runs here */
	errno = err;
}

void life_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_fds(libvchan_t *h)
{
	/* These first: in a child they are the parent's, too, and no fd may be taken
	 * out of them. */
	events_close(&h->events);
	driver_close(h);
	life_close(&h->sock);
	life_close(&h->room_wake);
	setup_close(h);
}

static void before_fork(void)
{
	sigset_t saved;

	life_enter(&saved);
	mask_before_fork = saved;
}

static void after_fork(void)
{
	sigset_t saved = mask_before_fork;

	life_leave(&saved);
}

static void in_child(void)
{
	for (libvchan_t *h = handles; h; h = h->next) {
		close_fds(h);
		atomic_store(&h->orphan, true);
	}
	handles = NULL;
	after_fork();
}

static int fork_result;

/* When the library is loaded: handlers that are registered later run before
 * ours, so nobody waits for their locks while we hold ours. */
__attribute__((constructor)) static void at_load(void)
{
	fork_result = pthread_atfork(before_fork, after_fork, in_child);
}

int life_add(libvchan_t *h)
{
	sigset_t saved;

	if (fork_result) {
		errno = fork_result;
		return -1;
	}
	life_enter(&saved);
	h->next = handles;
	if (handles)
		handles->prev = h;
	handles = h;
	life_leave(&saved);
	return 0;
}

void life_remove(libvchan_t *h)
{
	sigset_t saved;

	life_enter(&saved);
	if (h->next)
		h->next->prev = h->prev;
	if (h->prev)
		h->prev->next = h->next;
	else
		handles = h->next;
	close_fds(h);
	life_leave(&saved);
}

/* A client has been told that it is connected, and the thread is about to say so here.
 * A caller that a handler's exit() has stopped there never will. */
static bool is_being_connected(const libvchan_t *h)
{
	return driver_attends && handle_state(h) == WAITING && atomic_load(&h->answered) &&
	       !atomic_load(&h->dead);
}

/* What other threads go on writing does not keep the process from its end. */
static bool owes(libvchan_t *h)
{
	return wire_unsent(h) && atomic_load(&h->out.got) < h->exit_mark;
}

/* A look at `reading`, which is held.  True: for good, by a frame of this thread below a
 * handler's exit(), which may have stopped it before it signed.  Another thread may be
 * there, too, but not for so many looks. */
static bool is_receiver_stopped(libvchan_t *h)
{
	pthread_t receiver = atomic_load(&h->receiver);

	h->nameless = receiver ? 0 : h->nameless + 1;
	return receiver ? pthread_equal(receiver, pthread_self()) : h->nameless >= CONN_LOOKS;
}

/* On the framed wire what is left may wait for an acknowledgement.  A receiver
 * in another thread takes it in. */
static void take_acknowledgements(libvchan_t *h)
{
	bool mine = pthread_mutex_trylock(&h->reading) == 0;

	if (mine)
		h->nameless = 0;
	else if (!is_receiver_stopped(h))
		return;
	wire_pull(h, SIZE_MAX, false);
	if (mine)
		pthread_mutex_unlock(&h->reading);
}

/* Sends what it can of all handles; true while something is left to wait for. */
static bool flush_all(int64_t start)
{
	bool left = false;

	for (libvchan_t *h = handles; h; h = h->next) {
		if (!h->exit_mark)
			h->exit_mark = atomic_load(&h->out.put);
		if (clock_now() > start + h->config.linger_ms * CLOCK_MS)
			continue;
		left |= is_being_connected(h);
		if (!owes(h))
			continue;
		if (pthread_mutex_trylock(&h->draining) == 0) {
			wire_drain(h);
			wire_unlock(h);
		}
		if (owes(h) && handle_is_framed(h))
			take_acknowledgements(h);
		left |= owes(h);
	}
	return left;
}

/* Of flush_step, a millisecond apart: a clock would count time that we were not running. */
#define TRIES 1000

/* The lock is only ever held with signals blocked, hence by a thread that is
 * running and soon done, never by a frame below this one; all the same it is
 * tried, not waited for.  `tries`: how often in a row it was held. */
static bool flush_step(int64_t start, unsigned *tries)
{
	sigset_t saved;
	bool left = true;

	signals_block(&saved);
	if (pthread_mutex_trylock(&lock) == 0) {
		*tries = 0;
		left = flush_all(start);
		pthread_mutex_unlock(&lock);
	} else if (++*tries == TRIES) {
		left = false;
	}
	signals_restore(&saved);
	return left;
}

/* The last frame; a plain wire's peer sees the kernel's end of stream. */
static void say_goodbye(void)
{
	sigset_t saved;

	signals_block(&saved);
	if (pthread_mutex_trylock(&lock) == 0) {
		for (libvchan_t *h = handles; h; h = h->next)
			wire_end(h);
		pthread_mutex_unlock(&lock);
	}
	signals_restore(&saved);
}

/* A destructor, so that it runs after the program's own atexit handlers. */
__attribute__((destructor)) static void at_exit(void)
{
	const struct timespec pause = { 0, 1000000 };
	int64_t start = clock_now();
	unsigned tries = 0;

	while (flush_step(start, &tries))
		nanosleep(&pause, NULL);
	say_goodbye();
}
