/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The environment, as the library reads it, and what is wrong in it.
 */
#ifndef TOOLS_VARIABLES_H
#define TOOLS_VARIABLES_H

#include "findings.h"
#include "vchan/config.h"

/* A finding for each variable that is set, and the configuration: with the default in
 * place of what does not parse, which is then not in the environment any more. */
void variables_look(struct findings *f, struct config *config);

#endif
