/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a connection comes about: listeners, attempts, hellos, and which wire.
 * All but the first two functions are the driver's.
 */
#ifndef VCHAN_SETUP_H
#define VCHAN_SETUP_H

#include "conn.h"

/* Open what cannot wait, so that its errors show at once: the listeners of a
 * server, the first socket of a client.  -1 and errno; *port: of a server, the
 * one that is at fault. */
int setup_listen(libvchan_t *h, uint32_t *port);
int setup_prepare(libvchan_t *h);

void setup_step_waiting(libvchan_t *h, struct conn_sleep *s);
void setup_step_connecting(libvchan_t *h, struct conn_sleep *s);

/* A server: has somebody come who may be the client? */
bool setup_has_visitor(const libvchan_t *h);

/* Is the peer a guest of this machine? */
bool setup_is_for_guest(const libvchan_t *h);

/* Inside of life_enter: close all fds that are open for this. */
void setup_close(libvchan_t *h);

#endif
