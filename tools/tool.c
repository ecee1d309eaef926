/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vchan/address.h"
#include "vchan/log.h"
#include "vchan/vsock.h"

const struct command *tool_command;

static void __attribute__((format(printf, 1, 0))) say(const char *format, va_list args)
{
	char line[1024];

	/* In one piece: others may write there, too. */
	vsnprintf(line, sizeof line, format, args);
	fprintf(stderr, "vchan-vsock%s%s: %s\n", tool_command ? " " : "",
		tool_command ? tool_command->name : "", line);
}

void tool_say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
}

int tool_failed(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	return TOOL_FAILED;
}

int tool_usage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	fprintf(stderr, "Try: vchan-vsock %s%s--help\n", tool_command ? tool_command->name : "",
		tool_command ? " " : "");
	return TOOL_USAGE;
}

static const char *long_name(const struct option *options, int value)
{
	for (; options->name; options++)
		if (!options->flag && options->val == value)
			return options->name;
	return NULL;
}

/* getopt_long has moved past the word; of a bundle of short ones it is still there. */
static void refuse(char **argv, int found, const struct option *options)
{
	const char *name = optopt ? long_name(options, optopt) : NULL;
	const char *word = argv[optind - 1];

	if (found == ':')
		tool_usage("option %s%s wants a value", name ? "--" : "", name ? name : word);
	else if (name)
		tool_usage("option --%s takes no value", name);
	else if (optopt && strncmp(word, "--", 2) != 0)
		tool_usage("no such option: -%c", optopt);
	else
		tool_usage("no such option: %s", word);
}

int tool_options(int argc, char **argv, const char *short_options,
		 const struct option *long_options, bool (*take)(void *to, int option), void *to)
{
	int found;

	opterr = 0;
	while ((found = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		if (found == 'h') {
			fputs(tool_command->help, stdout);
			return TOOL_OK;
		}
		if (found == '?' || found == ':') {
			refuse(argv, found, long_options);
			return TOOL_USAGE;
		}
		if (!take(to, found))
			return TOOL_USAGE;
	}
	return TOOL_GO_ON;
}

static bool is_decimal(const char *text, size_t length)
{
	return length > 0 && strspn(text, "0123456789") >= length;
}

bool tool_number(const char *what, const char *text, uint64_t least, uint64_t most,
		 uint64_t *number)
{
	unsigned long long value = 0;

	errno = 0;
	if (is_decimal(text, strlen(text)))
		value = strtoull(text, NULL, 10);
	else
		errno = EINVAL;
	if (errno || value < least || value > most) {
		tool_usage("%s: \"%s\" is not a number from %llu to %llu", what, text,
			   (unsigned long long)least, (unsigned long long)most);
		return false;
	}
	*number = value;
	return true;
}

bool tool_size(const char *what, const char *text, uint64_t most, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	size_t length = strlen(text);
	const char *suffix = length > 1 ? strchr(suffixes, text[length - 1]) : NULL;
	unsigned shift = suffix ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
	unsigned long long value = 0;

	if (suffix)
		length--;
	errno = 0;
	if (is_decimal(text, length))
		value = strtoull(text, NULL, 10);
	else
		errno = EINVAL;
	if (errno || value > most >> shift) {
		tool_usage("%s: \"%s\" is not a number of bytes up to %llu, as 4096 or 64K", what,
			   text, (unsigned long long)most);
		return false;
	}
	*bytes = value << shift;
	return true;
}

bool tool_domain(const char *text, int *domain)
{
	uint64_t number;

	if (strcmp(text, "host") == 0) {
		*domain = 0;
		return true;
	}
	if (!tool_number("DOMAIN", text, 0, INT32_MAX, &number))
		return false;
	*domain = (int)number;
	return true;
}

bool tool_port(const char *text, int *port)
{
	uint64_t number;

	if (!tool_number("PORT", text, 0, UINT16_MAX, &number))
		return false;
	*port = (int)number;
	return true;
}

bool tool_is_shortage(int err)
{
	return err == EMFILE || err == ENFILE || vsock_is_short_of_memory(err);
}

const char *tool_reason(int err)
{
	static struct reason reason;

	reason = log_reason(err);
	return reason.text;
}
