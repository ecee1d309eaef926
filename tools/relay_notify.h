/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TOOLS_RELAY_NOTIFY_H
#define TOOLS_RELAY_NOTIFY_H

/* Tells the service manager that started us, if one did: "READY=1". */
void relay_notify(const char *state);

#endif
