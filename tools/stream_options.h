/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What listen and connect have in common on their command lines. */
#ifndef TOOLS_STREAM_OPTIONS_H
#define TOOLS_STREAM_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>

#include "stream.h"
#include "stream_channel.h"

/* Values of options: their short letter, or one of these. */
enum {
	OPTION_SEND_ONLY = 256,
	OPTION_RECV_ONLY,
	OPTION_PROGRESS,
	OPTION_SIZE,
	OPTION_OWN, /* the command's own options begin here */
};

#define STREAM_SHORT "e:q:h"
#define STREAM_LONG                                                   \
	TOOL_HELP_OPTION, { "exec", required_argument, NULL, 'e' },   \
		{ "linger", required_argument, NULL, 'q' },           \
		{ "send-only", no_argument, NULL, OPTION_SEND_ONLY }, \
		{ "recv-only", no_argument, NULL, OPTION_RECV_ONLY }, \
		{ "progress", optional_argument, NULL, OPTION_PROGRESS }, \
		{ "size", required_argument, NULL, OPTION_SIZE }

#define STREAM_OPTIONS_HELP \
	"  -e, --exec COMMAND     run COMMAND (sh -c) with the channel as its standard input\n" \
	"                         and output; it ends when COMMAND and its output have ended\n" \
	"  -q, --linger SECONDS   how long the peer must be silent after the end of the input\n" \
	"                         before this end closes; default 5; \"forever\": the peer does\n" \
	"      --send-only        what the peer says is thrown away; the same as --linger 0\n" \
	"      --recv-only        standard input is left alone; the peer closes\n" \
	"      --progress[=always]  show amount, rate and time on standard error, if that is a\n" \
	"                         terminal, or always\n" \
	"      --size N[KMGT]     with it: so many bytes will go or come; show share and time\n" \
	"                         left\n"

#define STREAM_END_HELP \
	"The end.  A channel can only be closed in both directions at once.  So when standard\n" \
	"input ends, all of it is delivered, and then the peer is heard until it closes, or has\n" \
	"been silent for --linger seconds, 5 by default.  Without input (/dev/null, --recv-only)\n" \
	"it is the peer that closes.  When it does, what it has sent is written out to the last\n" \
	"byte.  One that has died looks like one that has closed.\n" \
	"  one way, a file:       the sender ends by itself, --send-only at once; the receiver\n" \
	"                         follows\n" \
	"  question and answer:   prints the answer until the server ends; --linger forever if\n" \
	"                         it may think for longer than the 5 seconds\n" \
	"\n" \
	"Exit status: 0 all was delivered to the peer and written out; 1 it was not, and the\n" \
	"reason is on standard error; 2 the command line is wrong; with --exec, the command's.\n" \
	"SIGINT, SIGTERM and SIGHUP end it, and the command, cleanly; a second one at once.\n"

/* What every wish begins with. */
struct stream_wish {
	struct stream_plan plan;
	struct channel_address address;
};

/* One of the options above.  False: refused. */
bool stream_take_option(int option, struct stream_plan *plan);
/* The whole command line.  `take` has the wish, and passes what is not its own on to
 * stream_take_option.  TOOL_GO_ON, or else the exit status. */
int stream_take_words(int argc, char **argv, const char *short_options,
		      const struct option *options, bool (*take)(void *wish, int option),
		      struct stream_wish *wish);
/* Before the channel: the fd that tells of a signal, and the input; stop_now afterwards.
 * -1: it has said why not. */
int stream_begin(const struct stream_wish *wish, bool server, struct stream_input *input);

#endif
