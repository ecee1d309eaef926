/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static size_t clip(int printed, size_t room)
{
	if (printed < 0)
		return 0;
	return (size_t)printed < room ? (size_t)printed : room - 1;
}

/* A stderr that is full or closed is no reason to block, or to die of SIGPIPE. */
static void put_line(const char *line, size_t len)
{
	const struct timespec at_once = { 0, 0 };
	struct pollfd p = { STDERR_FILENO, POLLOUT, 0 };
	sigset_t sigpipe, saved, pending;

	if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
		return;
	sigemptyset(&sigpipe);
	sigaddset(&sigpipe, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &sigpipe, &saved);
	if (write(STDERR_FILENO, line, len) < 0 && errno == EPIPE &&
	    !sigismember(&pending, SIGPIPE))
		sigtimedwait(&sigpipe, NULL, &at_once);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static void say(const struct log *log, enum log_level level, const char *format,
		va_list args) __attribute__((format(printf, 3, 0)));

static void say(const struct log *log, enum log_level level, const char *format,
		va_list args)
{
	char line[640];
	size_t room = sizeof line - 1; /* for the newline */
	size_t len;
	int err = errno;

	if (log->level < level)
		return;
	len = clip(snprintf(line, room, "vchan-vsock: %s: ", log->name), room);
	len += clip(vsnprintf(line + len, room - len, format, args), room - len);
	/* A value from the environment stays on its line, and harmless. */
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 127)
			line[i] = '?';
	line[len++] = '\n';
	put_line(line, len);
	errno = err;
}

void log_error(const struct log *log, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(log, LOG_ERROR, format, args);
	va_end(args);
}

void log_info(const struct log *log, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(log, LOG_INFO, format, args);
	va_end(args);
}

void log_debug(const struct log *log, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(log, LOG_DEBUG, format, args);
	va_end(args);
}

static const char *advice(int err)
{
	switch (err) {
	case EAFNOSUPPORT:
		return "no vsock here; in a guest: modprobe vmw_vsock_virtio_transport; "
		       "on a host: modprobe vhost_vsock; for loopback: modprobe "
		       "vsock_loopback";
	case ENODEV:
		return "no such machine, or no vsock module for it; is the guest running "
		       "with -device vhost-vsock-pci,guest-cid=N? On a host: modprobe "
		       "vhost_vsock; in a guest: modprobe vmw_vsock_virtio_transport";
	case EADDRNOTAVAIL:
		return "this machine has no such CID; for loopback: modprobe "
		       "vsock_loopback";
	case EADDRINUSE:
		return "another process serves this port; ss --vsock -lp shows which";
	case EACCES:
	case EPERM:
		return "may this user open /dev/vsock and vsock sockets? See ls -l "
		       "/dev/vsock and the security policy";
	case ETIMEDOUT:
		return "the machine is there, but nobody served this port in time";
	case EMFILE:
		return "raise the limit of open files, ulimit -n";
	case EAGAIN:
		return "no thread could be started; see ulimit -u";
	default:
		return NULL;
	}
}

struct reason log_reason(int err)
{
	struct reason r;
	char words[96];
	const char *what = advice(err);
	/* The GNU version, which may return a string of its own. */
	const char *name = strerror_r(err, words, sizeof words);

	(void)snprintf(r.text, sizeof r.text, "%s%s%s", name, what ? ": " : "",
		       what ? what : "");
	return r;
}
