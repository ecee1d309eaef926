/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connects to a vsock port, and to the framed one that belongs to it, as fast as it
 * can, and has nothing to say there.
 *
 *     flood CID PORT SECONDS THREADS
 *
 * Each thread has a crowd of sockets under way at the same time, half of them at
 * either port; who is let in is closed at once.  It tells on stdout "flooding" when
 * all threads have connected or were refused once; in the end a line: how many
 * attempts, how many of them were let in, and how many attempts that was per second.
 *
 * It ends after SECONDS, or when its stdin does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define CROWD 32
#define FRAMED 0x80000000u
#define MAX_THREADS 16

static unsigned cid, port;
static atomic_ulong attempts, admitted;
static atomic_int begun, over;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The fd; -1: it was let in or refused at once. */
static int begin(unsigned to)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = to};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    attempts++;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        admitted++;
    else if (errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

static void end(int fd)
{
    socklen_t size = sizeof(int);
    int err = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) == 0 && !err)
        admitted++;
    close(fd);
}

/* All that are decided begin again, until it is over. */
static void *crowd(void *unused)
{
    struct pollfd p[CROWD];
    int first = 1;

    for (int i = 0; i < CROWD; i++)
        p[i] = (struct pollfd){.fd = -1, .events = POLLOUT};
    while (!over) {
        for (int i = 0; i < CROWD; i++)
            if (p[i].fd < 0)
                p[i].fd = begin(i % 2 ? port : port | FRAMED);
        poll(p, CROWD, 100);
        for (int i = 0; i < CROWD; i++)
            if (p[i].fd >= 0 && p[i].revents) {
                end(p[i].fd);
                p[i].fd = -1;
            }
        begun += first;
        first = 0;
    }
    for (int i = 0; i < CROWD; i++)
        if (p[i].fd >= 0)
            close(p[i].fd);
    return unused;
}

/* Until `seconds` are over, or stdin is. */
static void last(double seconds)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    char c;

    if (poll(&p, 1, (int)(seconds * 1000)) > 0 && read(0, &c, 1) < 0)
        perror("stdin");
}

int main(int argc, char **argv)
{
    pthread_t threads[MAX_THREADS];
    int count = argc == 5 ? atoi(argv[4]) : 0;
    double start = now();

    if (count < 1 || count > MAX_THREADS) {
        fputs("usage: flood CID PORT SECONDS THREADS\n", stderr);
        return 2;
    }
    cid = (unsigned)strtoul(argv[1], NULL, 0);
    port = (unsigned)strtoul(argv[2], NULL, 0);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, crowd, NULL))
            return 1;
    while (begun < count)
        usleep(1000);
    puts("flooding");
    fflush(stdout);
    last(atof(argv[3]));
    over = 1;
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("%lu attempts, %lu let in, %.0f per second\n", (unsigned long)attempts,
           (unsigned long)admitted, (double)attempts / (now() - start));
    return 0;
}
