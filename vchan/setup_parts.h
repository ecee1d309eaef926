/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server's and a client's set-up share, and nobody else needs.
 */
#ifndef VCHAN_SETUP_PARTS_H
#define VCHAN_SETUP_PARTS_H

#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "address.h"
#include "clock.h"
#include "setup.h"

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
