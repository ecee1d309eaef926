/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may reach whom through the relay.  What no rule allows is denied.
 *
 *   allow SOURCE -> TARGET PORTS     # a comment, up to the end of the line
 *
 * SOURCE and TARGET are CIDs, PORTS vchan ports: numbers (512), ranges (3-9), lists of
 * both (3,5,7-9; no blanks inside), or * for all.  Pure: no files, no output.
 */
#ifndef TOOLS_RELAY_POLICY_H
#define TOOLS_RELAY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A guest's CID; a source's is a part of the vsock port, too. */
#define POLICY_CID_LEAST 3u
#define POLICY_SOURCE_MOST 32767u
#define POLICY_TARGET_MOST 2147483647u
#define POLICY_PORT_MOST 65535u

#define POLICY_SIZE_MOST (1u << 20) /* bytes of a file */

struct policy;

/* Line and column count from 1, the column in bytes. */
struct policy_fault {
	unsigned line, column;
	char what[120];
};

/* NULL: `faults` says why, one for each bad line, up to `room` of them; *count is how many
 * there are in all.  0 of them: there is no memory. */
struct policy *policy_parse(const char *text, size_t size, struct policy_fault *faults,
			    size_t room, size_t *count);
void policy_free(struct policy *policy);

size_t policy_rules(const struct policy *policy);
bool policy_allows(const struct policy *policy, uint32_t source, uint32_t target,
		   uint32_t port);

#endif
