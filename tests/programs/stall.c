/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small messages to a reader that lags, every byte checked.
 *
 *     stall SERVER CLIENT PORT RING READER COUNT PATIENCE SIZE...
 *
 * Opens two channels for each SIZE, all at this one address, one after the
 * other.  On both, a thread at the client's end writes COUNT messages of SIZE
 * bytes: on the first as fast as it can, on the second one every 2 ms.  At the
 * server's end, whose rings are of RING bytes, another thread reads them all.
 * READER is how: a number of seconds in which it makes no call, or "bytes", a
 * byte at a time and at once.
 *
 * Prints a line per channel: SIZE, "streaming" or "paced", how many messages
 * and bytes were written, how many bytes arrived, and with which errno the
 * writer and the reader ended (0: it did all).  EBADMSG: not the bytes that
 * were written; ETIME: it was still busy when PATIENCE seconds were over.
 *
 * Exit status: 0 when every byte arrived; 1 when channels died, and both ends
 * were told so; 3 when anything else happened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libvchan.h"

#define PACE_NS 2000000
#define LONGEST 65536

enum { ALL_ARRIVED, DIED_LOUDLY, WRONG = 3 };

struct channel {
    libvchan_t *server, *client;
    pthread_t writer, reader;
    size_t size;
    bool paced;
    atomic_size_t written, arrived; /* bytes */
    atomic_int write_error, read_error;
};

static size_t ring, count;
static unsigned silence; /* seconds */
static bool bytewise;
static struct timespec too_late;

static void __attribute__((noreturn)) fail(const char *what)
{
    perror(what);
    exit(WRONG);
}

/* --- the pattern ----------------------------------------------------------- */

static unsigned char pattern(size_t position)
{
    return (unsigned char)(position * 131 + (position >> 8) * 7 +
                           (position >> 16) * 29);
}

static void fill(unsigned char *data, size_t size, size_t position)
{
    for (size_t i = 0; i < size; i++)
        data[i] = pattern(position + i);
}

static bool matches(const unsigned char *data, size_t size, size_t position)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] != pattern(position + i))
            return false;
    return true;
}

/* --- the two threads of a channel ------------------------------------------ */

/* 2 ms after the last message; one that came late is not made up for. */
static void keep_pace(struct timespec *next)
{
    struct timespec now;

    next->tv_nsec += PACE_NS;
    if (next->tv_nsec >= 1000000000) {
        next->tv_nsec -= 1000000000;
        next->tv_sec++;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL) == EINTR)
        ;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *next = now;
}

static void *write_all(void *arg)
{
    struct channel *c = arg;
    unsigned char data[LONGEST];
    struct timespec next;

    clock_gettime(CLOCK_MONOTONIC, &next);
    for (size_t i = 0; i < count; i++) {
        fill(data, c->size, i * c->size);
        errno = EIO;
        if (libvchan_write(c->client, data, c->size) != (int)c->size) {
            c->write_error = errno;
            return NULL;
        }
        c->written += c->size;
        if (c->paced)
            keep_pace(&next);
    }
    return NULL;
}

static void *read_all(void *arg)
{
    struct channel *c = arg;
    unsigned char data[LONGEST];
    size_t total = count * c->size, most = bytewise ? 1 : sizeof data;

    for (unsigned left = silence; left; left = sleep(left))
        ;
    while (c->arrived < total) {
        int n = libvchan_read(c->server, data, most);

        if (n > 0 && !matches(data, (size_t)n, c->arrived)) {
            errno = EBADMSG;
            n = -1;
        }
        if (n <= 0) {
            c->read_error = n ? errno : EIO;
            return NULL;
        }
        c->arrived += (size_t)n;
    }
    return NULL;
}

/* --- opening --------------------------------------------------------------- */

static void be_domain(const char *domain)
{
    if (setenv("VCHAN_DOMAIN", domain, 1) < 0)
        fail("setenv");
}

static void open_channel(struct channel *c, char **address)
{
    int port = atoi(address[2]);

    be_domain(address[0]);
    c->server = libvchan_server_init(atoi(address[1]), port, ring, ring);
    if (!c->server)
        fail("libvchan_server_init");
    be_domain(address[1]);
    c->client = libvchan_client_init(atoi(address[0]), port);
    if (!c->client)
        fail("libvchan_client_init");
    /* The next one needs the address. */
    while (libvchan_is_open(c->server) == VCHAN_WAITING)
        libvchan_wait(c->server);
}

static void start(struct channel *c)
{
    if (pthread_create(&c->reader, NULL, read_all, c) ||
        pthread_create(&c->writer, NULL, write_all, c))
        fail("pthread_create");
}

/* --- the end --------------------------------------------------------------- */

/* What it wrote is lost: that it is told, at the latest at its next message. */
static int next_error(struct channel *c)
{
    const struct timespec pause = {.tv_nsec = 10000000};

    libvchan_set_blocking(c->client, false);
    for (int i = 0; i < 500; i++) {
        if (libvchan_write(c->client, "x", 1) < 0)
            return errno;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static void collect(struct channel *c)
{
    bool written = pthread_timedjoin_np(c->writer, NULL, &too_late) == 0;
    bool arrived = pthread_timedjoin_np(c->reader, NULL, &too_late) == 0;

    if (!written)
        c->write_error = ETIME;
    if (!arrived)
        c->read_error = ETIME;
    if (written && arrived && c->read_error && !c->write_error)
        c->write_error = next_error(c);
}

static int judge(const struct channel *c)
{
    if (!c->write_error && !c->read_error)
        return ALL_ARRIVED;
    if (c->write_error == EPIPE && c->read_error == ECONNRESET)
        return DIED_LOUDLY;
    return WRONG;
}

static void report(struct channel *c)
{
    printf("%5zu %-9s wrote %6zu messages, %8zu bytes, arrived %8zu bytes, "
           "errno %d and %d\n", c->size, c->paced ? "paced" : "streaming",
           c->written / c->size, (size_t)c->written, (size_t)c->arrived,
           (int)c->write_error, (int)c->read_error);
}

static int finish(struct channel *channels, int channel_count)
{
    int worst = ALL_ARRIVED;

    for (int i = 0; i < channel_count; i++) {
        struct channel *c = &channels[i];

        collect(c);
        report(c);
        if (judge(c) > worst)
            worst = judge(c);
    }
    fflush(stdout);
    if (worst == WRONG)
        _exit(worst); /* threads may be in calls */
    for (int i = 0; i < channel_count; i++) {
        libvchan_close(channels[i].client);
        libvchan_close(channels[i].server);
    }
    return worst;
}

static void take_options(char **arg)
{
    ring = strtoul(arg[3], NULL, 0);
    bytewise = strcmp(arg[4], "bytes") == 0;
    silence = bytewise ? 0 : (unsigned)atoi(arg[4]);
    count = strtoul(arg[5], NULL, 0);
    clock_gettime(CLOCK_REALTIME, &too_late);
    too_late.tv_sec += atoi(arg[6]);
}

static void set_up(struct channel *c, const char *size, bool paced, char **address)
{
    c->size = strtoul(size, NULL, 0);
    c->paced = paced;
    if (c->size < 1 || c->size > LONGEST) {
        errno = EINVAL;
        fail(size);
    }
    open_channel(c, address);
}

int main(int argc, char **argv)
{
    struct channel *channels;
    int channel_count = 2 * (argc - 8);

    if (argc < 9) {
        fputs("usage: stall SERVER CLIENT PORT RING READER COUNT PATIENCE SIZE...\n",
              stderr);
        return 2;
    }
    take_options(argv + 1);
    channels = calloc((size_t)channel_count, sizeof *channels);
    if (!channels)
        fail("calloc");
    for (int i = 0; i < channel_count; i++)
        set_up(&channels[i], argv[8 + i / 2], i % 2, argv + 1);
    for (int i = 0; i < channel_count; i++)
        start(&channels[i]);
    return finish(channels, channel_count);
}
