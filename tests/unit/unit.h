/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the unit tests share: cmocka, random numbers, and what a test can see
 * of its own process.  Each test_*.c is a program; with an argument it runs the
 * tests of that name, and $UNIT_SEED repeats a run's random numbers.
 */
#ifndef UNIT_H
#define UNIT_H

/* cmocka.h wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "random.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof(*(array)))

/* A call that fails with this errno. */
#define assert_errno(call, value, error)              \
	do {                                          \
		errno = 0;                            \
		assert_int_equal((call), (value));    \
		assert_int_equal(errno, (error));     \
	} while (0)

/* A new sequence for each run; it is printed, so that it can be repeated. */
static inline struct random random_start(void)
{
	const char *seed = getenv("UNIT_SEED");
	struct timespec now;
	struct random r;

	clock_gettime(CLOCK_REALTIME, &now);
	r.state = seed ? strtoull(seed, NULL, 10)
		       : (uint64_t)now.tv_nsec * UINT64_C(0x9e3779b97f4a7c15) + 1;
	print_message("UNIT_SEED=%llu\n", (unsigned long long)r.state);
	return r;
}

static inline int count_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count - 3; /* ".", ".." and the directory's own */
}

/* How many mappings of this process have `name` in their line. */
static inline int count_mappings(const char *name)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	int count = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, name) != NULL;
	fclose(maps);
	return count;
}

/* The halves of rings: of anonymous shared memory, or of a file under valgrind. */
static inline int count_ring_mappings(void)
{
	return count_mappings("/dev/zero") + count_mappings("memfd:vchan-ring");
}

/* What is said on stderr between capture_start and capture_end. */
struct capture {
	int file;
	int stderr_kept;
	char text[4096];
};

static inline void capture_start(struct capture *c)
{
	memset(c, 0, sizeof(*c));
	fflush(stderr);
	c->stderr_kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	c->file = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(c->stderr_kept >= 0 && c->file >= 0);
	assert_int_equal(dup2(c->file, STDERR_FILENO), STDERR_FILENO);
}

static inline const char *capture_end(struct capture *c)
{
	int err = errno;

	dup2(c->stderr_kept, STDERR_FILENO);
	assert_true(pread(c->file, c->text, sizeof(c->text) - 1, 0) >= 0);
	close(c->stderr_kept);
	close(c->file);
	errno = err;
	return c->text;
}

/* Exactly one line, whole. */
static inline void assert_one_line(const char *text)
{
	const char *end = strchr(text, '\n');

	if (!end || end[1])
		fail_msg("not exactly one line: \"%s\"", text);
}

static inline void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is not in \"%s\"", part, text);
}

#define UNIT_MAIN(tests)                                                \
	int main(int argc, char **argv)                                 \
	{                                                               \
		if (argc > 1)                                           \
			cmocka_set_test_filter(argv[1]);                \
		return cmocka_run_group_tests(tests, NULL, NULL) != 0; \
	}

#endif
