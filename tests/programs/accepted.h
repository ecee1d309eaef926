/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many of the program's bytes the kernel has accepted: the library's sends go
 * through syscall(), and the linker prefers ours.  On the framed wire headers are told
 * from payload (docs/wire.md).  `accepted_here` is called after each send, `moved_here`
 * after each that brought bytes, either way.
 */
#ifndef ACCEPTED_H
#define ACCEPTED_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ACCEPTED_FDS 1024
#define HELLO_SIZE 32
#define HEADER_SIZE 8
#define LENGTH_BITS 0x0fffffff

static void accepted_here(size_t payload);
static void moved_here(void);

/* What was sent on one fd so far. */
struct sent {
    bool begun, framed;
    unsigned char head[HEADER_SIZE];
    size_t have;  /* of the header */
    size_t left;  /* of the payload, or of the hello */
    bool hello;
};

static struct sent sent_on[ACCEPTED_FDS];

static void begin_sent(struct sent *s, const unsigned char *data, size_t size)
{
    s->begun = true;
    s->framed = s->hello = size >= 8 && memcmp(data, "vch1wire", 8) == 0;
    s->left = s->hello ? HELLO_SIZE : 0;
}

static size_t take_header(struct sent *s, const unsigned char *data, size_t size)
{
    size_t n = HEADER_SIZE - s->have < size ? HEADER_SIZE - s->have : size;

    memcpy(s->head + s->have, data, n);
    s->have += n;
    if (s->have == HEADER_SIZE) {
        s->have = 0;
        s->left = (s->head[0] | (size_t)s->head[1] << 8 | (size_t)s->head[2] << 16 |
                   (size_t)s->head[3] << 24) & LENGTH_BITS;
    }
    return n;
}

/* How much of what was sent is the program's. */
static size_t payload_of(struct sent *s, const unsigned char *data, size_t size)
{
    size_t payload = 0, n;

    if (!s->begun && size)
        begin_sent(s, data, size);
    if (!s->framed)
        return size;
    for (; size; data += n, size -= n) {
        if (!s->left) {
            n = take_header(s, data, size);
            continue;
        }
        n = s->left < size ? s->left : size;
        s->left -= n;
        payload += s->hello ? 0 : n;
        s->hello = s->hello && s->left;
    }
    return payload;
}

static size_t payload_of_pieces(struct sent *s, const struct msghdr *m, size_t size)
{
    size_t payload = 0;

    for (size_t i = 0; i < m->msg_iovlen && size; i++) {
        size_t n = m->msg_iov[i].iov_len < size ? m->msg_iov[i].iov_len : size;

        payload += payload_of(s, m->msg_iov[i].iov_base, n);
        size -= n;
    }
    return payload;
}

static long (*real_syscall)(long, ...);

__attribute__((constructor)) static void find_syscall(void)
{
    *(void **)&real_syscall = dlsym(RTLD_NEXT, "syscall");
}

long syscall(long number, ...)
{
    long a[6], result;
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (!real_syscall)
        find_syscall();
    result = real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result > 0 && (unsigned)a[0] < ACCEPTED_FDS) {
        struct sent *s = &sent_on[(unsigned)a[0]];

        if (number == SYS_sendto)
            accepted_here(payload_of(s, (const unsigned char *)a[1], (size_t)result));
        else if (number == SYS_sendmsg)
            accepted_here(payload_of_pieces(s, (const struct msghdr *)a[1], (size_t)result));
    }
    if (result > 0 && (number == SYS_sendto || number == SYS_sendmsg ||
                       number == SYS_recvfrom || number == SYS_recvmsg))
        moved_here();
    return result;
}

/* The next socket of this number is another one. */
int close(int fd)
{
    if ((unsigned)fd < ACCEPTED_FDS)
        memset(&sent_on[fd], 0, sizeof *sent_on);
    return (int)real_syscall(SYS_close, (long)fd);
}

#endif
