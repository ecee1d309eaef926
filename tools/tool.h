/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock, the command: what its subcommands share.  Each subcommand is a file
 * of its own, tools/NAME.c, with its help and its function; main.c has the table.
 *
 * Standard output carries data and nothing else; what is said to people goes to
 * standard error, in one line that begins with "vchan-vsock NAME: ".
 */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit statuses. */
#define TOOL_OK 0
#define TOOL_FAILED 1 /* it was tried, and went wrong */
#define TOOL_USAGE 2  /* the command line is wrong; nothing was done */

struct command {
	const char *name;
	const char *summary; /* for the list of commands */
	const char *help;    /* all that --help prints; ends with an example */
	int (*run)(int argc, char **argv); /* argv[0] is the name; returns the exit status */
};

/* tools/NAME.c each. */
extern const struct command command_listen, command_connect, command_proxy, command_bench,
	command_addr, command_doctor, command_list, command_relay;

/* The one that runs. */
extern const struct command *tool_command;

/* One line on standard error; returns TOOL_FAILED. */
int tool_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, with a second line that points to --help; returns TOOL_USAGE. */
int tool_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* One line on standard error. */
void tool_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define TOOL_HELP_OPTION { "help", no_argument, NULL, 'h' }
#define TOOL_GO_ON (-1)
/* All options of a command line; `short_options` begins with "+:".  `take` has `to` and the
 * value of each, with optarg; false: it has refused one (tool_usage).  An unknown option, a
 * missing or superfluous value is refused here by name, and --help printed, when the table
 * has it as TOOL_HELP_OPTION.  Returns TOOL_GO_ON, with optind at the first argument, or
 * else the exit status. */
int tool_options(int argc, char **argv, const char *short_options,
		 const struct option *long_options, bool (*take)(void *to, int option), void *to);

/* Decimal digits and nothing else, least..most.  False: `what` was refused by name. */
bool tool_number(const char *what, const char *text, uint64_t least, uint64_t most,
		 uint64_t *number);
/* The same with a suffix K, M, G or T (powers of 1024) or none: bytes. */
bool tool_size(const char *what, const char *text, uint64_t most, uint64_t *bytes);

/* DOMAIN and PORT of a command line: a CID, or "host"; below 2^31 and 65536. */
bool tool_domain(const char *text, int *domain);
bool tool_port(const char *text, int *port);

/* EMFILE, ENFILE, ENOMEM, ENOBUFS: it may go well a little later. */
bool tool_is_shortage(int err);

/* What the errno of a libvchan call or a socket's means here, and what to do. */
const char *tool_reason(int err);

#endif
