/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server's and a client's set-up share, and nobody else needs.
 */
#ifndef VCHAN_SETUP_PARTS_H
#define VCHAN_SETUP_PARTS_H

#include <linux/vm_sockets.h>

#include "address.h"
#include "clock.h"
#include "setup.h"

#define FRAMED_PORT 0x80000000u /* added to the plain one */
/* Where plain connections come from whose client will try framed, too: the framed
 * ports of CID 0, which is no client's.  A socket that leaves its port to the
 * kernel hits one by chance in 1 of 65,536 cases, and then waits longer. */
#define OUR_PORTS FRAMED_PORT
#define OUR_PORTS_COUNT 0x10000u
/* Those below belong to who is privileged; some of them mean the same. */
#define ORDINARY_PORTS 1024u
#define OUR_PRIVILEGED_PORTS 512u
#define OUR_PRIVILEGED_COUNT 256u

#define PLAIN_MOMENT (20 * CLOCK_MS)
#define HELLO_WAIT (5 * CLOCK_S)
#define RETRY_MOST (100 * CLOCK_MS)

/* The vsock port of one wire. */
uint32_t setup_port_of(const libvchan_t *h, enum wire_kind kind);

/* -1 and errno. */
int setup_open_socket(libvchan_t *h, int *fd);
void setup_close_socket(libvchan_t *h, int *fd);
void setup_close_all(libvchan_t *h);
/* Inside of life_enter. */
void setup_let_go(libvchan_t *h, int *fd);

/* This one of our fds is the connection; all others are closed. */
void setup_choose(libvchan_t *h, int *fd);
/* It is the framed wire's; first. */
void setup_be_framed(libvchan_t *h, int fd, const struct hello *peer);

/* -1: the peer takes none. */
int setup_say_hello(libvchan_t *h, int fd);
/* His hello is to come. */
void setup_become_candidate(struct candidate *c, int fd);
enum heard { SOME, ALL, NOTHING };
/* NOTHING: *why says why, and nothing will come. */
enum heard setup_hear(struct candidate *c, const char **why);

#endif
