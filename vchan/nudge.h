/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How often a guest is nudged (vsock_nudge).
 *
 * A guest that starts anew inside of its virtual machine keeps its CID, and nobody
 * tells its host.  So it is nudged: each second while it was heard within the last
 * minute, then more and more rarely, as the kernel keeps the packets for a guest that
 * stands still.
 */
#ifndef VCHAN_NUDGE_H
#define VCHAN_NUDGE_H

#include <stdint.h>

#include "clock.h"

#define NUDGE_EVERY (1 * CLOCK_S)
#define NUDGES_OFTEN 60

/* ns, until the next one; nudges: since the guest was heard. */
static inline int64_t nudge_pause(unsigned nudges)
{
	const unsigned doubles = 6;
	unsigned more = nudges < NUDGES_OFTEN ? 0 : nudges - NUDGES_OFTEN;

	return NUDGE_EVERY << (more < doubles ? more : doubles);
}

#endif
