/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock proxy: join channels and sockets, one new one for each that comes.
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

const struct command command_proxy = {
	"proxy", "join channels and sockets, one new one for each that comes",
	"usage: vchan-vsock proxy\n",
	run,
};
