/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock COMMAND ...: finds the command and lets it run.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

static const struct command *const commands[] = {
	&command_listen,
	&command_connect,
	&command_proxy,
	&command_relay,
	&command_addr,
	&command_list,
	&command_doctor,
	&command_bench,
	NULL,
};

static void usage(FILE *to)
{
	fputs("usage: vchan-vsock COMMAND [options] ...\n\n"
	      "Byte channels between virtual machines, over AF_VSOCK.\n\n", to);
	for (const struct command *const *c = commands; *c; c++)
		fprintf(to, "  %-8s  %s\n", (*c)->name, (*c)->summary);
	fputs("\n  --help, --version\n\n"
	      "vchan-vsock COMMAND --help says more, with an example.\n", to);
}

static const struct command *find(const char *name)
{
	for (const struct command *const *c = commands; *c; c++)
		if (strcmp((*c)->name, name) == 0)
			return *c;
	return NULL;
}

/* What is printed last may be lost to a full disk, and that is a failure. */
static int flushed(int status)
{
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == TOOL_OK)
		return tool_failed("cannot write to standard output: %s", strerror(errno));
	return status;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name) {
		usage(stderr);
		return TOOL_USAGE;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
	    strcmp(name, "help") == 0) {
		usage(stdout);
		return flushed(TOOL_OK);
	}
	if (strcmp(name, "--version") == 0) {
		puts("vchan-vsock " VCHAN_VSOCK_VERSION);
		return flushed(TOOL_OK);
	}
	tool_command = find(name);
	if (!tool_command)
		return tool_usage(name[0] == '-' ? "no such option: %s" : "no such command: %s",
				  name);
	/* Whoever does not read any more is an error like others. */
	signal(SIGPIPE, SIG_IGN);
	return flushed(tool_command->run(argc - 1, argv + 1));
}
