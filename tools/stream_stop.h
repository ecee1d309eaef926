/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SIGINT, SIGTERM and SIGHUP as an event among others, so that what was begun is
 * cleaned up before the process dies of them.  The second one kills at once.
 */
#ifndef TOOLS_STREAM_STOP_H
#define TOOLS_STREAM_STOP_H

#include <stdbool.h>

/* From now on; returns an fd that is readable when one of them has come, or a child
 * has ended.  -1: errno. */
int stop_begin(void);
/* Clears the fd, but for a signal that stops us. */
void stop_clear(void);
/* The signal that has come; 0: none. */
int stop_signal(void);
/* Die of the signal that has come, as if it had not been held up; else return. */
void stop_now(void);

#endif
