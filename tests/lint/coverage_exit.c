/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/coverage: a test's child that ends by _exit writes its counts, too.
 * Linked with --wrap=_exit.
 */
#include <stdnoreturn.h>

/* The first is libgcov's; the linker gives the others their names. */
/* NOLINTBEGIN(bugprone-reserved-identifier): none of these names is ours to choose */
void __gcov_dump(void);
noreturn void __real__exit(int status);
noreturn void __wrap__exit(int status);

noreturn void __wrap__exit(int status)
{
	__gcov_dump();
	__real__exit(status);
}
/* NOLINTEND(bugprone-reserved-identifier) */
