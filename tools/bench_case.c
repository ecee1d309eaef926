/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench_case.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "tools/tool.h"
#include "tools/traffic.h"
#include "vchan/address.h"
#include "vchan/clock.h"
#include "vchan/handle.h"
#include "vchan/vsock.h"

#define PLAIN_BUFFER (256u << 10) /* what the kernel gives a socket by itself, bytes */
#define QREXEC_PAYLOAD (BENCH_RING - 8)

#define STREAM(name, size)                                     \
	{ "stream-" name "-out", BENCH_STREAM, false, size },  \
	{ "stream-" name "-in", BENCH_STREAM, true, size }

const struct bench_case bench_cases[] = {
	{ "trip-1", BENCH_TRIP, false, 1 },
	{ "trip-64", BENCH_TRIP, false, 64 },
	{ "trip-4K", BENCH_TRIP, false, 4096 },
	STREAM("16", 16),
	STREAM("64", 64),
	STREAM("256", 256),
	STREAM("1K", 1024),
	STREAM("4K", 4096),
	STREAM("64K", 65536),
	STREAM("1M", 1 << 20),
	{ "qrexec-out", BENCH_QREXEC, false, QREXEC_PAYLOAD },
	{ "qrexec-in", BENCH_QREXEC, true, QREXEC_PAYLOAD },
	{ "setup", BENCH_SETUP, false, 1 },
};
const size_t bench_case_count = sizeof bench_cases / sizeof *bench_cases;

bool bench_is_named(const struct bench_case *c, const char *name)
{
	size_t length = strlen(name);

	return length > 0 && strncmp(c->name, name, length) == 0 &&
	       (c->name[length] == '\0' || c->name[length] == '-');
}

struct bench_place bench_place(libvchan_t *control, int domain, int port)
{
	return (struct bench_place){
		.control = control,
		.domain = domain,
		.port = port,
		.loopback = control->config.loopback,
		.cid = control->peer_cid,
		.other_cid = control->own_cid,
		/* A vsock port is a sum in which the vchan port is the last part. */
		.plain_port = control->port + 3,
	};
}

/* ---- traffic, at both ends ---- */

static int write_all(struct end *e, const struct bench_order *o)
{
	if (o->what == BENCH_QREXEC)
		return traffic_write_messages(e, traffic_buffer(), o->size, o->count);
	return traffic_write(e, end_write, traffic_buffer(), o->size, o->count);
}

static int read_all(struct end *e, const struct bench_order *o)
{
	if (o->what == BENCH_QREXEC)
		return traffic_read_messages(e, traffic_buffer(), o->size, o->count);
	return traffic_read(e, traffic_buffer(), o->size, o->count);
}

/* The reader acknowledges all of it at the end: what lies in buffers does not count. */
static int write_and_hear(struct end *e, const struct bench_order *o)
{
	char done;

	return write_all(e, o) < 0 ? -1 : end_recv(e, &done, sizeof done);
}

static int read_and_tell(struct end *e, const struct bench_order *o)
{
	return read_all(e, o) < 0 ? -1 : end_send(e, "x", 1);
}

/* ---- the server ---- */

/* One channel; where there is a listener, nobody has come yet. */
struct opening {
	struct end end;
	int listener;
};

static const struct opening closed = { { -1, NULL }, -1 };

static void close_opening(struct opening *o)
{
	if (o->listener >= 0)
		close(o->listener);
	end_close(&o->end);
	*o = closed;
}

static int listen_plain(const struct bench_place *place, unsigned number)
{
	int fd = vsock_socket(PLAIN_BUFFER), err;

	if (fd >= 0 && vsock_listen(fd, place->loopback ? CID_LOCAL : VMADDR_CID_ANY,
				    place->plain_port + number % 2, 1) == 0)
		return fd;
	err = errno;
	if (fd >= 0)
		close(fd);
	tool_say("cannot listen on vsock port %u: %s", place->plain_port + number % 2,
		 tool_reason(err));
	errno = err;
	return -1;
}

static int open_at_server(const struct bench_place *place, enum bench_way way, unsigned number,
			  struct opening *o)
{
	*o = closed;
	if (way == BENCH_PLAIN) {
		o->listener = listen_plain(place, number);
		return o->listener < 0 ? -1 : 0;
	}
	o->end.vchan = libvchan_server_init(place->domain, place->port + 1 + (int)number % 2,
					    BENCH_RING, BENCH_RING);
	return o->end.vchan ? 0 : -1;
}

/* Until `fd` is readable.  Who gives the orders may leave instead: ECONNRESET. */
static int await(const struct bench_place *place, int fd)
{
	struct pollfd fds[] = { { libvchan_fd_for_select(place->control), POLLIN, 0 },
				{ fd, POLLIN, 0 } };

	do {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return -1;
		if (fds[0].revents && libvchan_wait(place->control) < 0)
			return -1;
		if (libvchan_is_open(place->control) != VCHAN_CONNECTED) {
			errno = ECONNRESET;
			return -1;
		}
	} while (!fds[1].revents);
	return 0;
}

/* Of strangers, who can connect to any vsock port, none gets in. */
static int accept_plain(const struct bench_place *place, struct opening *o)
{
	uint32_t cid = 0, port = 0;
	int fd;

	do {
		if (await(place, o->listener) < 0)
			return -1;
		fd = vsock_accept(o->listener, &cid, &port);
		if (fd >= 0 && cid != place->cid && (cid != place->other_cid || cid == 0)) {
			close(fd);
			fd = -1;
			errno = EAGAIN;
		}
	} while (fd < 0 && errno == EAGAIN);
	close(o->listener);
	o->listener = -1;
	o->end.sock = fd;
	return fd < 0 ? -1 : 0;
}

static int accept_at_server(const struct bench_place *place, struct opening *o)
{
	if (!o->end.vchan)
		return accept_plain(place, o);
	while (libvchan_is_open(o->end.vchan) == VCHAN_WAITING)
		if (await(place, libvchan_fd_for_select(o->end.vchan)) < 0 ||
		    libvchan_wait(o->end.vchan) < 0)
			return -1;
	return 0;
}

static int serve_traffic(const struct bench_place *place, const struct bench_order *order,
			 struct opening *o)
{
	struct end *e = &o->end;
	char go;

	if (accept_at_server(place, o) < 0 || traffic_greet(e, false) < 0)
		return -1;
	if (order->what == BENCH_TRIP)
		return traffic_round_trips(e, false, false, traffic_buffer(), order->size,
					   order->count);
	if (!order->inward)
		return read_and_tell(e, order);
	return end_recv(e, &go, sizeof go) < 0 ? -1 : write_and_hear(e, order);
}

/* The next channel is open before the driver has the answer after which it will
 * connect to that; so nothing but set-ups is on its clock. */
static int serve_setups(const struct bench_place *place, const struct bench_order *order,
			struct opening *o)
{
	struct opening next = closed;
	char byte;

	for (uint32_t i = 1; i <= order->count; i++) {
		if (accept_at_server(place, o) < 0 || end_recv(&o->end, &byte, 1) < 0)
			return -1;
		if (i < order->count && open_at_server(place, order->way, i, &next) < 0)
			return -1;
		if (end_send(&o->end, &byte, 1) < 0) {
			close_opening(&next);
			return -1;
		}
		close_opening(o);
		*o = next;
		next = closed;
	}
	return 0;
}

static int answer(const struct bench_place *place, enum bench_answer what, bool failed,
		  uint32_t port)
{
	unsigned char bytes[BENCH_ANSWER_SIZE];

	bench_encode_answer(what, failed, port, bytes);
	return libvchan_send(place->control, bytes, sizeof bytes) < 0 ? -1 : 0;
}

int bench_obey(const struct bench_place *place, const struct bench_order *order)
{
	struct opening o;
	int ret;

	if (open_at_server(place, order->way, 0, &o) < 0)
		return answer(place, BENCH_READY, true, 0);
	ret = answer(place, BENCH_READY, false,
		     order->way == BENCH_PLAIN ? place->plain_port : 0);
	if (ret < 0) {
		close_opening(&o);
		return -1;
	}
	ret = (order->what == BENCH_SETUP ? serve_setups : serve_traffic)(place, order, &o);
	close_opening(&o);
	return answer(place, BENCH_DONE, ret < 0, 0);
}

/* ---- the driver ---- */

static int finish_connect(int fd)
{
	struct pollfd p = { fd, POLLOUT, 0 };
	int n;

	do
		n = poll(&p, 1, -1);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -1 : vsock_connected(fd);
}

static int connect_plain(const struct bench_place *place, unsigned number)
{
	int fd = vsock_socket(PLAIN_BUFFER), ret, err;

	if (fd < 0)
		return -1;
	ret = vsock_connect(fd, place->cid, place->plain_port + number % 2);
	if (ret < 0 && errno == EINPROGRESS)
		ret = finish_connect(fd);
	if (ret == 0)
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

/* 0, or -1 and why. */
static int open_at_driver(const struct bench_place *place, enum bench_way way, unsigned number,
			  struct end *e, char why[static BENCH_WHY])
{
	e->sock = -1;
	e->vchan = NULL;
	why[0] = '\0';
	if (way == BENCH_VCHAN) {
		e->vchan = libvchan_client_init(place->domain,
						place->port + 1 + (int)number % 2);
		return e->vchan ? 0 : -1;
	}
	e->sock = connect_plain(place, number);
	if (e->sock >= 0)
		return 0;
	snprintf(why, BENCH_WHY, "no plain socket to CID %u, vsock port %u: %s; "
		 "--no-plain measures without", place->cid, place->plain_port + number % 2,
		 tool_reason(errno));
	return -1;
}

static int drive_setups(const struct bench_place *place, const struct bench_order *order,
			struct bench_result *result)
{
	int64_t start = clock_now();
	struct end e;

	for (uint32_t i = 0; i < order->count; i++) {
		if (open_at_driver(place, order->way, i, &e, result->why) < 0)
			return -1;
		if (traffic_greet(&e, true) < 0) {
			snprintf(result->why, sizeof result->why, "%s", tool_reason(errno));
			end_close(&e);
			return -1;
		}
		end_close(&e);
	}
	result->ns = clock_now() - start;
	return 0;
}

static int drive_case(struct end *e, const struct bench_order *order)
{
	if (order->what == BENCH_TRIP)
		return traffic_round_trips(e, true, false, traffic_buffer(), order->size,
					   order->count);
	if (!order->inward)
		return write_and_hear(e, order);
	/* The server waits for this, so that nothing is sent before our clock runs. */
	return end_send(e, "x", 1) < 0 ? -1 : read_all(e, order);
}

static int drive_on(struct end *e, const struct bench_order *order, struct bench_result *result)
{
	int64_t start;

	if (traffic_greet(e, true) < 0)
		return -1;
	start = clock_now();
	if (drive_case(e, order) < 0)
		return -1;
	result->ns = clock_now() - start;
	return order->inward ? end_send(e, "x", 1) : 0;
}

static enum bench_outcome drive_traffic(const struct bench_place *place,
					const struct bench_order *order,
					struct bench_result *result)
{
	enum bench_outcome outcome = BENCH_MEASURED;
	struct end e;

	if (open_at_driver(place, order->way, 0, &e, result->why) < 0)
		return BENCH_FAILED;
	if (drive_on(&e, order, result) < 0) {
		snprintf(result->why, sizeof result->why, "%s", tool_reason(errno));
		outcome = BENCH_DIED;
	}
	end_close(&e);
	return outcome;
}

/* 0, or -1 and why. */
static int hear(const struct bench_place *place, enum bench_answer wanted, bool *failed,
		uint32_t *port, char why[static BENCH_WHY])
{
	unsigned char bytes[BENCH_ANSWER_SIZE];
	const char *wrong;

	if (libvchan_recv(place->control, bytes, sizeof bytes) < 0) {
		snprintf(why, BENCH_WHY, "the other side has gone");
		return -1;
	}
	wrong = bench_decode_answer(bytes, wanted, failed, port);
	if (!wrong)
		return 0;
	snprintf(why, BENCH_WHY, "the other side: %s", wrong);
	return -1;
}

static int give_order(const struct bench_place *place, const struct bench_order *order,
		      char why[static BENCH_WHY])
{
	uint32_t port, wanted = order->way == BENCH_PLAIN ? place->plain_port : 0;
	unsigned char bytes[BENCH_ORDER_SIZE];
	bool failed;

	bench_encode_order(order, bytes);
	if (libvchan_send(place->control, bytes, sizeof bytes) < 0) {
		snprintf(why, BENCH_WHY, "the other side has gone");
		return -1;
	}
	if (hear(place, BENCH_READY, &failed, &port, why) < 0)
		return -1;
	if (failed)
		snprintf(why, BENCH_WHY, "the other side cannot open a channel beside port %d; "
			 "it has said why there", place->port);
	else if (port != wanted)
		snprintf(why, BENCH_WHY, "the other side listens on vsock port %u, not %u", port,
			 wanted);
	else
		return 0;
	return -1;
}

enum bench_outcome bench_drive(const struct bench_place *place, const struct bench_order *order,
			       struct bench_result *result)
{
	char why[BENCH_WHY];
	enum bench_outcome outcome;
	bool failed;
	uint32_t port;

	if (give_order(place, order, result->why) < 0)
		return BENCH_FAILED;
	if (order->what == BENCH_SETUP)
		outcome = drive_setups(place, order, result) < 0 ? BENCH_FAILED : BENCH_MEASURED;
	else
		outcome = drive_traffic(place, order, result);
	/* The server would wait for more. */
	if (outcome == BENCH_FAILED)
		return outcome;
	if (hear(place, BENCH_DONE, &failed, &port, why) < 0) {
		memcpy(result->why, why, sizeof why);
		return BENCH_FAILED;
	}
	if (failed && outcome == BENCH_MEASURED) {
		snprintf(result->why, sizeof result->why, "at the other side's end");
		outcome = BENCH_DIED;
	}
	return outcome;
}
