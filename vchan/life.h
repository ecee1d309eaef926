/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of the process: all handles, for fork() and exit().
 *
 * fork: the child's copies of all fds are closed, or its parent's death would
 * not be seen by the peer.  So no fd may exist that its handle does not know:
 * between life_enter and life_leave, fds are opened and recorded, or closed
 * and forgotten, and no fork happens.  Nothing in between may block.
 *
 * exit: what lies in the write rings is sent first, for at most the linger
 * time, with no lock waited for.
 */
#ifndef VCHAN_LIFE_H
#define VCHAN_LIFE_H

#include <signal.h>

#include "handle.h"

/* Blocks all signals too: nobody can exit() while holding the lock.  What lies between
 * the two leaves its errno: life_leave keeps it. */
void life_enter(sigset_t *saved);
void life_leave(const sigset_t *saved);

/* 0, or -1/ENOMEM. */
int life_add(libvchan_t *h);
/* Closes all fds of the handle too. */
void life_remove(libvchan_t *h);

/* Inside of life_enter: close *fd and set it to -1; also when it is -1. */
void life_close(int *fd);

#endif
