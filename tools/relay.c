/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock relay: on a host, let its guests reach one another.
 *
 *   relay_daemon   the process: signals, the listener, the loop
 *   relay_channel  one guest's request, and the channel that comes of it
 *   relay_pair     bytes between two sockets, and their end
 *   relay_policy   who may reach whom; relay_file reads it
 *   relay_limits   how much each may have; the ports that channels come from
 *   relay_log      lines, relay_notify the service manager
 */
#include "tool.h"

#include <errno.h>
#include <string.h>

#include "relay_daemon.h"
#include "relay_file.h"
#include "vchan/relay.h"

#define POLICY_FILE "/etc/vchan-vsock/relay.policy"

/* As many as there are ports below 1024 for them. */
#define CHANNELS_MOST (RELAY_TO - RELAY_PRIVILEGED_FROM)

static int check(const char *path)
{
	struct relay_faults faults;
	struct policy *policy = relay_file_read(path, &faults);

	if (policy) {
		tool_say("%s: %zu rule%s, no errors", path, policy_rules(policy),
			 policy_rules(policy) == 1 ? "" : "s");
		policy_free(policy);
		return TOOL_OK;
	}
	if (faults.count == 0)
		return tool_failed("%s: %s", path, strerror(errno));
	for (size_t i = 0; i < faults.shown; i++)
		tool_say("%s:%u:%u: %s", path, faults.list[i].line, faults.list[i].column,
			 faults.list[i].what);
	if (faults.shown < faults.count)
		tool_say("%s: %zu more bad lines", path, faults.count - faults.shown);
	return TOOL_FAILED;
}

enum option_value { POLICY = 256, CHECK, PORT, MAX_CHANNELS, MAX_TOTAL, RATE, DRAIN, JSON };

static const struct option options[] = {
	{ "policy", required_argument, NULL, POLICY },
	{ "check", required_argument, NULL, CHECK },
	{ "port", required_argument, NULL, PORT },
	{ "max-channels", required_argument, NULL, MAX_CHANNELS },
	{ "max-total", required_argument, NULL, MAX_TOTAL },
	{ "rate", required_argument, NULL, RATE },
	{ "drain", required_argument, NULL, DRAIN },
	{ "json", no_argument, NULL, JSON },
	TOOL_HELP_OPTION,
	{ NULL, 0, NULL, 0 },
};

static bool number(const char *name, uint32_t least, uint32_t most, uint32_t *to)
{
	uint64_t value;

	if (!tool_number(name, optarg, least, most, &value))
		return false;
	*to = (uint32_t)value;
	return true;
}

struct wish {
	struct relay_options options;
	const char *to_check;
};

static bool take_option(void *to, int option)
{
	struct wish *w = to;
	struct relay_options *o = &w->options;

	switch (option) {
	case POLICY:
		o->policy = optarg;
		return true;
	case CHECK:
		w->to_check = optarg;
		return true;
	case PORT:
		return number("--port", 1, UINT32_MAX - 1, &o->port);
	case MAX_CHANNELS:
		return number("--max-channels", 1, CHANNELS_MOST, &o->limits.channels);
	case MAX_TOTAL:
		return number("--max-total", 1, CHANNELS_MOST, &o->limits.total);
	case RATE:
		return number("--rate", 1, 1000000, &o->limits.rate);
	case DRAIN:
		return number("--drain", 0, 86400, &o->drain_s);
	case JSON:
		o->json = true;
		return true;
	default:
		return false;
	}
}

static int run(int argc, char **argv)
{
	struct wish w = { { POLICY_FILE, RELAY_PORT, 10, { 256, 1000, 1000 }, false }, NULL };
	int status = tool_options(argc, argv, "+:h", options, take_option, &w);

	if (status != TOOL_GO_ON)
		return status;
	if (optind < argc)
		return tool_usage("what is \"%s\"? It takes options only", argv[optind]);
	return w.to_check ? check(w.to_check) : relay_daemon(&w.options);
}

const struct command command_relay = {
	"relay", "on a host: let its guests reach one another",
	"usage: vchan-vsock relay [options]\n"
	"\n"
	"A daemon for a host whose guests shall reach one another, which vsock alone does\n"
	"not let them.  Who may reach whom says its policy; what no rule allows is denied:\n"
	"\n"
	"  # SOURCE -> TARGET PORTS: numbers, ranges, lists of both, or *\n"
	"  allow 42 -> 43 512\n"
	"  allow 42,50-59 -> 44 512-515,600\n"
	"\n"
	"  --policy FILE       default " POLICY_FILE "\n"
	"  --check FILE        look for errors in a policy, and do nothing else\n"
	"  --max-channels N    of one source at a time, default 256; a quarter of them for\n"
	"                      clients whose own port is below 1024\n"
	"  --max-total N       of all, default 1000; there are ports for 1022\n"
	"  --rate N            requests per second of one source, default 1000, and twice\n"
	"                      as many at once after a while of silence; a client whose\n"
	"                      server is not there asks about 20 times a second\n"
	"  --drain SECONDS     how long SIGTERM waits for channels, default 10\n"
	"  --port N            vsock port, default 768, where our clients come\n"
	"  --json              lines on stderr are JSON instead of key=value\n"
	"  --help\n"
	"\n"
	"SIGHUP reads the policy again: a bad one is refused, and the old one stays.\n"
	"SIGTERM lets nobody in and waits for the channels; a second one does not wait.\n"
	"It takes CAP_NET_BIND_SERVICE, and nothing else of root's.\n"
	"\n"
	"Example, with guests 42 and 43 running:\n"
	"\n"
	"  echo 'allow 42 -> 43 512' > relay.policy\n"
	"  vchan-vsock relay --check relay.policy\n"
	"  vchan-vsock relay --policy relay.policy\n",
	run,
};
