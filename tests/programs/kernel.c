/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded: what the kernel says of itself is what a test wants it to say.
 *
 *     FAKE_NETLINK=PATH    netlink is a connection to this SOCK_SEQPACKET socket, where the
 *                          test answers
 *     FAKE_NETLINK=NUMBER  there is no netlink, and this is errno
 *     FAKE_RELEASE=TEXT    its release
 *     FAKE_CID=NUMBER      this machine's CID
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>

#include <linux/vm_sockets.h>

/* The next one of that name, maybe another that is preloaded. */
#define NEXT(name) ((__typeof__(&(name)))(uintptr_t)dlsym(RTLD_NEXT, #name))

static int connect_to_test(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = NEXT(socket)(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strncpy(un.sun_path, path, sizeof un.sun_path - 1);
	if (NEXT(connect)(fd, (struct sockaddr *)&un, sizeof un) < 0)
		abort();
	return fd;
}

int socket(int family, int type, int protocol)
{
	const char *where = getenv("FAKE_NETLINK");

	if (family != AF_NETLINK || !where)
		return NEXT(socket)(family, type, protocol);
	if (*where == '/')
		return connect_to_test(where);
	errno = atoi(where);
	return -1;
}

int connect(int fd, const struct sockaddr *to, socklen_t size)
{
	return to->sa_family == AF_NETLINK && getenv("FAKE_NETLINK") ? 0
		: NEXT(connect)(fd, to, size);
}

int uname(struct utsname *name)
{
	const char *release = getenv("FAKE_RELEASE");
	int ret = NEXT(uname)(name);

	if (ret == 0 && release)
		strncpy(name->release, release, sizeof name->release - 1);
	return ret;
}

int ioctl(int fd, unsigned long request, ...)
{
	const char *cid = getenv("FAKE_CID");
	va_list args;
	void *argument;

	va_start(args, request);
	argument = va_arg(args, void *);
	va_end(args);
	if (!cid || request != IOCTL_VM_SOCKETS_GET_LOCAL_CID)
		return NEXT(ioctl)(fd, request, argument);
	*(unsigned *)argument = (unsigned)strtoul(cid, NULL, 10);
	return 0;
}
