/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock listen: serve a channel: standard input and output through it.
 */
#include "stream_options.h"
#include "stream_stop.h"
#include "tool.h"

#define RING_PRESET ((uint64_t)128 << 10)
#define RING_MOST ((uint64_t)1 << 30)

enum { OPTION_READ_RING = OPTION_OWN, OPTION_WRITE_RING };

struct wish {
	struct stream_wish stream; /* first */
	uint64_t read_ring, write_ring;
	bool keep;
};

static bool take(void *wish, int option)
{
	struct wish *w = wish;

	switch (option) {
	case 'k':
		w->keep = true;
		return true;
	case OPTION_READ_RING:
		return tool_size("--read-ring", optarg, RING_MOST, &w->read_ring);
	case OPTION_WRITE_RING:
		return tool_size("--write-ring", optarg, RING_MOST, &w->write_ring);
	default:
		return stream_take_option(option, &w->stream.plan);
	}
}

/* False: there will be no other one. */
static bool serve_one(const struct wish *w, struct stream_input *input, int stop_fd,
		      int *status)
{
	libvchan_t *vchan =
		channel_serve(&w->stream.address, w->read_ring, w->write_ring, stop_fd);

	*status = vchan ? stream_run(vchan, &w->stream.plan, input, stop_fd) : TOOL_FAILED;
	libvchan_close(vchan);
	return vchan && w->keep && !input->broken && !stop_signal();
}

static int serve(const struct wish *w)
{
	struct stream_input input;
	int stop_fd = stream_begin(&w->stream, true, &input), status;
	bool more;

	if (stop_fd < 0)
		return TOOL_FAILED;
	do
		more = serve_one(w, &input, stop_fd, &status);
	while (more);
	stop_now();
	return status;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		STREAM_LONG,
		{ "keep", no_argument, NULL, 'k' },
		{ "read-ring", required_argument, NULL, OPTION_READ_RING },
		{ "write-ring", required_argument, NULL, OPTION_WRITE_RING },
		{ NULL, 0, NULL, 0 },
	};
	struct wish w = { .read_ring = RING_PRESET, .write_ring = RING_PRESET };
	int status = stream_take_words(argc, argv, "+:k" STREAM_SHORT, options, take, &w.stream);

	return status == TOOL_GO_ON ? serve(&w) : status;
}

const struct command command_listen = {
	"listen", "serve a channel: standard input and output through it",
	"usage: vchan-vsock listen [options] DOMAIN PORT\n"
	"\n"
	"Serves PORT to the machine DOMAIN (a CID, or \"host\"): waits for a client from there,\n"
	"then copies standard input to it and what it says to standard output.\n"
	"\n"
	"  -k, --keep             serve the next client when one has ended, until a signal; with\n"
	"                         --exec each has a command of its own; a file as standard input\n"
	"                         is sent to each from its beginning\n"
	"      --read-ring N[KMGT], --write-ring N[KMGT]\n"
	"                         sizes of the channel's rings, in bytes; default 128K each\n"
	STREAM_OPTIONS_HELP
	"  -h, --help\n"
	"\n"
	STREAM_END_HELP
	"\n"
	"Example, on a host: tell guest 42 the time, whenever it asks:\n"
	"    vchan-vsock listen --keep --exec date 42 512\n"
	"and the guest asks:\n"
	"    vchan-vsock connect host 512 < /dev/null\n",
	run,
};
