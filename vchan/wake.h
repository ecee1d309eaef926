/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How one thread ends another one's sleep: an eventfd for who sleeps in poll, a
 * futex for who waits for a word to change.
 */
#ifndef VCHAN_WAKE_H
#define VCHAN_WAKE_H

#include <poll.h>
#include <time.h>

#include "handle.h"

/* A new eventfd; -1: EMFILE, ENFILE, ENOMEM. */
int wake_open(int *fd);
/* Make it readable; merged with what was there. */
void wake_signal(int fd);
void wake_clear(int fd);

/* As ppoll(2).  Where the kernel refuses, as it does more fds than RLIMIT_NOFILE is by
 * now, it sleeps for a moment: who looks again each time need not know. */
int wake_poll(struct pollfd *fds, unsigned count, const struct timespec *limit,
	      const sigset_t *mask);

/* Sleep while *word is `seen`; and for whoever has changed it. */
void wake_await_change(_Atomic int *word, int seen);
void wake_changed(_Atomic int *word);

#endif
