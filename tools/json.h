/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Words as JSON and people have them.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdio.h>

/* "TEXT", with its quotes, in ASCII.  A byte beyond that is the character of its number,
 * so that anything is valid. */
void json_string(FILE *to, const char *text);

/* Without what would move a terminal's cursor. */
void plain_string(FILE *to, const char *text);

#endif
