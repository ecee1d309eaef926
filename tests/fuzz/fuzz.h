/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzzers share.  fuzz_*.c are libFuzzer's targets, one for everything that
 * parses; engine.c drives whole handles.  None opens a vsock.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer keeps the input of what aborts. */
#define FUZZ_CHECK(condition)                                                        \
	do {                                                                         \
		if (!(condition)) {                                                  \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                     \
		}                                                                    \
	} while (0)

/* What handle_adopt reads: no /dev/vsock is asked, and nothing lingers. */
static inline void fuzz_environment(void)
{
	setenv("VCHAN_DOMAIN", "7", 1);
	setenv("VCHAN_VSOCK_LINGER_MS", "0", 1);
	setenv("VCHAN_VSOCK_LOG", "none", 1);
}

static inline void fuzz_pair(int fds[2])
{
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
}

#endif
