/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * AF_VSOCK made of Unix sockets, so that what opens a vsock runs natively, where
 * the sanitizers, valgrind and the fuzzers are fast.
 *
 *   LD_PRELOAD=.../vsock.so PROGRAM     (tests/sessions.py, tests/coverage)
 *   ld --wrap=socket --wrap=...         (-DFAKE_WRAP: faults.c, which is before it)
 *
 * It is a host that has loopback: CID 1 and 2 are here.  A program that is started with
 * $FAKE_VSOCK_CID=42 is in a guest: CID 1 and 42 are here, 2 is the host, and another
 * guest does not answer.  A guest exists for its host as long as its first program lives;
 * every other CID is ENODEV.  A vsock port is a name in the abstract namespace;
 * $FAKE_VSOCK (a word) keeps runs apart from each other.
 *
 * What it does not have: the credits of real vsock (the buffer is a Unix socket's,
 * which counts small messages as larger ones), its resets, its packets.  What
 * relies on the kernel is proven in the lab; here it is the library's own code that
 * is looked at.
 *
 * The real AF_VSOCK cannot be reached from a program that has this preloaded, nor
 * from what that starts: a seccomp filter stands before it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#ifdef FAKE_WRAP
#define FAKE(name) fake_##name
#define REAL(name) __real_##name
#define LOOK_UP(name)
#define DECLARE(type, name, ...)         \
	type fake_##name(__VA_ARGS__);   \
	type __real_##name(__VA_ARGS__);
#else
#define FAKE(name) name
#define REAL(name) real_##name
#define DECLARE(type, name, ...) static type (*real_##name)(__VA_ARGS__);
#define LOOK_UP(name)                                                             \
	do                                                                        \
		if (!real_##name)                                                 \
			real_##name = (__typeof__(real_##name))(uintptr_t)        \
				dlsym(RTLD_NEXT, #name);                          \
	while (0)
#endif

DECLARE(int, socket, int, int, int)
DECLARE(int, bind, int, const struct sockaddr *, socklen_t)
DECLARE(int, connect, int, const struct sockaddr *, socklen_t)
DECLARE(int, accept4, int, struct sockaddr *, socklen_t *, int)
DECLARE(int, getsockname, int, struct sockaddr *, socklen_t *)
DECLARE(int, getpeername, int, struct sockaddr *, socklen_t *)
DECLARE(int, getsockopt, int, int, int, void *, socklen_t *)
DECLARE(int, setsockopt, int, int, int, const void *, socklen_t)
DECLARE(int, ioctl, int, unsigned long, ...)

#define DEFAULT_BUFFER (256 << 10)
#define PRIVILEGED 1024u
#define TRIES 64

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- names ---- */

/* Read once: a test may change its environment while its other threads connect. */
static pthread_once_t have_read = PTHREAD_ONCE_INIT;
static char word[64];
static uint32_t machine_cid = VMADDR_CID_HOST;

static void read_environment(void)
{
	const char *value = getenv("FAKE_VSOCK"), *cid = getenv("FAKE_VSOCK_CID");

	snprintf(word, sizeof word, "%s", value ? value : "");
	if (cid)
		machine_cid = (uint32_t)strtoul(cid, NULL, 10);
}

static const char *place(void)
{
	pthread_once(&have_read, read_environment);
	return word;
}

/* The machine that this program is in. */
static uint32_t own_cid(void)
{
	pthread_once(&have_read, read_environment);
	return machine_cid;
}

/* The name of a machine's port in the abstract namespace, and its length. */
static socklen_t name_of(uint32_t cid, uint32_t port, struct sockaddr_un *un)
{
	memset(un, 0, sizeof *un);
	un->sun_family = AF_UNIX;
	return (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 +
	       (socklen_t)snprintf(un->sun_path + 1, sizeof un->sun_path - 1,
				   "fake-vsock/%.48s/%u/%u", place(), cid, port);
}

/* The port of such a name, VMADDR_PORT_ANY: it has none; and its machine, as it is seen
 * from here. */
static uint32_t port_of(const struct sockaddr_un *un, socklen_t len, uint32_t *cid)
{
	char text[sizeof un->sun_path + 1] = "";
	char *port, *machine;

	*cid = VMADDR_CID_LOCAL;
	if (len <= offsetof(struct sockaddr_un, sun_path) + 1)
		return VMADDR_PORT_ANY;
	memcpy(text, un->sun_path + 1, len - offsetof(struct sockaddr_un, sun_path) - 1);
	port = strrchr(text, '/');
	if (!port)
		return VMADDR_PORT_ANY;
	*port = '\0';
	machine = strrchr(text, '/');
	if (machine && strtoul(machine + 1, NULL, 10) != own_cid())
		*cid = (uint32_t)strtoul(machine + 1, NULL, 10);
	return (uint32_t)strtoul(port + 1, NULL, 10);
}

static bool is_here(uint32_t cid)
{
	return cid == VMADDR_CID_LOCAL || cid == own_cid();
}

/* A datagram socket that each program in a guest has by this name. */
static socklen_t presence_of(uint32_t cid, struct sockaddr_un *un)
{
	return name_of(cid, VMADDR_PORT_ANY, un);
}

static bool is_vsock(const struct sockaddr *a, socklen_t len)
{
	return a && len >= sizeof(struct sockaddr_vm) && a->sa_family == AF_VSOCK;
}

/* As the kernel fills in an address: cut to what the caller has room for. */
static void tell(struct sockaddr *a, socklen_t *len, uint32_t cid, uint32_t port)
{
	struct sockaddr_vm vm;

	memset(&vm, 0, sizeof vm);
	vm.svm_family = AF_VSOCK;
	vm.svm_cid = cid;
	vm.svm_port = port;
	memcpy(a, &vm, *len < sizeof vm ? *len : sizeof vm);
	*len = sizeof vm;
}

static bool is_ours(const struct sockaddr_un *un, socklen_t len)
{
	static const char prefix[] = "fake-vsock/";

	return un->sun_family == AF_UNIX &&
	       len > offsetof(struct sockaddr_un, sun_path) + sizeof prefix &&
	       memcmp(un->sun_path + 1, prefix, sizeof prefix - 1) == 0;
}

/* ---- buffers ---- */

static void set_buffer(int fd, int size)
{
	LOOK_UP(setsockopt);
	if (REAL(setsockopt)(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
		REAL(setsockopt)(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static int buffer_of(int fd)
{
	int size = 0;
	socklen_t len = sizeof size;

	LOOK_UP(getsockopt);
	REAL(getsockopt)(fd, SOL_SOCKET, SO_SNDBUF, &size, &len);
	return size / 2; /* the kernel doubles what it is given */
}

/* ---- the calls ---- */

int FAKE(socket)(int family, int type, int protocol)
{
	int fd;

	LOOK_UP(socket);
	if (family != AF_VSOCK)
		return REAL(socket)(family, type, protocol);
	fd = REAL(socket)(AF_UNIX, type, protocol);
	if (fd >= 0)
		set_buffer(fd, DEFAULT_BUFFER);
	return fd;
}

static int bind_name(int fd, uint32_t port)
{
	struct sockaddr_un un;
	socklen_t len = name_of(own_cid(), port, &un);

	LOOK_UP(bind);
	return REAL(bind)(fd, (struct sockaddr *)&un, len);
}

/* Ports that are given by the kernel come one after the other, from anywhere. */
static int bind_any(int fd)
{
	static _Atomic uint32_t next;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	for (int i = 0; i < TRIES; i++) {
		uint32_t port = (uint32_t)now.tv_nsec * 2654435761u + (uint32_t)getpid() + next++;

		/* As a kernel does, never a privileged one. */
		if (bind_name(fd, (port % 0x7ffff000u) + PRIVILEGED) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -1;
	}
	return -1;
}

int FAKE(bind)(int fd, const struct sockaddr *a, socklen_t len)
{
	const struct sockaddr_vm *vm = (const struct sockaddr_vm *)(const void *)a;

	LOOK_UP(bind);
	if (!is_vsock(a, len))
		return REAL(bind)(fd, a, len);
	if (vm->svm_cid != VMADDR_CID_ANY && !is_here(vm->svm_cid))
		return fail(EADDRNOTAVAIL);
	if (vm->svm_port == VMADDR_PORT_ANY)
		return bind_any(fd);
	if (vm->svm_port < PRIVILEGED && geteuid() != 0)
		return fail(EACCES);
	return bind_name(fd, vm->svm_port);
}

static bool has_name(int fd)
{
	struct sockaddr_un un;
	socklen_t len = sizeof un;

	LOOK_UP(getsockname);
	return REAL(getsockname)(fd, (struct sockaddr *)&un, &len) == 0 && is_ours(&un, len);
}

static int connect_name(int fd, uint32_t cid, uint32_t port)
{
	struct sockaddr_un un;
	socklen_t len = name_of(is_here(cid) ? own_cid() : cid, port, &un);
	int flags = fcntl(fd, F_GETFL), ret, err;

	LOOK_UP(connect);
	if (flags < 0)
		return -1;
	/* A queue that is full answers at once, here as there. */
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	ret = REAL(connect)(fd, (struct sockaddr *)&un, len);
	err = errno;
	fcntl(fd, F_SETFL, flags);
	if (ret == 0)
		return (flags & O_NONBLOCK) ? fail(EINPROGRESS) : 0;
	return fail(err == ECONNREFUSED || err == EAGAIN ? ECONNRESET : err);
}

/* A program in it holds the name, so binding that fails. */
static bool is_guest(uint32_t cid)
{
	struct sockaddr_un un;
	socklen_t len = presence_of(cid, &un);
	int fd, err = 0;

	LOOK_UP(socket);
	LOOK_UP(bind);
	fd = REAL(socket)(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	if (REAL(bind)(fd, (struct sockaddr *)&un, len) < 0)
		err = errno;
	close(fd);
	return err == EADDRINUSE;
}

/* 0, or the errno of who connects to it. */
static int reach(uint32_t cid)
{
	bool in_guest = own_cid() != VMADDR_CID_HOST;

	if (is_here(cid) || (in_guest && cid == VMADDR_CID_HOST))
		return 0;
	if (in_guest)
		return ETIMEDOUT;
	return is_guest(cid) ? 0 : ENODEV;
}

int FAKE(connect)(int fd, const struct sockaddr *a, socklen_t len)
{
	const struct sockaddr_vm *vm = (const struct sockaddr_vm *)(const void *)a;

	LOOK_UP(connect);
	if (!is_vsock(a, len))
		return REAL(connect)(fd, a, len);
	if (reach(vm->svm_cid))
		return fail(reach(vm->svm_cid));
	if (!has_name(fd) && bind_any(fd) < 0)
		return -1;
	return connect_name(fd, vm->svm_cid, vm->svm_port);
}

int FAKE(accept4)(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
	struct sockaddr_un un;
	socklen_t un_len = sizeof un;
	uint32_t cid, port;
	int got;

	LOOK_UP(accept4);
	if (!has_name(fd))
		return REAL(accept4)(fd, a, len, flags);
	got = REAL(accept4)(fd, (struct sockaddr *)&un, &un_len, flags);
	if (got < 0)
		return -1;
	set_buffer(got, buffer_of(fd));
	port = port_of(&un, un_len, &cid);
	if (a)
		tell(a, len, cid, port);
	return got;
}

static void translate(const struct sockaddr_un *un, socklen_t un_len, struct sockaddr *a,
		      socklen_t *len)
{
	uint32_t cid, port;

	if (is_ours(un, un_len)) {
		port = port_of(un, un_len, &cid);
		tell(a, len, cid, port);
		return;
	}
	memcpy(a, un, *len < un_len ? *len : un_len);
	*len = un_len;
}

/* Addresses of all families fit into this. */
union any {
	struct sockaddr_storage storage;
	struct sockaddr_un un;
};

int FAKE(getsockname)(int fd, struct sockaddr *a, socklen_t *len)
{
	union any any;
	socklen_t any_len = sizeof any;

	LOOK_UP(getsockname);
	if (REAL(getsockname)(fd, (struct sockaddr *)&any, &any_len) < 0)
		return -1;
	translate(&any.un, any_len, a, len);
	return 0;
}

int FAKE(getpeername)(int fd, struct sockaddr *a, socklen_t *len)
{
	union any any;
	socklen_t any_len = sizeof any;

	LOOK_UP(getpeername);
	if (REAL(getpeername)(fd, (struct sockaddr *)&any, &any_len) < 0)
		return -1;
	translate(&any.un, any_len, a, len);
	return 0;
}

int FAKE(getsockopt)(int fd, int level, int name, void *value, socklen_t *len)
{
	uint64_t size;

	LOOK_UP(getsockopt);
	if (level != AF_VSOCK)
		return REAL(getsockopt)(fd, level, name, value, len);
	if (*len < sizeof size)
		return fail(EINVAL);
	size = (uint64_t)buffer_of(fd);
	memcpy(value, &size, sizeof size);
	*len = sizeof size;
	return 0;
}

int FAKE(setsockopt)(int fd, int level, int name, const void *value, socklen_t len)
{
	uint64_t size;

	LOOK_UP(setsockopt);
	if (level != AF_VSOCK)
		return REAL(setsockopt)(fd, level, name, value, len);
	if (name != SO_VM_SOCKETS_BUFFER_SIZE || len < sizeof size)
		return 0;
	memcpy(&size, value, sizeof size);
	set_buffer(fd, size > INT32_MAX / 2 ? INT32_MAX / 2 : (int)size);
	return 0;
}

int FAKE(ioctl)(int fd, unsigned long request, ...)
{
	va_list args;
	void *argument;

	va_start(args, request);
	argument = va_arg(args, void *);
	va_end(args);
	LOOK_UP(ioctl);
	if (request != IOCTL_VM_SOCKETS_GET_LOCAL_CID)
		return REAL(ioctl)(fd, request, argument);
	*(unsigned *)argument = own_cid();
	return 0;
}

#ifndef FAKE_WRAP
/* Python's way, and programs', to accept: the C library's accept() is another. */
int accept(int fd, struct sockaddr *a, socklen_t *len)
{
	return accept4(fd, a, len, 0);
}

/* Who leaves with something unread says so, once, after all that he has sent; vsock
 * does not. */
ssize_t recv(int fd, void *data, size_t size, int flags)
{
	static ssize_t (*real_recv)(int, void *, size_t, int);
	ssize_t n;

	LOOK_UP(recv);
	n = REAL(recv)(fd, data, size, flags);
	if (n < 0 && errno == ECONNRESET && has_name(fd))
		n = REAL(recv)(fd, data, size, flags);
	return n;
}

/* By this a program knows that its vsock is the fake. */
int fake_vsock_is_here(void);
int fake_vsock_is_here(void)
{
	return 1;
}

/* The first program in a guest is the guest: it ends with that one. */
__attribute__((constructor)) static void be_present(void)
{
	struct sockaddr_un un;
	int fd;

	if (own_cid() == VMADDR_CID_HOST)
		return;
	LOOK_UP(socket);
	LOOK_UP(bind);
	fd = REAL(socket)(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && REAL(bind)(fd, (struct sockaddr *)&un, presence_of(own_cid(), &un)) < 0)
		close(fd);
}

/* Whatever goes wrong here: no packet of ours ever reaches the machine's own vsock. */
__attribute__((constructor)) static void forbid_the_real_one(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_VSOCK, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
		return;
	perror("fake vsock: no seccomp filter, so nothing is run");
	_exit(125);
}
#endif
