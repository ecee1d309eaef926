/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

size_t ring_size_for(size_t min)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);

	if (min > 2 * RING_MAX)
		return 0;
	while (size < min)
		size *= 2;
	return size;
}

/* Both halves show the same memory; false: errno says why. */
static int map_twice(char *base, size_t size, int fd)
{
	for (int half = 0; half < 2; half++)
		if (mmap(base + (size_t)half * size, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			return -1;
	return 0;
}

static char *map_ring(size_t size, int fd)
{
	char *base = mmap(NULL, 2 * size, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return NULL;
	if (map_twice(base, size, fd) < 0) {
		int err = errno;

		munmap(base, 2 * size);
		errno = err;
		return NULL;
	}
	/* Where the kernel gives huge pages to such memory (shmem_enabled), the first
	 * byte of a ring that idles would cost 2 MiB.  Elsewhere this fails. */
	(void)madvise(base, 2 * size, MADV_NOHUGEPAGE);
	return base;
}

int ring_init(struct ring *r, size_t min)
{
	size_t size = ring_size_for(min);
	int fd, err;

	memset(r, 0, sizeof *r);
	if (size == 0) {
		errno = EINVAL;
		return -1;
	}
	fd = memfd_create("vchan-ring", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) == 0)
		r->base = map_ring(size, fd);
	err = errno;
	close(fd);
	if (!r->base) {
		errno = err;
		return -1;
	}
	r->size = size;
	return 0;
}

void ring_free(struct ring *r)
{
	if (r->base)
		munmap(r->base, 2 * r->size);
	r->base = NULL;
	r->size = 0;
}

size_t ring_fill(const struct ring *r)
{
	/* Take `got` first: `put` only grows, so the difference never wraps
	 * below 0; a consumer meanwhile makes it too large by what it took. */
	uint64_t got = atomic_load(&r->got);
	uint64_t fill = atomic_load(&r->put) - got;

	return fill > r->size ? r->size : (size_t)fill;
}

size_t ring_room(const struct ring *r)
{
	return r->size - ring_fill(r);
}

static size_t place(const struct ring *r, uint64_t counter)
{
	return (size_t)(counter - atomic_load(&r->origin)) & (r->size - 1);
}

char *ring_room_at(struct ring *r)
{
	uint64_t put = atomic_load(&r->put);

	/* Empty: the consumer holds no pointer into it, so it can move. */
	if (atomic_load(&r->got) == put && atomic_load(&r->origin) != put)
		atomic_store(&r->origin, put);
	return r->base + place(r, put);
}

void ring_added(struct ring *r, size_t n)
{
	atomic_fetch_add(&r->put, n);
}

void ring_put(struct ring *r, const void *data, size_t n)
{
	memcpy(ring_room_at(r), data, n);
	ring_added(r, n);
}

const char *ring_fill_at(const struct ring *r)
{
	return r->base + place(r, atomic_load(&r->got));
}

void ring_taken(struct ring *r, size_t n)
{
	atomic_fetch_add(&r->got, n);
}

void ring_get(struct ring *r, void *data, size_t n)
{
	memcpy(data, ring_fill_at(r), n);
	ring_taken(r, n);
}
