/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes have a socket, by its inode: a walk through /proc.
 */
#ifndef TOOLS_HOLDERS_H
#define TOOLS_HOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct holder {
	uint32_t inode; /* the question; the rest is the answer */
	pid_t pid;      /* the first of them; 0: nobody that may be looked at */
	int fd;         /* of that process */
	pid_t last;     /* of them, so far */
	unsigned count; /* of processes */
	char command[64];
};

/* Fills in the answers.  True: some processes could not be looked at. */
bool holders_find(struct holder *holders, size_t count);

#endif
