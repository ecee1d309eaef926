/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock relay: on a host: let its guests reach one another.
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

const struct command command_relay = {
	"relay", "on a host: let its guests reach one another",
	"usage: vchan-vsock relay\n",
	run,
};
