/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As much of cmocka's interface as tests/unit uses, for machines for which there is no
 * cmocka to be had (test_cross.py).  Each test runs in a process of its own, and fails
 * by ending it.  The one that $CROSS_WITHOUT names is left out.
 */
#ifndef CROSS_CMOCKA_H
#define CROSS_CMOCKA_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **state);
	int (*setup)(void **state);
	int (*teardown)(void **state);
};

#define cmocka_unit_test(test) { #test, test, NULL, NULL }
#define cmocka_unit_test_setup_teardown(test, setup, teardown) { #test, test, setup, teardown }

static const char *cross_only; /* the one to run; NULL: all */

static inline void cmocka_set_test_filter(const char *name)
{
	cross_only = name;
}

static inline void __attribute__((noreturn, format(printf, 3, 4)))
cross_fail(const char *file, int line, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s:%d: ", file, line);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	fflush(stdout);
	_exit(1);
}

static inline void cross_compare(const char *file, int line, const char *what, uintmax_t a,
				 uintmax_t b, int right)
{
	if (!right)
		cross_fail(file, line, "%s: 0x%" PRIxMAX ", 0x%" PRIxMAX, what, a, b);
}

static inline int cross_is_within(uintmax_t value, uintmax_t least, uintmax_t most)
{
	return value >= least && value <= most;
}

#define CROSS_COMPARE(a, op, b)                                                        \
	do {                                                                           \
		uintmax_t cross_a = (uintmax_t)(a), cross_b = (uintmax_t)(b);          \
		cross_compare(__FILE__, __LINE__, #a " " #op " " #b, cross_a, cross_b, \
			      cross_a op cross_b);                                     \
	} while (0)
#define CROSS_CHECK(right)                                             \
	do {                                                           \
		if (!(right))                                          \
			cross_fail(__FILE__, __LINE__, "%s", #right);  \
	} while (0)

#define assert_true(value) CROSS_CHECK(value)
#define assert_false(value) CROSS_CHECK(!(value))
#define assert_null(pointer) CROSS_CHECK((pointer) == NULL)
#define assert_non_null(pointer) CROSS_CHECK((pointer) != NULL)
#define assert_ptr_equal(a, b) CROSS_CHECK((const void *)(a) == (const void *)(b))
#define assert_int_equal(a, b) CROSS_COMPARE(a, ==, b)
#define assert_int_not_equal(a, b) CROSS_COMPARE(a, !=, b)
#define assert_in_range(value, least, most) \
	CROSS_CHECK(cross_is_within((uintmax_t)(value), (uintmax_t)(least), (uintmax_t)(most)))
#define assert_string_equal(a, b) CROSS_CHECK(strcmp((a), (b)) == 0)
#define assert_memory_equal(a, b, size) CROSS_CHECK(memcmp((a), (b), (size)) == 0)
#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define print_message printf

static inline void cross_run(const struct CMUnitTest *test)
{
	void *state = NULL;

	if (test->setup && test->setup(&state) != 0)
		cross_fail(__FILE__, __LINE__, "the setup of %s", test->name);
	test->test(&state);
	if (test->teardown && test->teardown(&state) != 0)
		cross_fail(__FILE__, __LINE__, "the teardown of %s", test->name);
}

static inline int cross_run_in_child(const struct CMUnitTest *test)
{
	int status = -1;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		cross_run(test);
		fflush(stdout);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
		printf("[  FAILED  ] %s (status 0x%x)\n", test->name, (unsigned)status);
		return 1;
	}
	printf("[       OK ] %s\n", test->name);
	return 0;
}

static inline int cross_run_all(const struct CMUnitTest *tests, size_t count)
{
	const char *without = getenv("CROSS_WITHOUT");
	int failures = 0;

	for (size_t i = 0; i < count; i++) {
		if ((cross_only && strcmp(cross_only, tests[i].name) != 0) ||
		    (without && strcmp(without, tests[i].name) == 0))
			continue;
		failures += cross_run_in_child(&tests[i]);
	}
	return failures;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
	cross_run_all((tests), sizeof(tests) / sizeof(*(tests)))

#endif
