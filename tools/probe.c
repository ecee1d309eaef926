/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "probe.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "vchan/address.h"
#include "vchan/clock.h"
#include "vchan/vsock.h"

/* The kernel gives a connect 2 s. */
#define CONNECT_WAIT (5 * CLOCK_S)
/* A relay has to connect in turn. */
#define RELAY_WAIT (10 * CLOCK_S)
#define BUFFER 65536
#define TRIES 8

/* False: there was nothing until then. */
static bool wait_for(int fd, short events, int64_t until)
{
	struct pollfd p = { fd, events, 0 };
	int64_t left;

	while ((left = until - clock_now()) > 0) {
		int n = poll(&p, 1, (int)(left / CLOCK_MS) + 1);

		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
	}
	return false;
}

static int come_from_our_ports(int fd)
{
	for (int i = 0; i < TRIES; i++)
		if (vsock_bind(fd, OUR_PORTS + (uint32_t)clock_now() % OUR_PORTS_COUNT) == 0)
			return 0;
	return errno;
}

static int connect_there(int fd, uint32_t cid, uint32_t port)
{
	if (vsock_connect(fd, cid, port) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (!wait_for(fd, POLLOUT, clock_now() + CONNECT_WAIT))
		return ETIMEDOUT;
	return vsock_connected(fd) == 0 ? 0 : errno;
}

int probe_port(uint32_t cid, uint32_t port, bool ours)
{
	int fd = vsock_socket(BUFFER);
	int err;

	if (fd < 0)
		return errno;
	err = ours ? come_from_our_ports(fd) : 0;
	if (!err)
		err = connect_there(fd, cid, port);
	close(fd);
	return err;
}

/* All of the answer, or why not. */
static int hear(int fd, unsigned char answer[RELAY_ANSWER_SIZE])
{
	int64_t until = clock_now() + RELAY_WAIT;
	size_t heard = 0;

	while (heard < RELAY_ANSWER_SIZE) {
		ssize_t n = vsock_recv(fd, answer + heard, RELAY_ANSWER_SIZE - heard, false);

		if (n > 0)
			heard += (size_t)n;
		else if (n == 0)
			return EPROTO;
		else if (errno != EAGAIN)
			return errno;
		else if (!wait_for(fd, POLLIN, until))
			return ETIMEDOUT;
	}
	return 0;
}

static int talk_to_relay(int fd, uint32_t relay_port, const struct relay_request *request,
			 enum relay_status *status)
{
	unsigned char asked[RELAY_REQUEST_SIZE], answer[RELAY_ANSWER_SIZE];
	int err = connect_there(fd, CID_HOST, relay_port);

	if (err)
		return err;
	relay_encode_request(request, asked);
	/* A socket that is new has room for it. */
	if (vsock_send(fd, asked, sizeof asked, false) != (ssize_t)sizeof asked)
		return ECONNRESET;
	err = hear(fd, answer);
	if (err)
		return err;
	return relay_decode_answer(answer, status) ? EPROTO : 0;
}

int probe_relay(uint32_t relay_port, const struct relay_request *request,
		enum relay_status *status)
{
	int fd = vsock_socket(BUFFER);
	int err;

	if (fd < 0)
		return errno;
	err = talk_to_relay(fd, relay_port, request, status);
	close(fd);
	return err;
}
