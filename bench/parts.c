/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one end of a set-up and close is made of, each part by itself: what any library
 * pays that has a thread, mirrored rings and an fd for select. */
#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"
#include "vchan/ring.h"

#define WRITE_RING (128u << 10) /* the memory behind rings of 64 KiB, bytes */
#define READ_RING (2u << 20)

static void *do_nothing(void *arg)
{
	return arg;
}

static int thread_once(void)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, do_nothing, NULL);
	if (!errno)
		errno = pthread_join(thread, NULL);
	return errno ? -1 : 0;
}

static int ring_once(size_t size)
{
	struct ring r;

	if (ring_init(&r, size) < 0)
		return -1;
	ring_free(&r);
	return 0;
}

static int rings_once(void)
{
	return ring_once(WRITE_RING) < 0 ? -1 : ring_once(READ_RING);
}

static int fds_once(void)
{
	int fds[3] = { epoll_create1(EPOLL_CLOEXEC), eventfd(0, EFD_CLOEXEC),
		       eventfd(0, EFD_CLOEXEC) };
	struct epoll_event event = { .events = EPOLLIN };
	int ret = epoll_ctl(fds[0], EPOLL_CTL_ADD, fds[1], &event), err = errno;

	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	errno = err;
	return ret;
}

static int listener_once(void)
{
	uint32_t port;
	int fd = socket_listen(&port, true);

	return fd < 0 ? -1 : close(fd);
}

/* 0 on failure. */
static uint64_t median_of(int (*once)(void))
{
	static uint64_t took[MOST_SAMPLES];

	for (size_t i = 0; i < MOST_SAMPLES; i++) {
		uint64_t start = now_ns();

		if (once() < 0)
			return 0;
		took[i] = now_ns() - start;
	}
	sort_ns(took, MOST_SAMPLES);
	return took[MOST_SAMPLES / 2];
}

void measure_parts(uint64_t ns[PARTS])
{
	ns[PART_THREAD] = median_of(thread_once);
	ns[PART_RINGS] = median_of(rings_once);
	ns[PART_FDS] = median_of(fds_once);
	ns[PART_LISTENER] = median_of(listener_once);
}
