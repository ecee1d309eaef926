/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_peer.h"

#include "vchan/handle.h"

bool peer_was_there(const libvchan_t *vchan)
{
	return vchan->sock >= 0;
}

bool peer_has_had_all(const libvchan_t *vchan)
{
	if (ring_fill(&vchan->out))
		return false;
	return !handle_is_framed(vchan) ||
	       atomic_load(&vchan->flow.acked) == atomic_load(&vchan->flow.accepted);
}
