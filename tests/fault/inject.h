/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System calls that fail when they are told to: what the library calls goes through
 * here (ld --wrap), and what the tests call does not, if they call real_*.
 *
 * One fault is armed at a time: the nth call of one function, counted from then on and
 * over all threads, fails with one errno; or that and many after it.
 */
#ifndef INJECT_H
#define INJECT_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct fault {
	const char *call; /* as listed in fault_calls */
	int nth;          /* from 1 */
	int err;
	bool on;          /* and for long after that */
};

/* A function and the errnos that it can give, up to a 0. */
struct fault_call {
	const char *name;
	int errors[9];
};
extern const struct fault_call fault_calls[];
extern const size_t fault_call_count;

void fault_arm(const struct fault *f);
void fault_disarm(void);
/* How often, since it was armed. */
int fault_struck(void);
/* Of one function, since the last fault_arm or fault_count_anew. */
int fault_calls_made(const char *call);
void fault_count_anew(void);

/* Every send moves at most so many bytes; 0: as many as it likes. */
void fault_cut_sends(size_t most);
/* Of all calls that a signal can interrupt, one in so many is; 0: none. */
void fault_interrupt(unsigned one_in);

/* As under valgrind. */
void fault_forbid_mremap(bool forbidden);

/* The places that have seen a fault, one hexadecimal address a line: where the call
 * returns to, from the program's first byte. */
void fault_print_sites(void);

/* What never fails. */
int real_poll(struct pollfd *fds, nfds_t count, int ms);
int real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);

#endif
