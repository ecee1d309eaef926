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

/* The kernel aligns such memory, as it does its own buffers.  Between addresses whose
 * lower bits agree an emulated processor, whose table of pages is small, copies many
 * times slower: so the ring begins some pages later. */
#define PAGES_BEFORE 5

static size_t before(void)
{
	return PAGES_BEFORE * (size_t)sysconf(_SC_PAGESIZE);
}

/* The second half shows the memory of the first.  An old size of 0 means to mremap:
 * leave the old mapping, and make another one of the same pages. */
static int mirror(char *base, size_t size)
{
	void *half = mremap(base, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, base + size);

	return half == MAP_FAILED ? -1 : 0;
}

/* The same by a file; for valgrind, which knows no such mremap. */
static int map_file_twice(char *base, size_t size)
{
	int fd = memfd_create("vchan-ring", MFD_CLOEXEC), ret = -1, err;

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) == 0)
		ret = 0;
	for (size_t half = 0; half < 2 && ret == 0; half++)
		if (mmap(base + half * size, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			ret = -1;
	err = errno;
	close(fd);
	errno = err;
	return ret;
}

int ring_init(struct ring *r, size_t min)
{
	size_t size = ring_size_for(min);
	char *base;

	memset(r, 0, sizeof *r);
	/* A 32-bit machine has no addresses for twice the largest. */
	if (size == 0 || size > (SIZE_MAX - before()) / 2) {
		errno = size == 0 ? EINVAL : ENOMEM;
		return -1;
	}
	base = mmap(NULL, before() + 2 * size, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -1;
	base += before();
	if (mirror(base, size) < 0 && map_file_twice(base, size) < 0) {
		int err = errno;

		munmap(base - before(), before() + 2 * size);
		errno = err;
		return -1;
	}
	/* Where the kernel gives huge pages to such memory (shmem_enabled), the first
	 * byte of a ring that idles would cost 2 MiB.  Elsewhere this fails. */
	(void)madvise(base - before(), before() + 2 * size, MADV_NOHUGEPAGE);
	r->base = base;
	r->size = size;
	return 0;
}

void ring_free(struct ring *r)
{
	if (r->base)
		munmap(r->base - before(), before() + 2 * r->size);
	r->base = NULL;
	r->size = 0;
}
