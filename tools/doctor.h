/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of the doctor share: who this machine is.
 */
#ifndef TOOLS_DOCTOR_H
#define TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/utsname.h>

#include "findings.h"
#include "module.h"
#include "vchan/config.h"

enum doctor_module { CORE, GUEST_SIDE, HOST_SIDE, LOOPBACK, DIAG, MODULES };

struct doctor {
	struct findings findings;
	struct config config;
	struct utsname kernel;
	enum module_state modules[MODULES];
	bool has_socket; /* AF_VSOCK can be opened */
	uint32_t kernel_cid; /* 0: it does not tell */
	uint32_t own_cid;    /* the domain that the library takes; 0: it has none */
};

/* doctor_local.c: looks at this machine, and opens no socket that has an address. */
void doctor_look_here(struct doctor *d);

/* doctor_peer.c: connects to it.  port: -1 when none was given. */
struct doctor_peer {
	uint32_t cid;
	int port;
	bool plain; /* the plain port may be touched, too */
};
void doctor_look_there(struct doctor *d, const struct doctor_peer *peer);

#endif
