/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * To be preloaded: a thread that has sent the hello of the framed wire goes on only when
 * the program is in exit(), and a moment late (LATE_MS, 50).  So what exit() does between the two, which
 * otherwise takes a busy machine and luck, happens each time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static sem_t exiting;

static void on_exit_of_program(void)
{
    sem_post(&exiting);
}

__attribute__((constructor)) static void at_load(void)
{
    sem_init(&exiting, 0, 0);
    atexit(on_exit_of_program);
}

static void *next_of(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void hold_back(const void *data, size_t size)
{
    const char *ms = getenv("LATE_MS");
    const struct timespec moment = { 0, 1000000 * atol(ms ? ms : "50") };

    if (size < 8 || memcmp(data, "vch1wire", 8) != 0)
        return;
    while (sem_wait(&exiting) < 0)
        ;
    nanosleep(&moment, NULL);
}

/* ThreadSanitizer's build of the library calls this, */
ssize_t send(int fd, const void *data, size_t size, int flags)
{
    ssize_t (*next)(int, const void *, size_t, int);
    ssize_t n;

    *(void **)&next = next_of("send");
    n = next(fd, data, size, flags);
    if (n > 0)
        hold_back(data, size);
    return n;
}

/* and the others that. */
long syscall(long number, ...)
{
    long (*next)(long, ...);
    long a[6], n;
    va_list more;

    *(void **)&next = next_of("syscall");
    va_start(more, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    n = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (n > 0 && number == SYS_sendto)
        hold_back((const void *)a[1], (size_t)n);
    return n;
}
