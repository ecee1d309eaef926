/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock doctor: look for what keeps channels from working here, and with a
 * domain, from reaching it.
 */
#include "doctor.h"

#include <string.h>

#include "tool.h"
#include "vchan/address.h"

enum { OPTION_JSON = 'j', OPTION_PLAIN = 'p' };

struct orders {
	bool json, has_peer;
	struct doctor_peer peer;
};

static bool read_peer(int count, char **words, struct orders *orders)
{
	int domain;

	orders->has_peer = count > 0;
	if (count < 1)
		return true;
	if (!tool_domain(words[0], &domain))
		return false;
	orders->peer.cid = address_cid((uint32_t)domain);
	return count < 2 || tool_port(words[1], &orders->peer.port);
}

static bool take(void *to, int option)
{
	struct orders *orders = to;

	orders->json |= option == OPTION_JSON;
	orders->peer.plain |= option == OPTION_PLAIN;
	return true;
}

/* TOOL_GO_ON, or else the exit status. */
static int read_orders(int argc, char **argv, struct orders *orders)
{
	static const struct option options[] = {
		TOOL_HELP_OPTION,
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "plain", no_argument, NULL, OPTION_PLAIN },
		{ NULL, 0, NULL, 0 },
	};
	int status;

	*orders = (struct orders){ .peer = { .port = -1 } };
	status = tool_options(argc, argv, "+:jph", options, take, orders);
	if (status != TOOL_GO_ON)
		return status;
	if (argc - optind > 2)
		return tool_usage("too many words: at most DOMAIN and PORT");
	if (!read_peer(argc - optind, argv + optind, orders))
		return TOOL_USAGE;
	if (orders->peer.plain && orders->peer.port < 0)
		return tool_usage("--plain wants DOMAIN and PORT");
	return TOOL_GO_ON;
}

static int run(int argc, char **argv)
{
	struct doctor doctor = { 0 };
	struct orders orders;
	int status = read_orders(argc, argv, &orders);

	if (status != TOOL_GO_ON)
		return status;
	findings_begin(&doctor.findings, orders.json);
	doctor_look_here(&doctor);
	if (orders.has_peer)
		doctor_look_there(&doctor, &orders.peer);
	findings_end(&doctor.findings);
	if (doctor.findings.error)
		return tool_failed("cannot write to standard output: %s",
				   strerror(doctor.findings.error));
	return doctor.findings.bad ? TOOL_FAILED : TOOL_OK;
}

const struct command command_doctor = {
	"doctor", "look for what keeps channels from working here",
	"usage: vchan-vsock doctor [options] [DOMAIN [PORT]]\n\n"
	"Looks at this machine: modules, devices, its CID and the domain that programs take\n"
	"it for, the environment, the kernel, limits.  Each line begins with ok, note or bad,\n"
	"and says after -> what to do.  Without DOMAIN nothing is connected to or listened on.\n\n"
	"DOMAIN, a CID or \"host\": does that machine answer?  PORT, of a vchan: does a server\n"
	"wait there for a client in this domain?  A server of this library is asked at its\n"
	"framed port, and waits on afterwards.\n\n"
	"  -p, --plain   when nobody answers there, knock at the plain port, too: a server\n"
	"                that speaks nothing else may take this for its client, and see it\n"
	"                leave\n"
	"  -j, --json    an array of objects: name, state, text, advice (or null)\n"
	"  -h, --help\n\n"
	"Exit status: 0 when nothing is bad; 1 when something is; 2 if the command line is\n"
	"wrong.\n\n"
	"Example, on a host whose guest 42 serves port 512:\n"
	"  vchan-vsock doctor 42 512\n",
	run,
};
