/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flavour without a thread: two threads in calls, of which one drives at a time (`idle`:
 * nobody does).  Who cannot drive leaves its work to the other, who looks again after it has
 * stopped; who cannot send leaves what is in the ring to who sends (`busy`).  A reader that
 * sleeps (`input_sleeper`) sleeps on the kernel's room for the writer, too, when the driver
 * has watched for it (`has_watched`).  And before there is a peer, both may wait for it in
 * blocking calls, where one drives and the other follows it (`handovers`, `successors`).
 *
 * By default: a writer, which leaves in the ring what the kernel has no room for, and goes;
 * and a reader, which blocks, so that all must go when the kernel has room.  With PEER: two
 * threads in driver_await_peer.
 *
 * Stands for: driver_caller.c: become_driver, stop_driving, drive, make_progress, watch,
 * has_sleeper, has_left_some, driver_wake, driver_await_peer, drive_on, driver_await_input;
 * driver_kick of driver.h; conn_flush, drain, send_what_is_due and conn_has_work of
 * conn.c; put and put_directly of io.c.
 *
 * Left out: clocks and the timerfd, the set-up (a peer comes, that is all), the framed wire
 * (room.pml), the end.
 *
 * good:
 * good: -DMESSAGES=3
 * good: -DPEER
 * bad: -DBREAK_NO_LOOK
 * bad: -DBREAK_LOOK_BEFORE_STOP
 * bad: -DBREAK_NO_LOOK_FOR_SLEEPER
 * bad: -DBREAK_SLEEPER_SAYS_SO_LATE
 * bad: -DBREAK_NOTHING_LEFT_BY_BUSY
 * bad: -DBREAK_NO_HANDOVER -DPEER
 * bad: -DBREAK_SEEN_AFTER_TRY -DPEER
 */
#include "common.pml"

#ifndef MESSAGES
#define MESSAGES 2
#endif
#define KERNEL 1

byte out;            /* ring_fill */
byte kernel = 1;     /* sent, and not read by the peer */
bool idle = true, stalled, draining;
bool input_sleeper, has_watched; /* has_watched: POLLOUT is in the epoll fd */
byte handovers, successors;
bool decided, coming; /* the state; somebody is at the door */
#ifndef PEER
bool done;
#endif

#define wire_unsent (out > 0)

inline become_driver(got)
{
	exchange(idle, false, got)
}

/* ---- sending ---- */

inline vsock_send(n)
{
	d_step {
		if
		:: kernel < KERNEL -> kernel++; n = 1
		:: else -> n = 0
		fi
	}
}

/* `draining` is held */
inline wire_drain()
{
	todo = out;
	do
	:: todo > 0 ->
		vsock_send(n);
		stalled = (n == 0);
		if
		:: n == 0 -> break
		:: else -> out--; todo--
		fi
	:: else -> break
	od;
	todo = 0; n = 0
}

/* sent: false: another thread is sending */
inline drain()
{
	trylock(draining, sent);
	if
	:: sent -> wire_drain(); unlock(draining)
	:: else
	fi
}

/* ---- driving ---- */

inline step_open()
{
	busy = false; patient = false;
	if
	:: wire_unsent -> drain(); busy = !sent
	:: else
	fi;
	patient = false;
	if
	:: wire_unsent && stalled -> patient = true
	:: else
	fi
}

inline make_progress()
{
	step_open();
	watches = (input_sleeper || has_watched);
	if
	:: watches -> has_watched = patient      /* watch: POLLOUT, or no more */
	:: else
	fi
}

inline stop_driving()
{
	idle = true;
	handovers++                             /* and the futex, as it changes */
}

inline has_left_some()
{
	trylock(draining, sent);
	if
	:: sent -> unlock(draining); more = wire_unsent
	:: else -> more = false
	fi
}

inline look_again()
{
	more = false;
#ifndef BREAK_NO_LOOK
	more = (!patient && wire_unsent && !busy);
#endif
#ifndef BREAK_NO_LOOK_FOR_SLEEPER
	if
	:: !more -> more = (!watches && input_sleeper)
	:: else
	fi;
#endif
#ifndef BREAK_NOTHING_LEFT_BY_BUSY
	if
	:: !more && busy -> has_left_some()
	:: else
	fi
#endif
}

inline drive()
{
	become_driver(drives);
	do
	:: drives ->
		make_progress();
#ifdef BREAK_LOOK_BEFORE_STOP
		look_again();
		stop_driving();
#else
		stop_driving();
		look_again();
#endif
		if
		:: more -> become_driver(drives)
		:: else -> break
		fi
	:: else -> break
	od;
	skip;
	atomic { drives = false; more = false; busy = false; patient = false; watches = false }
}

inline driver_kick()
{
	if
	:: idle -> drive()
	:: else
	fi
}

#ifndef PEER

inline conn_flush()
{
	drain();
	if
	:: wire_unsent -> driver_kick()
	:: else
	fi
}

active proctype writer()
{
	byte written, n, todo;
	bool sent, drives, more, busy, patient, watches;

	do
	:: written < MESSAGES ->
		if
		:: out == 0 -> vsock_send(n)    /* put_directly */
		:: else -> conn_flush(); n = 0  /* put_behind */
		fi;
		if
		:: n == 0 ->
			stalled = stalled || !wire_unsent;
			out++;
			driver_kick()
		:: else
		fi;
		n = 0;
		written++
	:: else -> break
	od;
	done = true
}

/* libvchan_read, which nothing comes for: driver_await_input */
active proctype reader()
{
	byte n, todo;
	bool sent, drives, more, busy, patient, watches;

#ifdef BREAK_SLEEPER_SAYS_SO_LATE
	if
	:: wire_unsent || has_watched -> drive()
	:: else
	fi;
	input_sleeper = true;
#else
	input_sleeper = true;
	if                                      /* driver_catch_up */
	:: wire_unsent || has_watched -> drive()
	:: else
	fi;
#endif
end_asleep:
	do
	:: has_watched && kernel < KERNEL -> drive()
	od
}

active proctype peer()
{
end_waiting:
	do
	:: kernel > 0 -> kernel--
	od
}

active proctype monitor()
{
	timeout;
	assert(done && !wire_unsent)
}

#else

/* driver_await_peer: the first may be in a call that soon ends, as data_ready. */
active [2] proctype caller()
{
	byte seen;
	bool drives;

	if
	:: _pid == 0 ->                         /* drives for a moment, and goes */
		become_driver(drives);
		if
		:: drives ->
			if
			:: coming -> decided = true
			:: else
			fi;
#ifdef BREAK_NO_HANDOVER
			idle = true
#else
			stop_driving()
#endif
		:: else
		fi
	:: true
	fi;
	drives = false;
	successors++;
	do
	:: true ->
#ifdef BREAK_SEEN_AFTER_TRY
		if
		:: decided -> break
		:: else
		fi;
		become_driver(drives);
		seen = handovers;
#else
		seen = handovers;
		if
		:: decided -> break
		:: else
		fi;
		become_driver(drives);
#endif
		if
		:: drives ->
			coming;                 /* drive_on: asleep, as the driver */
			decided = true;
#ifdef BREAK_NO_HANDOVER
			idle = true
#else
			stop_driving()
#endif
		:: else -> handovers != seen    /* the futex */
		fi
	od;
	successors--
}

active proctype peer()
{
	coming = true
}

active proctype monitor()
{
	timeout;
	assert(decided && successors == 0)
}

#endif
