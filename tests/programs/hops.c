/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ends of plain vsock that measure what is between them (bench/relay).
 *
 *     hops serve PORT
 *     hops trip|stream CID PORT TARGET VCHAN_PORT SIZE COUNT
 *
 * The second connects to PORT of CID.  Unless TARGET is 0, the relay is there, and is
 * asked for that guest.  Then `trip` sends a message of SIZE bytes and awaits it back,
 * COUNT times; `stream` sends COUNT messages, each in a call of its own, and awaits a
 * byte that says that all have arrived.  It prints how many nanoseconds it took.
 */
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The library hides what is in it. */
#include "vchan/relay.c" /* NOLINT(bugprone-suspicious-include) */

#define BUFFER (4ULL << 20) /* as the library's sockets have it */
#define PIECE (256 << 10)

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

static int send_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, (const char *)data + done, size - done, MSG_NOSIGNAL);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static int recv_all(int fd, void *data, size_t size)
{
    return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

static int echo(int fd, const struct order *o)
{
    for (uint32_t i = 0; i < o->count; i++)
        if (recv_all(fd, piece, o->size) < 0 || send_all(fd, piece, o->size) < 0)
            return -1;
    return 0;
}

static int swallow(int fd, const struct order *o)
{
    for (uint64_t left = (uint64_t)o->size * o->count; left;) {
        ssize_t n = recv(fd, piece, left < PIECE ? left : PIECE, 0);

        if (n <= 0)
            return -1;
        left -= (uint64_t)n;
    }
    return send_all(fd, "", 1);
}

static int serve(uint32_t port)
{
    struct sockaddr_vm a = address(VMADDR_CID_ANY, port);
    int listener = new_socket(), fd;
    struct order o;
    char byte;

    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 8) < 0)
        fail("listen");
    puts("listening");
    fflush(stdout);
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        if (recv_all(fd, &o, sizeof o) < 0 || o.size > PIECE ||
            (o.trips ? echo(fd, &o) : swallow(fd, &o)) < 0)
            fputs("hops: it broke off\n", stderr);
        while (recv(fd, &byte, 1, 0) > 0)
            ;
        close(fd);
    }
    return 1;
}

static void ask(int fd, uint32_t target, uint32_t port)
{
    struct relay_request request = {.target = target, .port = port};
    unsigned char bytes[RELAY_REQUEST_SIZE];
    enum relay_status status = RELAY_REFUSED;
    const char *why;

    relay_encode_request(&request, bytes);
    if (send_all(fd, bytes, sizeof bytes) < 0 || recv_all(fd, bytes, RELAY_ANSWER_SIZE) < 0)
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

static int measure(int fd, const struct order *o)
{
    char byte;

    for (uint32_t i = 0; i < o->count; i++)
        if (send_all(fd, piece, o->size) < 0 || (o->trips && recv_all(fd, piece, o->size) < 0))
            return -1;
    return o->trips ? 0 : recv_all(fd, &byte, 1);
}

static int run(char **arg)
{
    struct sockaddr_vm a = address((uint32_t)strtoul(arg[1], NULL, 0),
                                   (uint32_t)strtoul(arg[2], NULL, 0));
    uint32_t target = (uint32_t)strtoul(arg[3], NULL, 0);
    struct order o = {strcmp(arg[0], "trip") == 0, (uint32_t)strtoul(arg[5], NULL, 0),
                      (uint32_t)strtoul(arg[6], NULL, 0)};
    int fd = new_socket();
    int64_t begun;

    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        fail("connect");
    if (target)
        ask(fd, target, (uint32_t)strtoul(arg[4], NULL, 0));
    begun = now();
    if (send_all(fd, &o, sizeof o) < 0 || measure(fd, &o) < 0)
        fail(arg[0]);
    printf("%lld\n", (long long)(now() - begun));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve((uint32_t)strtoul(argv[2], NULL, 0));
    if (argc == 8)
        return run(argv + 1);
    fputs("usage: see the source\n", stderr);
    return 2;
}
