/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The relay's policy, from a file. */
#ifndef TOOLS_RELAY_FILE_H
#define TOOLS_RELAY_FILE_H

#include "relay_policy.h"

#define RELAY_FILE_FAULTS 20

struct relay_faults {
	struct policy_fault list[RELAY_FILE_FAULTS];
	size_t count; /* of all; 0: the file could not be read, and errno says why */
	size_t shown; /* are in the list */
};

/* NULL: `faults` says why.  EFBIG: it is larger than POLICY_SIZE_MOST. */
struct policy *relay_file_read(const char *path, struct relay_faults *faults);

#endif
