/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections that end as soon as they are there, to see whether anybody answers.
 */
#ifndef TOOLS_PROBE_H
#define TOOLS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "vchan/relay.h"

/* Nobody's: no channel has it, no client comes from it, and it takes root to listen
 * there. */
#define PROBE_NOBODY 0u

/* 0: somebody listens there.  Else an errno: ECONNRESET nobody does, ENODEV no such
 * machine, ETIMEDOUT it does not answer.
 *
 * A server of ours at its framed port turns away who leaves without a hello, and waits
 * on.  Of its plain port that is not true: whoever comes there may be its client.
 * `ours`: a server that speaks both wires shall wait for our framed connection, and so
 * see us leave. */
int probe_port(uint32_t cid, uint32_t port, bool ours);

/* Ask the host's relay, at its vsock port, for a channel to another guest, and leave without a hello.  0
 * and its answer, or an errno as above; EPROTO: it is no relay. */
int probe_relay(uint32_t relay_port, const struct relay_request *request,
		enum relay_status *status);

#endif
