/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --exec: a shell's command with a pipe to its standard input and one from its
 * standard output.
 */
#ifndef TOOLS_STREAM_COMMAND_H
#define TOOLS_STREAM_COMMAND_H

#include <stdbool.h>
#include <sys/types.h>

struct stream_command {
	pid_t pid;   /* 0: there is none, or it has ended and was reaped */
	int to;      /* its standard input, non-blocking; -1: closed */
	int from;    /* its standard output */
	int status;  /* as a shell has it, once it has ended */
};

/* In a process group of its own.  -1: errno. */
int command_start(struct stream_command *c, const char *line);
/* Has it ended?  Never blocks. */
bool command_has_ended(struct stream_command *c);
/* Closes the pipes, asks it and its group to end (SIGTERM), kills them if it has not
 * soon, and reaps it. */
void command_stop(struct stream_command *c);
void command_close(struct stream_command *c);

#endif
