/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock bench: measure a channel beside a plain vsock socket.
 */
#include <stdlib.h>

#include "bench_case.h"
#include "bench_ends.h"
#include "tool.h"

#define MOST_SECONDS 600

static bool is_known(const char *name)
{
	for (size_t i = 0; i < bench_case_count; i++)
		if (bench_is_named(&bench_cases[i], name))
			return true;
	tool_usage("no such case: %s", name);
	return false;
}

static bool take_seconds(const char *what, unsigned least, unsigned *seconds)
{
	uint64_t number;

	if (!tool_number(what, optarg, least, MOST_SECONDS, &number))
		return false;
	*seconds = (unsigned)number;
	return true;
}

/* What the driver alone has is refused at the server, and the other way round. */
struct wish {
	struct bench_options *options;
	const char *of_server, *of_driver;
};

static bool take_option(void *to, int option)
{
	struct wish *w = to;
	struct bench_options *o = w->options;

	switch (option) {
	case 's':
		o->serve = true;
		return true;
	case 'o':
		o->once = true;
		w->of_server = "--once";
		return true;
	case 'p':
		return take_seconds("--patience", 1, &o->patience);
	case 't':
		w->of_driver = "--seconds";
		return take_seconds("--seconds", 0, &o->seconds);
	case 'c':
		w->of_driver = "--case";
		o->names[o->name_count++] = optarg;
		return is_known(optarg);
	case 'n':
		o->no_plain = true;
		w->of_driver = "--no-plain";
		return true;
	default:
		o->json = true;
		w->of_driver = "--json";
		return true;
	}
}

static const struct option long_options[] = {
	{ "serve", no_argument, NULL, 's' },      { "once", no_argument, NULL, 'o' },
	{ "seconds", required_argument, NULL, 't' }, { "case", required_argument, NULL, 'c' },
	{ "no-plain", no_argument, NULL, 'n' },   { "json", no_argument, NULL, 'j' },
	{ "patience", required_argument, NULL, 'p' }, TOOL_HELP_OPTION,
	{ NULL, 0, NULL, 0 }
};

/* TOOL_GO_ON, or else the exit status. */
static int take_options(int argc, char **argv, struct bench_options *o)
{
	struct wish w = { o, NULL, NULL };
	int status = tool_options(argc, argv, "+:h", long_options, take_option, &w);

	if (status != TOOL_GO_ON)
		return status;
	if (o->serve && w.of_driver)
		return tool_usage("%s is for the side that drives, not for --serve",
				  w.of_driver);
	if (!o->serve && w.of_server)
		return tool_usage("%s goes with --serve", w.of_server);
	return TOOL_GO_ON;
}

static bool take_address(int argc, char **argv, struct bench_options *o)
{
	if (argc - optind != 2) {
		tool_usage("DOMAIN and PORT are wanted, and nothing else");
		return false;
	}
	if (!tool_domain(argv[optind], &o->domain) || !tool_port(argv[optind + 1], &o->port))
		return false;
	if (o->port <= UINT16_MAX - BENCH_PORTS)
		return true;
	tool_usage("PORT: %d leaves no room for the %d ports above it", o->port, BENCH_PORTS);
	return false;
}

static int run_with(int argc, char **argv, struct bench_options *o)
{
	int status = take_options(argc, argv, o);

	if (status != TOOL_GO_ON)
		return status;
	if (!take_address(argc, argv, o))
		return TOOL_USAGE;
	return o->serve ? bench_serve(o) : bench_measure(o);
}

static int run(int argc, char **argv)
{
	struct bench_options o = { .patience = 20, .seconds = 10 };
	int status;

	o.names = calloc((size_t)argc, sizeof *o.names);
	if (!o.names)
		return tool_failed("no memory");
	status = run_with(argc, argv, &o);
	free(o.names);
	return status;
}

const struct command command_bench = {
	"bench", "measure a channel beside a plain vsock socket",
	"usage: vchan-vsock bench --serve [--once] [--patience SECONDS] DOMAIN PORT\n"
	"       vchan-vsock bench [options] DOMAIN PORT\n"
	"\n"
	"Measures what a channel to DOMAIN does, and beside it a plain vsock socket, in\n"
	"turns.  The first form serves, on one machine; the second, on the other one,\n"
	"measures and prints medians with the least and the most of all rounds.  DOMAIN is\n"
	"the other machine each time: its CID, or \"host\".\n"
	"\n"
	"  --serve             serve one run after the other, until ended\n"
	"  --once              serve one run; exit as that ended\n"
	"  --seconds SECONDS   for all together, about; default 10; 3 rounds are the least,\n"
	"                      whatever they take\n"
	"  --case NAME         only this; more than once for more; \"stream\" is all that\n"
	"                      begin so, \"stream-64\" both directions\n"
	"  --no-plain          no plain sockets\n"
	"  --json              one JSON document instead of a table\n"
	"  --patience SECONDS  how long the other side may be silent, and how long a server\n"
	"                      is waited for; default 20\n"
	"\n"
	"Cases: trip-1, trip-64, trip-4K: there and back, in us.\n"
	"  stream-16, -64, -256, -1K, -4K, -64K, -1M: messages in a row until the reader has\n"
	"  acknowledged all, in messages/s, from 4K on in MiB/s; -out: from the driver, -in: to\n"
	"  it.  qrexec-out, -in: a header and a payload of up to 64 KiB each, with poll.\n"
	"  setup: open, a byte each way, close, in us.\n"
	"The ratio is the channel's figure to the plain socket's.  A socket that the kernel\n"
	"resets, as some do when the reader lags, has died in that round.\n"
	"\n"
	"Ports: what is said about the run goes over a channel on PORT, what is measured over\n"
	"channels on PORT + 1 and PORT + 2, and plain sockets on the vsock ports that PORT + 3\n"
	"and PORT + 4 would have (vchan-vsock addr).  Plain sockets have the kernel's own\n"
	"buffer, 256 KiB.\n"
	"\n"
	"Exit status: 0 when every case was measured, 1 when not, 2 for a wrong command line.\n"
	"\n"
	"Example, the host and its guest 42:\n"
	"  host$   vchan-vsock bench --serve 42 700\n"
	"  guest$  vchan-vsock bench host 700\n"
	"  guest$  vchan-vsock bench --case trip --case stream-64 --json host 700\n",
	run,
};
