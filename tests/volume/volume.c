/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One end of a long exchange in which every byte is checked.
 *
 *     volume server|client DOMAIN PORT trips SEED TRIPS BYTES
 *     volume server|client DOMAIN PORT duplex SEED SECONDS
 *
 * trips: the client sends a message, the server answers with another, TRIPS
 * times; then each in turn streams what is missing to BYTES bytes in its
 * direction.  Sizes go from 1 byte to 1 MiB, most of them small.  Each message
 * is moved in one of the ways below, picked at random: write, send, read and
 * recv, blocking and not, with wait or with the fd.
 *
 * duplex: two threads at each end, one writing and one reading, as fast as
 * they can for SECONDS.
 *
 * Content and sizes follow from SEED, which both ends must be given.  Prints
 * one line; exit status 0 when every byte was right, and the end came where it
 * should.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../programs/content.h"
#include "libvchan.h"

#define SERVER_RING 65536
#define LARGEST (1 << 20)
/* A piece that fits into the rings of both ends. */
#define PIECE 65536

static libvchan_t *chan;
static const char *role;

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
    int saved = errno;
    va_list args;

    fprintf(stderr, "volume %s: ", role);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (%s)\n", strerror(saved));
    exit(1);
}

/* --- sizes ---------------------------------------------------------------- */

/* From 1 byte to 1 MiB; on average 5 KiB, half of them below 64 bytes. */
static size_t roll_size(struct dice *dice)
{
    uint64_t kind = roll(dice, 3040);

    if (kind < 16)
        return 1 + roll(dice, LARGEST);
    if (kind < 16 + 190)
        return 1 + roll(dice, 65536);
    return 1 + roll(dice, (uint64_t)1 << roll(dice, 13));
}

/* --- one direction ---------------------------------------------------------- */

struct flow {
    uint64_t seed;     /* of the content */
    uint64_t position; /* in the content */
    struct dice sizes; /* the same at both ends */
    struct dice ways;
    unsigned char buffer[LARGEST];
};

static struct flow outward, inward;

static void start_flow(struct flow *flow, uint64_t seed)
{
    flow->seed = mix(seed);
    flow->sizes.seed = mix(seed + 1);
    flow->ways.seed = mix(seed + 2 + (role[0] == 's'));
}

static void check_content(struct flow *flow, const unsigned char *data, size_t size)
{
    if (!content_is(flow->seed, flow->position, data, size))
        fail("wrong content in the %zu bytes at %llu", size,
             (unsigned long long)flow->position);
    flow->position += size;
}

/* --- ways to move bytes ------------------------------------------------------ */

static size_t piece_of(struct flow *flow, size_t left)
{
    size_t piece = 1 + roll(&flow->ways, PIECE);

    return piece < left ? piece : left;
}

static size_t checked(int count, size_t most, const char *call)
{
    if (count < 0)
        fail("%s: -1 at %llu of the way out, %llu in", call,
             (unsigned long long)outward.position,
             (unsigned long long)inward.position);
    if ((size_t)count > most)
        fail("%s of %zu returned %d", call, most, count);
    return (size_t)count;
}

static void wait_for_event(void)
{
    checked(libvchan_wait(chan), 0, "wait");
}

static void poll_and_wait(void)
{
    struct pollfd pfd = {.fd = libvchan_fd_for_select(chan), .events = POLLIN};

    int ready;

    do
        ready = poll(&pfd, 1, -1);
    while (ready < 0 && errno == EINTR);
    if (ready != 1 || pfd.revents != POLLIN)
        fail("the fd reports %#x", (unsigned)pfd.revents);
    wait_for_event();
}

static size_t write_all(struct flow *flow, const unsigned char *data,
                        size_t left)
{
    (void)flow;
    if (checked(libvchan_write(chan, data, left), left, "write") != left)
        fail("a blocking write was short");
    return left;
}

static size_t send_piece(struct flow *flow, const unsigned char *data,
                         size_t left)
{
    size_t piece = piece_of(flow, left);

    if (checked(libvchan_send(chan, data, piece), piece, "send") != piece)
        fail("a blocking send was short");
    return piece;
}

static size_t write_some(struct flow *flow, const unsigned char *data,
                         size_t left)
{
    size_t count = checked(libvchan_write(chan, data, left), left, "write");

    (void)flow;
    if (!count)
        wait_for_event();
    return count;
}

static size_t try_piece(struct flow *flow, const unsigned char *data,
                        size_t left)
{
    size_t piece = piece_of(flow, left), count;

    while (!(count = checked(libvchan_send(chan, data, piece), piece, "send")))
        poll_and_wait();
    if (count != piece)
        fail("a send of %zu sent %zu", piece, count);
    return count;
}

static size_t fill_space(struct flow *flow, const unsigned char *data,
                         size_t left)
{
    size_t space = checked(libvchan_buffer_space(chan), LARGEST, "space");
    size_t size = space < left ? space : left;

    (void)flow;
    if (!size)
        wait_for_event();
    else if (checked(libvchan_write(chan, data, size), size, "write") != size)
        fail("buffer_space promised %zu, and not all of it was written", size);
    return size;
}

static size_t read_some(struct flow *flow, unsigned char *data, size_t left)
{
    size_t count = checked(libvchan_read(chan, data, left), left, "read");

    (void)flow;
    if (!count)
        fail("a blocking read returned 0");
    return count;
}

static size_t recv_piece(struct flow *flow, unsigned char *data, size_t left)
{
    size_t piece = piece_of(flow, left);

    if (checked(libvchan_recv(chan, data, piece), piece, "recv") != piece)
        fail("a blocking recv was short");
    return piece;
}

static size_t read_if_there(struct flow *flow, unsigned char *data, size_t left)
{
    size_t count = checked(libvchan_read(chan, data, left), left, "read");

    (void)flow;
    if (!count)
        wait_for_event();
    return count;
}

static size_t recv_if_there(struct flow *flow, unsigned char *data, size_t left)
{
    size_t piece = piece_of(flow, left), count;

    while (!(count = checked(libvchan_recv(chan, data, piece), piece, "recv")))
        poll_and_wait();
    if (count != piece)
        fail("a recv of %zu got %zu", piece, count);
    return count;
}

static size_t recv_ready(struct flow *flow, unsigned char *data, size_t left)
{
    size_t ready = checked(libvchan_data_ready(chan), LARGEST, "data_ready");
    size_t size = ready < left ? ready : left;

    (void)flow;
    if (!size)
        poll_and_wait();
    else if (checked(libvchan_recv(chan, data, size), size, "recv") != size)
        fail("data_ready promised %zu, and not all of it was received", size);
    return size;
}

static const struct {
    bool blocking;
    size_t (*move)(struct flow *, const unsigned char *, size_t);
} ways_out[] = {
    {true, write_all},   {true, send_piece}, {true, fill_space},
    {false, write_some}, {false, try_piece}, {false, fill_space},
};

static const struct {
    bool blocking;
    size_t (*move)(struct flow *, unsigned char *, size_t);
} ways_in[] = {
    {true, read_some},      {true, recv_piece},     {true, recv_ready},
    {false, read_if_there}, {false, recv_if_there}, {false, recv_ready},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void put(struct flow *flow, size_t size)
{
    size_t way = roll(&flow->ways, COUNT(ways_out));

    content_make(flow->seed, flow->position, flow->buffer, size);
    libvchan_set_blocking(chan, ways_out[way].blocking);
    for (size_t done = 0; done < size;)
        done += ways_out[way].move(flow, flow->buffer + done, size - done);
    flow->position += size;
}

static void get(struct flow *flow, size_t size)
{
    size_t way = roll(&flow->ways, COUNT(ways_in));

    libvchan_set_blocking(chan, ways_in[way].blocking);
    for (size_t done = 0; done < size;)
        done += ways_in[way].move(flow, flow->buffer + done, size - done);
    check_content(flow, flow->buffer, size);
}

/* --- the plans ----------------------------------------------------------------- */

typedef void step(struct flow *, size_t);

static void stream_rest(struct flow *flow, step *move, uint64_t bytes)
{
    while (flow->position < bytes) {
        uint64_t left = bytes - flow->position;
        size_t size = roll_size(&flow->sizes);

        move(flow, size < left ? size : (size_t)left);
    }
}

static void trips(uint64_t count, uint64_t bytes)
{
    bool client = role[0] == 'c';
    struct flow *first = client ? &outward : &inward;
    struct flow *second = client ? &inward : &outward;
    step *move_first = client ? put : get, *move_second = client ? get : put;

    for (uint64_t i = 0; i < count; i++) {
        move_first(first, roll_size(&first->sizes));
        move_second(second, roll_size(&second->sizes));
    }
    stream_rest(first, move_first, bytes);
    stream_rest(second, move_second, bytes);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Frames of a length and that much content; a length of 0 is the end. */
static void *write_frames(void *until)
{
    struct flow *flow = &outward;
    uint32_t size = 0;

    while (now() < *(double *)until) {
        size = (uint32_t)roll_size(&flow->ways);
        write_all(flow, (unsigned char *)&size, sizeof size);
        content_make(flow->seed, flow->position, flow->buffer, size);
        write_all(flow, flow->buffer, size);
        flow->position += size;
    }
    size = 0;
    write_all(flow, (unsigned char *)&size, sizeof size);
    return NULL;
}

static void read_frames(void)
{
    struct flow *flow = &inward;
    uint32_t size;

    for (;;) {
        if (checked(libvchan_recv(chan, &size, sizeof size), sizeof size,
                    "recv") != sizeof size)
            fail("a blocking recv was short");
        if (!size)
            return;
        if (size > LARGEST)
            fail("a frame of %u bytes", size);
        for (size_t done = 0; done < size;)
            done += read_some(flow, flow->buffer + done, size - done);
        check_content(flow, flow->buffer, size);
    }
}

static void duplex(double seconds)
{
    double until;
    pthread_t writer;

    while (libvchan_is_open(chan) == VCHAN_WAITING)
        libvchan_wait(chan);
    until = now() + seconds;
    if (pthread_create(&writer, NULL, write_frames, &until) != 0)
        fail("no thread");
    read_frames();
    pthread_join(writer, NULL);
}

/* The client closes first; nothing may follow what was agreed on. */
static void finish(void)
{
    unsigned char byte;

    libvchan_set_blocking(chan, true);
    if (role[0] == 's') {
        if (libvchan_read(chan, &byte, 1) != -1 || errno != ECONNRESET)
            fail("more data than there should be");
        if (libvchan_is_open(chan) != VCHAN_DISCONNECTED)
            fail("still connected after the end");
    }
    libvchan_close(chan);
}

int main(int argc, char **argv)
{
    double begin = now();
    uint64_t seed;

    if (argc < 7)
        return 2;
    role = argv[1];
    seed = strtoull(argv[5], NULL, 0);
    start_flow(&outward, seed + (role[0] == 's') * 16);
    start_flow(&inward, seed + (role[0] != 's') * 16);
    if (role[0] == 's')
        chan = libvchan_server_init(atoi(argv[2]), atoi(argv[3]), SERVER_RING,
                                    SERVER_RING);
    else
        chan = libvchan_client_init(atoi(argv[2]), atoi(argv[3]));
    if (!chan)
        fail("cannot open");
    if (strcmp(argv[4], "duplex") == 0)
        duplex(atof(argv[6]));
    else
        trips(strtoull(argv[6], NULL, 0),
              argc > 7 ? strtoull(argv[7], NULL, 0) : 0);
    finish();
    printf("%s: %llu bytes out, %llu bytes in, %.1f s\n", role,
           (unsigned long long)outward.position,
           (unsigned long long)inward.position, now() - begin);
    return 0;
}
