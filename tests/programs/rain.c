/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals that rain on a program, to be preloaded into it and all that it starts:
 *
 *     LD_PRELOAD=.../rain.so python3 -m pytest ...
 *
 * A thread sends SIGURG to each other thread, a thousand times a second.  The
 * handler does nothing and was installed without SA_RESTART, so each system call
 * that sleeps ends with EINTR.  To a program that has just been exec'd, and has no
 * handler yet, SIGURG does nothing.
 *
 * The thread is there from the start, for tests that count threads.  Its table of fds is
 * its own, for tests that count fds or have run out of them.  A forked child stays dry
 * until it execs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DROP SIGURG
#define PERIOD_NS 1000000
#define MOST 1024
#define LOOK_EVERY 16 /* drops */

static pid_t threads[MOST];
static unsigned count;

static void handler(int number)
{
    (void)number;
}

static void look_for_threads(DIR *tasks)
{
    pid_t self = (pid_t)syscall(SYS_gettid);
    struct dirent *entry;

    count = 0;
    rewinddir(tasks);
    while ((entry = readdir(tasks)) && count < MOST) {
        pid_t id = atoi(entry->d_name);

        if (id > 0 && id != self)
            threads[count++] = id;
    }
}

static void next_period(struct timespec *next)
{
    struct timespec now;

    next->tv_nsec += PERIOD_NS;
    if (next->tv_nsec >= 1000000000) {
        next->tv_nsec -= 1000000000;
        next->tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL);
    /* What came late is not made up for. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec > next->tv_sec ||
        (now.tv_sec == next->tv_sec && now.tv_nsec > next->tv_nsec + PERIOD_NS))
        *next = now;
}

static void *rain(void *ignored)
{
    struct timespec next;
    DIR *tasks;

    (void)ignored;
    /* Copies of the program's fds would keep its connections open. */
    if (close_range(0, ~0U, CLOSE_RANGE_UNSHARE) < 0)
        return NULL;
    tasks = opendir("/proc/self/task");
    if (!tasks)
        return NULL;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (unsigned drop = 0;; drop++) {
        if (drop % LOOK_EVERY == 0)
            look_for_threads(tasks);
        for (unsigned i = 0; i < count; i++)
            syscall(SYS_tgkill, getpid(), threads[i], DROP);
        next_period(&next);
    }
}

__attribute__((constructor)) static void begin(void)
{
    struct sigaction action = {.sa_handler = handler};
    sigset_t all, before;
    pthread_t thread;

    if (sigaction(DROP, &action, NULL) < 0)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, rain, NULL) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
