/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef NUMBER_H
#define NUMBER_H

#include <limits.h>
#include <stdlib.h>

/* A decimal number, or -1: the library refuses that, and says so. */
static inline int number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 10);

	return *text && !*end && value >= 0 && value <= INT_MAX ? (int)value : -1;
}

#endif
