/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-bench: one case over one kind of channel, at both ends.
 *
 *     vchan-bench partner DOMAIN
 *         Prints the vsock port where it waits for a measurer, then obeys it.
 *     vchan-bench measure DOMAIN CID PORT
 *         Reads orders from stdin, one a line, and prints what came of each.
 *     vchan-bench parts
 *         Prints what a set-up is made of, ns: enum part (bench.h).
 *
 * DOMAIN is the other end's, for libvchan; CID and PORT are where the partner is.
 * bench/run starts both, wherever they are to be, and makes sense of the numbers.
 *
 * An order: WHAT WAY SIZE INWARD COUNT CHANNELS MS, as numbers of enum what and
 * enum way, bytes, 0 or 1, messages, channels, milliseconds (bench.h).
 * An answer, in ns and bytes, of this end and then of the partner:
 *     ERROR NS CPU  ERROR NS CPU  MEDIAN MOST  BYTES LEAST  RESIDENT FDS SWITCHES
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define VCHAN_PORTS 10000 /* used in turn, so that nothing old is met */

static void __attribute__((noreturn)) fail(const char *what)
{
	fprintf(stderr, "vchan-bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fputs("usage: vchan-bench partner DOMAIN\n"
	      "       vchan-bench measure DOMAIN CID PORT\n"
	      "       vchan-bench parts\n", stderr);
	exit(2);
}

/* Elsewhere /dev/vsock may lead to somebody else's hypervisor. */
static void insist_on_loopback(void)
{
	if (access("/sys/module/vsock_loopback", F_OK) == 0)
		return;
	fputs("vchan-bench: no vsock loopback here: use bench/run, which boots a machine\n",
	      stderr);
	exit(1);
}

static long number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || end == text || n < 0)
		usage();
	return n;
}

/* ---- the partner ---- */

static void obey(struct self *self)
{
	struct order o;
	struct report r;

	while (socket_recv(self->control, &o, sizeof o) == 0) {
		run_case(self, &o, &r);
		if (socket_send(self->control, &r, sizeof r) < 0)
			return;
	}
}

static void be_partner(struct self *self)
{
	uint32_t port = 0;
	int listener;

	insist_on_loopback();
	listener = socket_listen(&port, false);
	if (listener < 0)
		fail("listen");
	printf("%" PRIu32 "\n", port);
	fflush(stdout);
	self->control = accept(listener, NULL, NULL);
	if (self->control < 0)
		fail("accept");
	close(listener);
	obey(self);
}

/* ---- the measurer ---- */

static bool read_order(struct order *o)
{
	char line[256];

	memset(o, 0, sizeof *o);
	if (!fgets(line, sizeof line, stdin))
		return false;
	if (sscanf(line, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu64
		   " %" SCNu32 " %" SCNu32, &o->what, &o->way, &o->size, &o->inward,
		   &o->count, &o->channels, &o->ms) != 7 ||
	    o->what >= WHATS || o->way >= WAYS || o->size > TRAFFIC_LARGEST ||
	    o->channels > MOST_CHANNELS || (o->what == IDLE && o->count > MOST_CHANNELS) ||
	    ((o->what == LONE || o->what == BURST) && o->count > MOST_SAMPLES)) {
		fprintf(stderr, "vchan-bench: no order: %s", line);
		exit(2);
	}
	return true;
}

static void print_report(const struct report *here, const struct report *there)
{
	printf("%d %" PRIu64 " %" PRIu64 " %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
	       " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 "\n",
	       here->error, here->ns, here->cpu_ns, there->error, there->ns, there->cpu_ns,
	       there->median, there->most, there->bytes, there->least,
	       here->resident, here->fds, here->switches);
	fflush(stdout);
}

static void measure(struct self *self)
{
	struct report here, there;
	struct order o;
	int next = 1;

	while (read_order(&o)) {
		o.port = next;
		next += 1 + (int)(o.what == IDLE ? (uint32_t)o.count : o.channels);
		if (next > VCHAN_PORTS)
			next = 1;
		if (socket_send(self->control, &o, sizeof o) < 0)
			fail("the partner");
		run_case(self, &o, &here);
		if (socket_recv(self->control, &there, sizeof there) < 0)
			fail("the partner");
		print_report(&here, &there);
	}
}

static int print_parts(void)
{
	uint64_t ns[PARTS];

	insist_on_loopback();
	measure_parts(ns);
	for (int i = 0; i < PARTS; i++)
		printf("%" PRIu64 "%c", ns[i], i + 1 < PARTS ? ' ' : '\n');
	return 0;
}

int main(int argc, char **argv)
{
	struct self self = { false, 0, 0, -1 };

	if (argc == 2 && strcmp(argv[1], "parts") == 0)
		return print_parts();
	if (argc < 3)
		usage();
	self.domain = (int)number(argv[2]);
	if (strcmp(argv[1], "partner") == 0 && argc == 3) {
		self.is_partner = true;
		be_partner(&self);
	} else if (strcmp(argv[1], "measure") == 0 && argc == 5) {
		self.cid = (uint32_t)number(argv[3]);
		self.control = socket_connect(self.cid, (uint32_t)number(argv[4]), false);
		if (self.control < 0)
			fail("connect to the partner");
		measure(&self);
	} else {
		usage();
	}
	return 0;
}
