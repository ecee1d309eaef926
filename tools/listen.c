/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock listen: serve a channel: standard input and output through it.
 */
#include "tool.h"

static int run(int argc, char **argv)
{
	static const struct option options[] = { TOOL_HELP_OPTION, { NULL, 0, NULL, 0 } };
	int found = tool_option(argc, argv, "+:h", options);

	if (found == TOOL_OPTION_HELP)
		return TOOL_OK;
	if (found == TOOL_OPTION_BAD)
		return TOOL_USAGE;
	return tool_failed("not there yet");
}

const struct command command_listen = {
	"listen", "serve a channel: standard input and output through it",
	"usage: vchan-vsock listen\n",
	run,
};
