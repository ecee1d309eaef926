/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock connect: connect to a channel: standard input and output through it.
 */
#include "stream_options.h"
#include "stream_stop.h"
#include "tool.h"

#define MS_PER_S 1000
#define TIMEOUT_MOST 2147483u /* as VCHAN_VSOCK_CONNECT_TIMEOUT_MS has it */
#define AS_THE_ENVIRONMENT (-1)

struct wish {
	struct stream_wish stream; /* first */
	int64_t timeout_ms;
};

static bool take(void *wish, int option)
{
	struct wish *w = wish;
	uint64_t seconds;

	if (option != 'w')
		return stream_take_option(option, &w->stream.plan);
	if (!tool_number("--timeout", optarg, 0, TIMEOUT_MOST, &seconds))
		return false;
	w->timeout_ms = (int64_t)seconds * MS_PER_S;
	return true;
}

static int connect_and_copy(const struct wish *w)
{
	struct stream_input input;
	int stop_fd = stream_begin(&w->stream, false, &input), status;
	libvchan_t *vchan;

	if (stop_fd < 0)
		return TOOL_FAILED;
	vchan = channel_connect(&w->stream.address, w->timeout_ms, stop_fd);
	status = vchan ? stream_run(vchan, &w->stream.plan, &input, stop_fd) : TOOL_FAILED;
	libvchan_close(vchan);
	stop_now();
	return status;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		STREAM_LONG,
		{ "timeout", required_argument, NULL, 'w' },
		{ NULL, 0, NULL, 0 },
	};
	struct wish w = { .timeout_ms = AS_THE_ENVIRONMENT };
	int status = stream_take_words(argc, argv, "+:w:" STREAM_SHORT, options, take,
				       &w.stream);

	return status == TOOL_GO_ON ? connect_and_copy(&w) : status;
}

const struct command command_connect = {
	"connect", "connect to a channel: standard input and output through it",
	"usage: vchan-vsock connect [options] DOMAIN PORT\n"
	"\n"
	"Connects to the server of PORT in DOMAIN (a CID, or \"host\") and copies standard input\n"
	"to it and what it says to standard output.  Waits for the server as long as there is\n"
	"such a machine.\n"
	"\n"
	"  -w, --timeout SECONDS  wait so long for the server; 0: for ever; default\n"
	"                         VCHAN_VSOCK_CONNECT_TIMEOUT_MS, or for ever\n"
	STREAM_OPTIONS_HELP
	"  -h, --help\n"
	"\n"
	STREAM_END_HELP
	"\n"
	"Example, in a guest: a directory to the host, where this waits for it from guest 42:\n"
	"    vchan-vsock listen 42 512 | tar x\n"
	"and the guest says:\n"
	"    tar c src | vchan-vsock connect --send-only host 512\n",
	run,
};
