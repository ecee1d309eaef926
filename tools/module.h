/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is a kernel module there?  Looks into files only.
 */
#ifndef TOOLS_MODULE_H
#define TOOLS_MODULE_H

#include <stdbool.h>

enum module_state {
	MODULE_LOADED,
	MODULE_BUILT_IN,
	MODULE_AVAILABLE, /* modprobe would find it */
	MODULE_MISSING,
	MODULE_HIDDEN, /* not loaded; this kernel's modules are not to be seen from here */
};

/* release: the kernel's, as uname has it. */
enum module_state module_look(const char *name, const char *release);

static inline bool module_is_active(enum module_state state)
{
	return state == MODULE_LOADED || state == MODULE_BUILT_IN;
}

#endif
