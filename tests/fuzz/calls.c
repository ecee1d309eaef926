/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library calls the kernel past the C library (vchan/vsock.c), where no
 * sanitizer looks.  Here the same calls pass where one does: it knows which memory
 * the kernel is given.  The linker's --wrap=syscall leads here.
 */
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "fuzz.h"

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

/* It looks for more arguments than there may be. */
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...)
{
	long arg[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(args, long);
	va_end(args);
	switch (number) {
	case SYS_sendto:
		return send((int)arg[0], (const void *)arg[1], (size_t)arg[2], (int)arg[3]);
	case SYS_recvfrom:
		return recv((int)arg[0], (void *)arg[1], (size_t)arg[2], (int)arg[3]);
	case SYS_sendmsg:
		return sendmsg((int)arg[0], (const struct msghdr *)arg[1], (int)arg[2]);
	case SYS_recvmsg:
		return recvmsg((int)arg[0], (struct msghdr *)arg[1], (int)arg[2]);
	default:
		return __real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	}
}
