/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/coverage: a test's child that ends by _exit or SIGTERM writes its counts, too.
 * Linked with --wrap=_exit, and --wrap=__gcov_fork: gcc makes that of a fork, and
 * libgcov's begins the child's counts anew behind the library's atfork handler.  Here
 * the child keeps the parent's, so some are counted twice; zero stays zero.
 */
#include <signal.h>
#include <stdnoreturn.h>
#include <sys/types.h>
#include <unistd.h>

/* The first is libgcov's; the linker gives the others their names. */
/* NOLINTBEGIN(bugprone-reserved-identifier): none of these names is ours to choose */
void __gcov_dump(void);
noreturn void __real__exit(int status);
noreturn void __wrap__exit(int status);
pid_t __wrap___gcov_fork(void);

noreturn void __wrap__exit(int status)
{
	__gcov_dump();
	__real__exit(status);
}

pid_t __wrap___gcov_fork(void)
{
	return fork();
}

static void end(int number)
{
	__wrap__exit(128 + number);
}

__attribute__((constructor)) static void at_load(void)
{
	struct sigaction action = { .sa_handler = end }, was;

	if (sigaction(SIGTERM, NULL, &was) == 0 && was.sa_handler == SIG_DFL)
		sigaction(SIGTERM, &action, NULL);
}
/* NOLINTEND(bugprone-reserved-identifier) */
