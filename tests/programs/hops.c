/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ends of plain vsock, or of a channel, that measure what is between them
 * (bench/relay).
 *
 *     hops serve PORT
 *     hops serve-channels DOMAIN VCHAN_PORT
 *     hops trip|stream CID PORT TARGET VCHAN_PORT SIZE COUNT
 *
 * The last connects to PORT of CID.  Unless TARGET is 0, the relay is there, and is
 * asked for that guest.  With "-" for CID and PORT it is a channel to TARGET.  Then
 * `trip` sends a message of SIZE bytes and awaits it back, COUNT times; `stream` sends COUNT messages, each in a call of its own, and awaits a
 * byte that says that all have arrived.  It prints how many nanoseconds it took.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "libvchan.h"

/* The library hides what is in it. */
#include "vchan/relay.c" /* NOLINT(bugprone-suspicious-include): as the library hides it */

#define BUFFER (4ULL << 20) /* as the library's sockets have it */
#define PIECE (256 << 10)
#define RING (128 << 10)

struct order {
    uint32_t trips, size, count;
};

static char piece[PIECE];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int new_socket(void)
{
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    uint64_t size = BUFFER;

    if (fd < 0)
        fail("socket");
    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, sizeof size);
    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof size);
    return fd;
}

static struct sockaddr_vm address(uint32_t cid, uint32_t port)
{
    struct sockaddr_vm a;

    memset(&a, 0, sizeof a);
    a.svm_family = AF_VSOCK;
    a.svm_cid = cid;
    a.svm_port = port;
    return a;
}

/* A plain socket, or a channel. */
struct hop {
    int fd;
    libvchan_t *chan;
};

static int send_all(const struct hop *h, const void *data, size_t size)
{
    if (h->chan)
        return libvchan_write(h->chan, data, size) == (int)size ? 0 : -1;
    for (size_t done = 0; done < size;) {
        ssize_t n = send(h->fd, (const char *)data + done, size - done, MSG_NOSIGNAL);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static ssize_t recv_some(const struct hop *h, void *data, size_t size)
{
    return h->chan ? libvchan_read(h->chan, data, size) : recv(h->fd, data, size, 0);
}

static int recv_all(const struct hop *h, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = recv_some(h, (char *)data + done, size - done);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static int echo(const struct hop *h, const struct order *o)
{
    for (uint32_t i = 0; i < o->count; i++)
        if (recv_all(h, piece, o->size) < 0 || send_all(h, piece, o->size) < 0)
            return -1;
    return 0;
}

static int swallow(const struct hop *h, const struct order *o)
{
    for (uint64_t left = (uint64_t)o->size * o->count; left;) {
        ssize_t n = recv_some(h, piece, left < PIECE ? left : PIECE);

        if (n <= 0)
            return -1;
        left -= (uint64_t)n;
    }
    return send_all(h, "", 1);
}

/* One order, and then until the other end leaves. */
static void serve_one(const struct hop *h)
{
    struct order o;
    char byte;

    if (recv_all(h, &o, sizeof o) < 0 || o.size > PIECE ||
        (o.trips ? echo(h, &o) : swallow(h, &o)) < 0)
        fputs("hops: it broke off\n", stderr);
    while (recv_some(h, &byte, 1) > 0)
        ;
}

static void say_listening(void)
{
    puts("listening");
    fflush(stdout);
}

static int serve(uint32_t port)
{
    struct sockaddr_vm a = address(VMADDR_CID_ANY, port);
    struct hop h = {-1, NULL};
    int listener = new_socket();

    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 8) < 0)
        fail("listen");
    say_listening();
    while ((h.fd = accept(listener, NULL, NULL)) >= 0) {
        serve_one(&h);
        close(h.fd);
    }
    return 1;
}

static int serve_channels(int domain, int port)
{
    struct hop h = {-1, NULL};

    while ((h.chan = libvchan_server_init(domain, port, RING, RING)) != NULL) {
        say_listening();
        serve_one(&h);
        libvchan_close(h.chan);
    }
    return 1;
}

static void ask(const struct hop *h, uint32_t target, uint32_t port)
{
    struct relay_request request = {.target = target, .port = port};
    unsigned char bytes[RELAY_REQUEST_SIZE];
    enum relay_status status = RELAY_REFUSED;
    const char *why;

    relay_encode_request(&request, bytes);
    if (send_all(h, bytes, sizeof bytes) < 0 || recv_all(h, bytes, RELAY_ANSWER_SIZE) < 0)
        fail("the relay");
    why = relay_decode_answer(bytes, &status);
    if (why || status != RELAY_OK) {
        fprintf(stderr, "the relay: %s, status %d\n", why ? why : "no", status);
        exit(1);
    }
}

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int measure(const struct hop *h, const struct order *o)
{
    char byte;

    for (uint32_t i = 0; i < o->count; i++)
        if (send_all(h, piece, o->size) < 0 || (o->trips && recv_all(h, piece, o->size) < 0))
            return -1;
    return o->trips ? 0 : recv_all(h, &byte, 1);
}

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 0);
}

static struct hop connect_hop(char **arg)
{
    struct sockaddr_vm a = address(number(arg[1]), number(arg[2]));
    struct hop h = {-1, NULL};

    if (arg[1][0] == '-') {
        h.chan = libvchan_client_init((int)number(arg[3]), (int)number(arg[4]));
        if (!h.chan)
            fail("libvchan_client_init");
        return h;
    }
    h.fd = new_socket();
    if (connect(h.fd, (struct sockaddr *)&a, sizeof a) < 0)
        fail("connect");
    if (number(arg[3]))
        ask(&h, number(arg[3]), number(arg[4]));
    return h;
}

static int run(char **arg)
{
    struct order o = {strcmp(arg[0], "trip") == 0, number(arg[5]), number(arg[6])};
    struct hop h = connect_hop(arg);
    int64_t begun = now();

    if (send_all(&h, &o, sizeof o) < 0 || measure(&h, &o) < 0)
        fail(arg[0]);
    printf("%lld\n", (long long)(now() - begun));
    if (h.chan)
        libvchan_close(h.chan);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(number(argv[2]));
    if (argc == 4 && strcmp(argv[1], "serve-channels") == 0)
        return serve_channels((int)number(argv[2]), (int)number(argv[3]));
    if (argc == 8)
        return run(argv + 1);
    fputs("usage: see the source\n", stderr);
    return 2;
}
