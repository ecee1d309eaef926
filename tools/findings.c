/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "findings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"

static const char *const names[] = { "ok", "note", "bad" };
static const char *const colours[] = { "\033[32m", "\033[33m", "\033[1;31m" };

/* A terminal, unless its user wants none (no-color.org). */
static bool wants_colours(void)
{
	const char *never = getenv("NO_COLOR"), *terminal = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(never && *never) &&
	       terminal && strcmp(terminal, "dumb") != 0;
}

void findings_begin(struct findings *f, bool json)
{
	memset(f, 0, sizeof *f);
	f->json = json;
	f->colours = !json && wants_colours();
	if (json)
		printf("[");
}

static void print_json(const struct findings *f, enum finding state, const char *name,
		       const char *advice, const char *text)
{
	printf("%s\n  {\"name\": ", f->count ? "," : "");
	json_string(stdout, name);
	printf(", \"state\": \"%s\", \"text\": ", names[state]);
	json_string(stdout, text);
	printf(", \"advice\": ");
	if (advice)
		json_string(stdout, advice);
	else
		printf("null");
	printf("}");
}

static void print_line(const struct findings *f, enum finding state, const char *name,
		       const char *advice, const char *text)
{
	printf("%s%-4s%s  %s: ", f->colours ? colours[state] : "", names[state],
	       f->colours ? "\033[0m" : "", name);
	plain_string(stdout, text);
	if (advice) {
		printf(" -> ");
		plain_string(stdout, advice);
	}
	printf("\n");
}

void findings_add(struct findings *f, enum finding state, const char *name, const char *advice,
		  const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (f->json)
		print_json(f, state, name, advice, text);
	else
		print_line(f, state, name, advice, text);
	/* The next look may take a moment. */
	if (fflush(stdout) != 0)
		f->error = errno;
	f->count++;
	f->bad += state == FINDING_BAD;
}

void findings_end(const struct findings *f)
{
	if (f->json)
		printf("\n]\n");
}
