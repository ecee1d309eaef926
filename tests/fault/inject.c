/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE
#include "inject.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Two steps: vsock.c has the wrapper, and this is what that goes on to. */
#define CALLS(X)                                                                           \
	X(socket, EMFILE, ENFILE, ENOMEM, ENOBUFS, EACCES, EAFNOSUPPORT)                   \
	X(bind, EADDRINUSE, EADDRNOTAVAIL, EACCES, ENOMEM)                                 \
	X(listen, EACCES, ENOBUFS)                                                         \
	X(connect, ECONNRESET, ETIMEDOUT, ENODEV, EINTR, ENOMEM, ENOBUFS, EACCES,          \
	  EHOSTUNREACH)                                                                    \
	X(accept4, EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM)    \
	X(getsockopt, ENOPROTOOPT)                                                         \
	X(getsockopt_error, ENOBUFS)                                                       \
	X(setsockopt, ENOPROTOOPT, ENOMEM, EPERM)                                          \
	X(ioctl, ENOTTY, EFAULT)                                                           \
	X(open, ENOENT, ENXIO, EACCES, EMFILE, ENFILE, ENOMEM, EINTR)                      \
	X(fcntl_dupfd, EMFILE)                                                             \
	X(shutdown, ENOTCONN)                                                              \
	X(epoll_create1, EMFILE, ENFILE, ENOMEM)                                           \
	X(epoll_ctl, ENOMEM, ENOSPC)                                                       \
	X(epoll_wait, EINTR)                                                               \
	X(eventfd, EMFILE, ENFILE, ENOMEM)                                                 \
	X(timerfd_create, EMFILE, ENFILE, ENOMEM)                                          \
	X(poll, EINTR, ENOMEM)                                                             \
	X(ppoll, EINTR, ENOMEM)                                                            \
	X(nanosleep, EINTR)                                                                \
	X(write_stderr, EPIPE, EAGAIN, ENOSPC, EIO)                                        \
	X(recv, EINTR, ENOMEM, ENOBUFS, ECONNRESET)                                        \
	X(sendto, EAGAIN, EINTR, ENOMEM, ENOBUFS, EPIPE, ECONNRESET)                       \
	X(sendmsg, EAGAIN, EINTR, ENOMEM, ENOBUFS, EPIPE, ECONNRESET)                      \
	X(recvfrom, EAGAIN, EINTR, ENOMEM, ENOBUFS, ECONNRESET)                            \
	X(recvmsg, EAGAIN, EINTR, ENOMEM, ENOBUFS, ECONNRESET)                             \
	X(futex, EAGAIN, EINTR)                                                            \
	X(mmap, ENOMEM)                                                                    \
	X(mremap, ENOMEM, EINVAL)                                                          \
	X(madvise, EINVAL, ENOMEM)                                                         \
	X(memfd_create, EMFILE, ENFILE, ENOMEM)                                            \
	X(ftruncate, ENOMEM, EINTR)                                                        \
	X(calloc, ENOMEM)                                                                  \
	X(pthread_create, EAGAIN, EINVAL, EPERM)

#define AS_ENUM(name, ...) CALL_##name,
enum call { CALLS(AS_ENUM) CALL_COUNT };

#define AS_ROW(name, ...) { #name, { __VA_ARGS__ } },
const struct fault_call fault_calls[] = { CALLS(AS_ROW) };
const size_t fault_call_count = CALL_COUNT;

static atomic_int made[CALL_COUNT];
static atomic_int armed = -1; /* enum call */
static struct fault fault;    /* while none is armed, the test's; then fixed */
static atomic_int struck;
static _Atomic size_t cut;
static atomic_uint interrupt_one_in;
static atomic_bool no_mremap;

/* Calls; who waits for memory may do so until there is some. */
#define FOR_LONG 100

#define SITES 512
static _Atomic uintptr_t sites[SITES];

/* ---- what is told to fail ---- */

static enum call number_of(const char *name)
{
	for (unsigned i = 0; i < CALL_COUNT; i++)
		if (!strcmp(fault_calls[i].name, name))
			return (enum call)i;
	fprintf(stderr, "no such call: %s\n", name);
	abort();
}

void fault_count_anew(void)
{
	for (unsigned i = 0; i < CALL_COUNT; i++)
		atomic_store(&made[i], 0);
}

void fault_arm(const struct fault *f)
{
	fault = *f;
	fault_count_anew();
	atomic_store(&struck, 0);
	atomic_store(&armed, (int)number_of(f->call));
}

void fault_disarm(void)
{
	atomic_store(&armed, -1);
}

int fault_struck(void)
{
	return atomic_load(&struck);
}

int fault_calls_made(const char *call)
{
	return atomic_load(&made[number_of(call)]);
}

void fault_cut_sends(size_t most)
{
	atomic_store(&cut, most);
}

void fault_interrupt(unsigned one_in)
{
	atomic_store(&interrupt_one_in, one_in);
}

void fault_forbid_mremap(bool forbidden)
{
	atomic_store(&no_mremap, forbidden);
}

static void note_site(void *site)
{
	uintptr_t address = (uintptr_t)site, none;

	for (unsigned i = 0; i < SITES; i++) {
		none = 0;
		if (atomic_load(&sites[i]) == address ||
		    atomic_compare_exchange_strong(&sites[i], &none, address) ||
		    none == address)
			return;
	}
}

extern char __executable_start; /* the linker's */

void fault_print_sites(void)
{
	for (unsigned i = 0; i < SITES && sites[i]; i++)
		printf("site %#lx\n", (unsigned long)(sites[i] - (uintptr_t)&__executable_start));
}

static bool can_be_interrupted(enum call c)
{
	for (const int *e = fault_calls[c].errors; *e; e++)
		if (*e == EINTR)
			return true;
	return false;
}

/* True: fail, with errno. */
static bool fails(enum call c, void *site)
{
	int n = atomic_fetch_add(&made[c], 1) + 1;
	unsigned one_in = atomic_load(&interrupt_one_in);

	if (one_in && can_be_interrupted(c) && (unsigned)n % one_in == 0) {
		errno = EINTR;
		return true;
	}
	if (atomic_load(&armed) != (int)c || n < fault.nth ||
	    n >= fault.nth + (fault.on ? FOR_LONG : 1))
		return false;
	atomic_fetch_add(&struck, 1);
	note_site(site);
	errno = fault.err;
	return true;
}

#define SITE __builtin_return_address(0)
#define FAIL_IF_TOLD(name, value)         \
	do                                \
		if (fails(CALL_##name, SITE)) \
			return value;     \
	while (0)

/* ---- the calls ---- */

#define WRAP(type, name, bad, parameters, arguments) \
	type __real_##name parameters;               \
	type __wrap_##name parameters;               \
	type __wrap_##name parameters                \
	{                                            \
		FAIL_IF_TOLD(name, bad);             \
		return __real_##name arguments;      \
	}

/* These go to vsock.c, where they are fake_*, and from there to the kernel. */
#define WRAP_FAKE(type, name, parameters, arguments) \
	type fake_##name parameters;                 \
	type __wrap_##name parameters;               \
	type __wrap_##name parameters                \
	{                                            \
		FAIL_IF_TOLD(name, -1);              \
		return fake_##name arguments;        \
	}

WRAP_FAKE(int, socket, (int family, int type, int protocol), (family, type, protocol))
WRAP_FAKE(int, bind, (int fd, const struct sockaddr *a, socklen_t len), (fd, a, len))
WRAP_FAKE(int, connect, (int fd, const struct sockaddr *a, socklen_t len), (fd, a, len))
WRAP_FAKE(int, accept4, (int fd, struct sockaddr *a, socklen_t *len, int flags),
	  (fd, a, len, flags))
WRAP_FAKE(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t len),
	  (fd, level, name, value, len))
WRAP(int, listen, -1, (int fd, int queue), (fd, queue))
WRAP(int, shutdown, -1, (int fd, int how), (fd, how))
WRAP(int, epoll_create1, -1, (int flags), (flags))
WRAP(int, epoll_ctl, -1, (int epoll, int op, int fd, struct epoll_event *ev),
     (epoll, op, fd, ev))
WRAP(int, epoll_wait, -1, (int epoll, struct epoll_event *ev, int most, int ms),
     (epoll, ev, most, ms))
WRAP(int, eventfd, -1, (unsigned count, int flags), (count, flags))
WRAP(int, timerfd_create, -1, (int clock, int flags), (clock, flags))
WRAP(int, poll, -1, (struct pollfd *fds, nfds_t count, int ms), (fds, count, ms))
WRAP(int, ppoll, -1, (struct pollfd *fds, nfds_t count, const struct timespec *t,
		      const sigset_t *mask), (fds, count, t, mask))
WRAP(int, nanosleep, -1, (const struct timespec *t, struct timespec *left), (t, left))
WRAP(void *, mmap, MAP_FAILED, (void *at, size_t size, int prot, int flags, int fd, off_t off),
     (at, size, prot, flags, fd, off))
WRAP(int, madvise, -1, (void *at, size_t size, int advice), (at, size, advice))
WRAP(int, memfd_create, -1, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, -1, (int fd, off_t size), (fd, size))
WRAP(void *, calloc, NULL, (size_t count, size_t size), (count, size))

void *__real_mremap(void *at, size_t old, size_t size, int flags, ...);
void *__wrap_mremap(void *at, size_t old, size_t size, int flags, void *to);
void *__wrap_mremap(void *at, size_t old, size_t size, int flags, void *to)
{
	FAIL_IF_TOLD(mremap, MAP_FAILED);
	if (atomic_load(&no_mremap)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	return __real_mremap(at, old, size, flags, to);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
	FAIL_IF_TOLD(pthread_create, errno);
	return __real_pthread_create(t, a, f, arg);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags);
int __wrap_open(const char *path, int flags)
{
	FAIL_IF_TOLD(open, -1);
	/* Not the machine's own. */
	return __real_open(strcmp(path, "/dev/vsock") ? path : "/dev/null", flags);
}

int fake_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	if (level == SOL_SOCKET)
		FAIL_IF_TOLD(getsockopt_error, -1);
	else
		FAIL_IF_TOLD(getsockopt, -1);
	return fake_getsockopt(fd, level, name, value, len);
}

int fake_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	FAIL_IF_TOLD(ioctl, -1);
	return fake_ioctl(fd, request, argument);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, long argument);
int __wrap_fcntl(int fd, int command, long argument)
{
	if (command == F_DUPFD_CLOEXEC)
		FAIL_IF_TOLD(fcntl_dupfd, -1);
	return __real_fcntl(fd, command, argument);
}

ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size)
{
	if (fd == STDERR_FILENO)
		FAIL_IF_TOLD(write_stderr, -1);
	return __real_write(fd, data, size);
}

/* ---- for the tests ---- */

int real_poll(struct pollfd *fds, nfds_t count, int ms)
{
	return __real_poll(fds, count, ms);
}

int real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
	return __real_pthread_create(t, a, f, arg);
}

/* ---- transfers ----
 *
 * What is sent is cut, so that it comes in pieces, too.  A receive is not: one that
 * brings less than it was asked for has emptied the socket, in every kernel, and an
 * edge tells of what comes after it.
 */

static size_t cut_down(size_t size)
{
	size_t most = atomic_load(&cut);

	return most && size > most ? most : size;
}

/* A copy that names no more than it may. */
static struct msghdr cut_message(const struct msghdr *m, struct iovec pieces[2])
{
	struct msghdr copy = *m;
	size_t left = atomic_load(&cut) ? atomic_load(&cut) : SIZE_MAX;

	copy.msg_iov = pieces;
	for (size_t i = 0; i < m->msg_iovlen && i < 2; i++) {
		pieces[i] = m->msg_iov[i];
		if (pieces[i].iov_len > left)
			pieces[i].iov_len = left;
		left -= pieces[i].iov_len;
	}
	return copy;
}

ssize_t __real_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags)
{
	if (flags & MSG_PEEK)
		FAIL_IF_TOLD(recv, -1);
	else
		FAIL_IF_TOLD(recvfrom, -1); /* with ThreadSanitizer: vsock.c of the library */
	return __real_recv(fd, data, size, flags);
}

ssize_t __real_send(int fd, const void *data, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t size, int flags)
{
	FAIL_IF_TOLD(sendto, -1);
	return __real_send(fd, data, cut_down(size), flags);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
	struct iovec pieces[2];
	struct msghdr copy = cut_message(m, pieces);

	FAIL_IF_TOLD(sendmsg, -1);
	return __real_sendmsg(fd, &copy, flags);
}

ssize_t __real_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags)
{
	FAIL_IF_TOLD(recvmsg, -1);
	return __real_recvmsg(fd, m, flags);
}

static enum call call_of(long number)
{
	switch (number) {
	case SYS_sendto:
		return CALL_sendto;
	case SYS_sendmsg:
		return CALL_sendmsg;
	case SYS_recvfrom:
		return CALL_recvfrom;
	case SYS_recvmsg:
		return CALL_recvmsg;
	case SYS_futex:
		return CALL_futex;
	default:
		abort();
	}
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	enum call call = call_of(number);
	struct iovec pieces[2];
	struct msghdr copy;

	/* Who wakes others cannot fail. */
	if ((call != CALL_futex || (b & FUTEX_CMD_MASK) == FUTEX_WAIT) && fails(call, SITE))
		return -1;
	if (call == CALL_sendto)
		c = (long)cut_down((size_t)c);
	if (call == CALL_sendmsg) {
		copy = cut_message((const struct msghdr *)b, pieces);
		b = (long)&copy;
	}
	return __real_syscall(number, a, b, c, d, e, f);
}
