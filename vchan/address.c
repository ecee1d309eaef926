/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "address.h"

#include <errno.h>
#include <stddef.h>

uint32_t address_cid(uint32_t domain)
{
	return domain == 0 ? CID_HOST : domain;
}

static const char *machine_range(uint32_t client, uint32_t port)
{
	if (client >= 32768)
		return "the client's domain must be below 32768";
	if (port >= 65536)
		return "the port must be below 65536";
	return NULL;
}

static const char *loopback_range(uint32_t server, uint32_t client, uint32_t port)
{
	if (server >= 256)
		return "with VCHAN_VSOCK_LOOPBACK the server's domain must be below 256";
	if (client >= 512)
		return "with VCHAN_VSOCK_LOOPBACK the client's domain must be below 512";
	if (port >= 16384)
		return "with VCHAN_VSOCK_LOOPBACK the port must be below 16384";
	return NULL;
}

int address_port(bool loopback, uint32_t port_base, uint32_t server, uint32_t client,
		 uint32_t port, uint32_t *vsock_port, const char **why)
{
	uint64_t sum = port_base;

	*why = loopback ? loopback_range(server, client, port)
			: machine_range(client, port);
	if (loopback)
		sum += ((uint64_t)server << 23) + ((uint64_t)client << 14) + port;
	else
		sum += ((uint64_t)client << 16) + port;
	if (!*why && sum >= (uint64_t)1 << 31)
		*why = "with this VCHAN_VSOCK_PORT_BASE the vsock port is not below 2^31";
	if (*why) {
		errno = ERANGE;
		return -1;
	}
	*vsock_port = (uint32_t)sum;
	return 0;
}

bool address_parts(bool loopback, uint32_t port_base, uint32_t vsock_port, uint32_t *server,
		   uint32_t *client, uint32_t *port)
{
	uint32_t sum = vsock_port - port_base;

	if (vsock_port < port_base || vsock_port >= FRAMED_PORT)
		return false;
	if (loopback) {
		*server = sum >> 23;
		*client = sum >> 14 & 511;
		*port = sum & 16383;
	} else {
		*client = sum >> 16;
		*port = sum & 65535;
	}
	return true;
}
