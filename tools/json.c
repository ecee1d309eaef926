/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "json.h"

#include <stdbool.h>

static bool is_printable(unsigned char c)
{
	return c >= ' ' && c < 127;
}

void json_string(FILE *to, const char *text)
{
	fputc('"', to);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (!is_printable(c))
			fprintf(to, "\\u%04x", c);
		else
			fprintf(to, "%s%c", c == '"' || c == '\\' ? "\\" : "", c);
	}
	fputc('"', to);
}

void plain_string(FILE *to, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		fputc(c < ' ' || c == 127 ? '?' : c, to);
	}
}
