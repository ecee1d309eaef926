/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all models have: locks, eventfds, and the end of all things.
 *
 * Each statement is one step, so one access to a variable that others see, as in the C
 * code, whose atomics are all sequentially consistent.  What only its own thread sees is
 * put together with atomic or d_step: it keeps the number of states small.
 *
 * A sleep is a statement that is not executable.  When none is in the whole model
 * (`timeout`), everybody sleeps for good, and the monitor asserts that this is right.  A
 * process that may sleep for ever does so at a label end...; anywhere else spin calls it
 * an invalid end state.
 */

/* pthread_mutex_lock, _trylock, _unlock */
inline lock(m)
{
	atomic { !m -> m = true }
}

inline trylock(m, got)
{
	d_step { got = !m; m = true }
}

inline unlock(m)
{
	m = false
}

/* atomic_exchange(&flag, value) */
inline exchange(flag, value, was)
{
	d_step { was = flag; flag = value }
}

/* wake.c; the fd is whether it is readable */
inline wake_signal(fd)
{
	fd = true
}

inline wake_clear(fd)
{
	fd = false
}
