/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "fd.h"

static int close_keeping_errno(int fd)
{
	int err = errno;

	close(fd);
	errno = err;
	return -1;
}

int vsock_local_cid(uint32_t *cid)
{
	unsigned int got = VMADDR_CID_ANY;
	int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0) {
		if (errno == ENOENT || errno == ENXIO)
			errno = ENODEV;
		return -1;
	}
	ret = ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &got);
	if (ret < 0 && errno == ENOTTY)
		errno = ENODEV; /* something else lies at that path */
	close_keeping_errno(fd);
	if (ret < 0)
		return -1;
	if (got == VMADDR_CID_ANY) {
		errno = ENODEV;
		return -1;
	}
	*cid = got;
	return 0;
}

static struct sockaddr_vm address(uint32_t cid, uint32_t port)
{
	struct sockaddr_vm a;

	memset(&a, 0, sizeof a);
	a.svm_family = AF_VSOCK;
	a.svm_cid = cid;
	a.svm_port = port;
	return a;
}

#define NUDGE_SIZES (64u << 10)

/* A kernel that refuses keeps its default: slower, and as correct. */
static void set_buffer(int fd, uint32_t buffer)
{
	uint64_t size = buffer, most = size + NUDGE_SIZES;

	/* The maximum first, or the size would be cut to it without a word. */
	(void)setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &most, sizeof most);
	(void)setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size);
}

void vsock_nudge(int fd, uint32_t buffer, unsigned count)
{
	/* The kernel tells the peer of each change.  A byte more each time, and less again once
	 * in a long while: what is on the way already, and too much for a buffer that has become
	 * smaller, it drops without a word. */
	uint64_t size = (uint64_t)buffer + count % NUDGE_SIZES;

	(void)setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size);
}

uint32_t vsock_buffer(int fd)
{
	uint64_t size = 0;
	socklen_t len = sizeof size;

	if (getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, &len) < 0)
		return 0;
	return size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
}

int vsock_socket(uint32_t buffer)
{
	int fd = fd_above_standard(
		socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	if (fd >= 0)
		set_buffer(fd, buffer);
	return fd;
}

static int bind_to(int fd, uint32_t cid, uint32_t port)
{
	struct sockaddr_vm a = address(cid, port);

	return bind(fd, (struct sockaddr *)&a, sizeof a);
}

int vsock_listen(int fd, uint32_t cid, uint32_t port, int queue)
{
	if (bind_to(fd, cid, port) < 0)
		return -1;
	return listen(fd, queue);
}

int vsock_bind(int fd, uint32_t port)
{
	return bind_to(fd, VMADDR_CID_ANY, port);
}

int vsock_accept(int fd, uint32_t *peer_cid, uint32_t *peer_port)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct sockaddr_vm a;
	socklen_t len = sizeof a;
	int got;

	/* An accept that fails makes and destroys a socket first, which is slow. */
	if (poll(&p, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	memset(&a, 0, sizeof a);
	do
		got = accept4(fd, (struct sockaddr *)&a, &len, SOCK_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got >= 0) {
		*peer_cid = a.svm_cid;
		*peer_port = a.svm_port;
	}
	return fd_above_standard(got);
}

int vsock_connect(int fd, uint32_t cid, uint32_t port)
{
	struct sockaddr_vm a = address(cid, port);

	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return -1;
	return vsock_connected(fd);
}

int vsock_connect_sibling(int fd, uint32_t cid, uint32_t port)
{
	struct sockaddr_vm a = address(cid, port);

	a.svm_flags = VMADDR_FLAG_TO_HOST;
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return -1;
	return vsock_connected(fd);
}

int vsock_connected(int fd)
{
	int err = 0, flags;
	socklen_t len = sizeof err;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		return -1;
	if (err) {
		errno = err;
		return -1;
	}
	flags = fcntl(fd, F_GETFL);
	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

/* Not the C library's calls: in those pthread_cancel can end a thread, which then
 * would keep our locks, and it costs them time in each.  ThreadSanitizer knows
 * only the C library's. */
#if defined(__SANITIZE_THREAD__)
#define HAS_TSAN 1
#elif defined(__has_feature)
#define HAS_TSAN __has_feature(thread_sanitizer)
#else
#define HAS_TSAN 0
#endif
#if HAS_TSAN
#define SEND(fd, data, size, flags) send(fd, data, size, flags)
#define RECV(fd, data, size, flags) recv(fd, data, size, flags)
#define SENDMSG(fd, m, flags) sendmsg(fd, m, flags)
#define RECVMSG(fd, m, flags) recvmsg(fd, m, flags)
#else
#define SEND(fd, data, size, flags) syscall(SYS_sendto, fd, data, size, flags, NULL, 0)
#define RECV(fd, data, size, flags) syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL)
#define SENDMSG(fd, m, flags) syscall(SYS_sendmsg, fd, m, flags)
#define RECVMSG(fd, m, flags) syscall(SYS_recvmsg, fd, m, flags)
#endif

ssize_t vsock_send(int fd, const void *data, size_t size, bool wait)
{
	int flags = MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT);
	ssize_t n;

	do
		n = SEND(fd, data, size, flags);
	while (n < 0 && errno == EINTR);
	return n;
}

ssize_t vsock_send_pair(int fd, const void *head, size_t head_size, const void *data,
			size_t size)
{
	/* The kernel only reads them, but an iovec has no const. */
	/* NOLINTBEGIN(performance-no-int-to-ptr): gcc warns of a cast from const to not */
	struct iovec from[2] = { { (void *)(uintptr_t)head, head_size },
				 { (void *)(uintptr_t)data, size } };
	/* NOLINTEND(performance-no-int-to-ptr) */
	struct msghdr m;
	ssize_t n;

	memset(&m, 0, sizeof m);
	m.msg_iov = head_size ? from : from + 1;
	m.msg_iovlen = 1 + (head_size && size);
	do
		n = SENDMSG(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n;
}

ssize_t vsock_peek(int fd)
{
	char byte;
	ssize_t n;

	do
		n = recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n;
}

bool vsock_has_ended(int fd)
{
	struct pollfd p = { fd, POLLRDHUP, 0 };
	int n = poll(&p, 1, 0);
	ssize_t got;

	if (n >= 0)
		return n > 0;
	/* The kernel refuses to look (wake_poll); this sees it once all is read. */
	got = vsock_peek(fd);
	return got == 0 || (got < 0 && errno != EAGAIN);
}

#define MEMORY_TRIES 16

/* Unread bytes wait in the kernel while its memory is short, and nobody may take that
 * for their end.  The ENOBUFS of a connection that was reset stays. */
static bool may_try_again(int *tries)
{
	if (vsock_is_short_of_memory(errno))
		return ++*tries < MEMORY_TRIES;
	return errno == EINTR;
}

ssize_t vsock_recv(int fd, void *to, size_t size, bool wait)
{
	int tries = 0;
	ssize_t n;

	do
		n = RECV(fd, to, size, wait ? 0 : MSG_DONTWAIT);
	while (n < 0 && may_try_again(&tries));
	return n;
}

ssize_t vsock_recv_pair(int fd, struct iovec to[2], bool wait)
{
	struct msghdr m;
	int tries = 0;
	ssize_t n;

	memset(&m, 0, sizeof m);
	m.msg_iov = to;
	m.msg_iovlen = 2;
	do
		n = RECVMSG(fd, &m, wait ? 0 : MSG_DONTWAIT);
	while (n < 0 && may_try_again(&tries));
	return n;
}
