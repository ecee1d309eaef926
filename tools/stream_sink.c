/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIPE_SIZE (256 << 10)

void pipe_enlarge(int fd)
{
	int size = fcntl(fd, F_GETPIPE_SZ);

	if (size >= 0 && size < PIPE_SIZE)
		fcntl(fd, F_SETPIPE_SZ, PIPE_SIZE);
}

/* The same pipe, opened once more, has flags of its own. */
static int open_again(int fd)
{
	char path[32];

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

static void open_pipe(struct stream_sink *s, int fd)
{
	int again = open_again(fd);

	pipe_enlarge(fd);
	s->own = again >= 0;
	if (s->own)
		s->fd = again;
	s->kind = s->own ? SINK_PLAIN : SINK_CAREFUL;
}

void sink_open(struct stream_sink *s, int fd)
{
	struct stat st;
	int flags;

	*s = (struct stream_sink){ SINK_NOWHERE, fd, false };
	if (fd < 0)
		return;
	s->kind = SINK_PLAIN;
	flags = fcntl(fd, F_GETFL);
	if (fstat(fd, &st) < 0 || (flags >= 0 && (flags & O_NONBLOCK)))
		return;
	if (S_ISFIFO(st.st_mode))
		open_pipe(s, fd);
	else if (S_ISSOCK(st.st_mode))
		s->kind = SINK_SOCKET;
	else if (isatty(fd))
		s->kind = SINK_CAREFUL;
}

static bool has_room(int fd)
{
	struct pollfd p = { fd, POLLOUT, 0 };

	/* An error is for the write to tell. */
	return poll(&p, 1, 0) > 0;
}

static ssize_t try_to_write(const struct stream_sink *s, const void *data, size_t size)
{
	switch (s->kind) {
	case SINK_NOWHERE:
		return (ssize_t)size;
	case SINK_SOCKET:
		return send(s->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	case SINK_CAREFUL:
		if (!has_room(s->fd))
			return 0;
		return write(s->fd, data, size < PIPE_BUF ? size : PIPE_BUF);
	case SINK_PLAIN:
		break;
	}
	return write(s->fd, data, size);
}

ssize_t sink_write(const struct stream_sink *s, const void *data, size_t size)
{
	ssize_t n = try_to_write(s, data, size);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n;
}

void sink_close(struct stream_sink *s)
{
	if (s->own)
		close(s->fd);
	s->own = false;
	s->kind = SINK_NOWHERE;
}
