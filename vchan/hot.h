/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each small message passes through: beside the system call it is these
 * few hundred instructions that a message costs, and calls are a good part of them.
 */
#ifndef VCHAN_HOT_H
#define VCHAN_HOT_H

/* A function that belongs into its callers, also into several. */
#define HOT static inline __attribute__((always_inline))
/* A function without calls inside. */
#define FLAT __attribute__((flatten))

#endif
