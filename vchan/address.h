/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From (server, client, vchan port) to a vsock port.  Pure arithmetic.
 *
 *   between machines: port_base + client * 65536 + port
 *       client below 32768, port below 65536
 *   loopback:         port_base + server * 2^23 + client * 2^14 + port
 *       server below 256, client below 512, port below 16384
 *
 * The result is below 2^31: the upper half of the port space is kept for a
 * framed wire.
 */
#ifndef VCHAN_ADDRESS_H
#define VCHAN_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#define CID_LOCAL 1u
#define CID_HOST 2u

/* The port of the framed wire is the other one plus this. */
#define FRAMED_PORT 0x80000000u
/* Where plain connections come from whose client will try framed, too: the framed
 * ports of CID 0, which is no client's.  A socket that leaves its port to the
 * kernel hits one by chance in 1 of 65,536 cases, and then waits longer. */
#define OUR_PORTS FRAMED_PORT
#define OUR_PORTS_COUNT 0x10000u
/* Those below belong to who is privileged; some of them mean the same. */
#define ORDINARY_PORTS 1024u
#define OUR_PRIVILEGED_PORTS 512u
#define OUR_PRIVILEGED_COUNT 256u

/* Domain 0 is the host, CID 2. */
uint32_t address_cid(uint32_t domain);

/* 0, or -1/ERANGE and *why says in words which part is out of range.  server
 * and client are CIDs. */
int address_port(bool loopback, uint32_t port_base, uint32_t server, uint32_t client,
		 uint32_t port, uint32_t *vsock_port, const char **why);

/* The way back.  False: no channel has this vsock port.  Between machines the server
 * is not part of it, and *server stays as it is. */
bool address_parts(bool loopback, uint32_t port_base, uint32_t vsock_port, uint32_t *server,
		   uint32_t *client, uint32_t *port);

#endif
