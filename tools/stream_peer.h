/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the library knows of a peer that has gone, and libvchan.h does not tell. */
#ifndef TOOLS_STREAM_PEER_H
#define TOOLS_STREAM_PEER_H

#include <stdbool.h>

#include "libvchan.h"

/* Was there ever a connection? */
bool peer_was_there(const libvchan_t *vchan);
/* After its end: everything that was written has gone to it, and, where it has told of
 * that (the framed wire), its program has had all of it. */
bool peer_has_had_all(const libvchan_t *vchan);

#endif
