/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock addr: which vsock port a channel has, and what else reaches it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"
#include "vchan/address.h"
#include "vchan/config.h"

/* A channel. */
struct question {
	uint32_t server, client, port; /* both CIDs */
	uint32_t base;                 /* VCHAN_VSOCK_PORT_BASE */
	bool json;
};

/* Where it is, in one of the two modes. */
struct answer {
	const char *why;    /* it has no port; NULL: it has */
	uint32_t cid, port; /* to connect to */
};

enum { OPTION_JSON = 256 };

static struct answer answer(const struct question *q, bool loopback)
{
	struct answer a = { NULL, loopback ? CID_LOCAL : q->server, 0 };

	address_port(loopback, q->base, q->server, q->client, q->port, &a.port, &a.why);
	return a;
}

/* ---- for people ---- */

static const char *machine(uint32_t cid)
{
	return cid == CID_HOST ? " (the host)" : "";
}

static void print_clients(const struct answer *a)
{
	printf("  ncat      ncat --vsock %" PRIu32 " %" PRIu32 "\n", a->cid, a->port);
	printf("  socat     socat - VSOCK-CONNECT:%" PRIu32 ":%" PRIu32 "\n", a->cid, a->port);
	printf("  Python    import socket; peer = socket.socket(socket.AF_VSOCK); "
	       "peer.connect((%" PRIu32 ", %" PRIu32 "))\n", a->cid, a->port);
}

static void print_mode(const char *title, const struct answer *a)
{
	printf("\n%s:\n", title);
	if (a->why) {
		printf("  none      %s\n", a->why);
		return;
	}
	printf("  plain     vsock port %" PRIu32 ", CID %" PRIu32 "\n", a->port, a->cid);
	printf("  framed    vsock port %" PRIu32 ", between two ends of vchan-vsock\n",
	       a->port + FRAMED_PORT);
	print_clients(a);
}

static void print(const struct question *q, const struct answer *between,
		  const struct answer *loopback)
{
	printf("vchan port %" PRIu32 ", server %" PRIu32 "%s, client %" PRIu32 "%s", q->port,
	       q->server, machine(q->server), q->client, machine(q->client));
	if (q->base)
		printf(", VCHAN_VSOCK_PORT_BASE %" PRIu32, q->base);
	printf("\n");
	print_mode("Between machines; the client connects to", between);
	print_mode("On one machine, with VCHAN_VSOCK_LOOPBACK=1; the client connects to", loopback);
}

/* ---- for programs ---- */

static void json_mode(const char *name, const struct answer *a, const char *end)
{
	if (a->why)
		printf("  \"%s\": { \"error\": \"%s\" }%s\n", name, a->why, end);
	else
		printf("  \"%s\": { \"cid\": %" PRIu32 ", \"plain\": %" PRIu32
		       ", \"framed\": %" PRIu32 " }%s\n", name, a->cid, a->port,
		       a->port + FRAMED_PORT, end);
}

static void print_json(const struct question *q, const struct answer *between,
		       const struct answer *loopback)
{
	printf("{\n  \"server\": %" PRIu32 ",\n  \"client\": %" PRIu32 ",\n  \"port\": %" PRIu32
	       ",\n  \"port_base\": %" PRIu32 ",\n", q->server, q->client, q->port, q->base);
	json_mode("machines", between, ",");
	json_mode("loopback", loopback, "");
	printf("}\n");
}

/* ---- the command line ---- */

/* Beyond what has a port, so that the answer can say why. */
static bool take_number(const char *what, const char *text, uint32_t *number)
{
	uint64_t value;

	if (!tool_number(what, text, 0, INT32_MAX, &value))
		return false;
	*number = (uint32_t)value;
	return true;
}

static bool take_domain(const char *text, uint32_t *cid)
{
	int domain;

	if (!tool_domain(text, &domain))
		return false;
	*cid = address_cid((uint32_t)domain);
	return true;
}

static bool take_arguments(int argc, char **argv, struct question *q)
{
	if (argc - optind < 3)
		tool_usage("SERVER, CLIENT and PORT are wanted");
	else if (argc - optind > 3)
		tool_usage("one argument too many: %s", argv[optind + 3]);
	else
		return take_domain(argv[optind], &q->server) &&
		       take_domain(argv[optind + 1], &q->client) &&
		       take_number("PORT", argv[optind + 2], &q->port);
	return false;
}

/* It fails where there is no port in either mode. */
static int tell(struct question *q)
{
	struct log log = { LOG_ERROR, "addr" };
	struct answer between, loopback;
	struct config config;

	if (config_read(&config, &log) < 0)
		return TOOL_FAILED;
	q->base = config.port_base;
	between = answer(q, false);
	loopback = answer(q, true);
	if (q->json)
		print_json(q, &between, &loopback);
	else
		print(q, &between, &loopback);
	return between.why && loopback.why ? TOOL_FAILED : TOOL_OK;
}

static bool take(void *question, int option)
{
	struct question *q = question;

	q->json |= option == OPTION_JSON;
	return true;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_HELP_OPTION,
		{ "json", no_argument, NULL, OPTION_JSON },
		{ NULL, 0, NULL, 0 },
	};
	struct question q = { 0 };
	int status = tool_options(argc, argv, "+:h", options, take, &q);

	if (status != TOOL_GO_ON)
		return status;
	return take_arguments(argc, argv, &q) ? tell(&q) : TOOL_USAGE;
}

const struct command command_addr = {
	"addr", "which vsock port a channel has, and what else reaches it",
	"usage: vchan-vsock addr [--json] SERVER CLIENT PORT\n"
	"\n"
	"Says on which vsock ports the machine SERVER serves the vchan port PORT to the machine\n"
	"CLIENT (CIDs, or \"host\"), to which CID the client connects, and how other programs\n"
	"do; both between machines and with VCHAN_VSOCK_LOOPBACK=1.  Where something is out of\n"
	"range it says what.  VCHAN_VSOCK_PORT_BASE counts.  Nothing is opened.\n"
	"\n"
	"      --json   for programs\n"
	"  -h, --help\n"
	"\n"
	"Exit status: 0; 1 there is no such port in either mode; 2 the command line is wrong.\n"
	"\n"
	"Example: the host serves guest 42 on port 512.\n"
	"    vchan-vsock addr host 42 512\n",
	run,
};
