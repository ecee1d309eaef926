/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was found, a line each, for people or as JSON.
 */
#ifndef TOOLS_FINDINGS_H
#define TOOLS_FINDINGS_H

#include <stdbool.h>

enum finding {
	FINDING_OK,
	FINDING_NOTE, /* good to know, or to know of when something goes wrong */
	FINDING_BAD,
};

struct findings {
	bool json, colours;
	unsigned count, bad;
	int error; /* errno of what could not be written */
};

void findings_begin(struct findings *f, bool json);
/* name: a word that stays the same; advice: what to do about it, or NULL. */
void findings_add(struct findings *f, enum finding state, const char *name, const char *advice,
		  const char *format, ...) __attribute__((format(printf, 5, 6)));
void findings_end(const struct findings *f);

#endif
