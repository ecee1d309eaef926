/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program may run with its standard fds closed; what it prints, and what we
 * log, must not end up on the wire.  So our fds are 3 and above.
 */
#ifndef VCHAN_FD_H
#define VCHAN_FD_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* A new close-on-exec fd, or -1 and errno, goes in; the one to use comes out. */
static inline int fd_above_standard(int fd)
{
	int moved, err;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	err = errno;
	close(fd);
	errno = err;
	return moved;
}

#endif
