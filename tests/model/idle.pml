/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who sends what lies in the write ring: the caller that puts into it, and the connection
 * thread, which goes to sleep and must be woken (`idle`), or not, as it sleeps for no more
 * than a moment or for the kernel's room (`patient`).  Nothing may be left unsent while all
 * sleep and the kernel has room, and no caller sleep for room while the ring has some, even
 * if the peer never reads again: the thread may be first at the kernel's room, and wakes it
 * (wake_writer).
 *
 * Stands for: driver_kick of driver.h, driver_wake, sleep_until and drive of
 * driver_thread.c; conn_has_work, step_open, send_what_is_due, drain, conn_flush and
 * await_room, room_events and wake_writer of conn.c; put, put_behind, put_directly,
 * write_rest and end_streak of io.c; wire_drain of wire.c.
 *
 * Left out: the framed wire (`blocked` and what comes with it are in room.pml), the end of
 * the connection, closing, a kernel without memory (`starved`), the bytes: only their number
 * counts.  A streak may begin and end at any write.  The thread waits for `draining`
 * (lock_to_drain); who cannot, `busy`, is in caller.pml.
 *
 * good: -DMESSAGES=4
 * good: -DOUT_SIZE=1
 * bad: -DBREAK_NO_LOOK
 * bad: -DBREAK_LOOK_BEFORE_IDLE
 * bad: -DBREAK_KICK_BEFORE_PUT
 * bad: -DBREAK_PATIENT_WITHOUT_END
 * bad: -DBREAK_NO_WAKE_WRITER -DMESSAGES=4
 * bad: -DBREAK_WAITS_AFTER_LOOK -DMESSAGES=4
 */
#include "common.pml"

#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef KERNEL
#define KERNEL 1   /* the kernel's room, in messages */
#endif
#ifndef OUT_SIZE
#define OUT_SIZE 2 /* the ring's */
#endif

byte out;          /* ring_fill */
byte kernel;       /* sent, and not read by the peer */
bool idle, stalled, draining, streaming, wake;
bool writer_waits, room_wake;
bool done;         /* all is written */

#define wire_unsent (out > 0)
#define wire_room (OUT_SIZE - out)

inline driver_wake()
{
	exchange(idle, false, was);
	if
	:: was -> wake_signal(wake)
	:: else
	fi
}

inline driver_kick()
{
	if
	:: idle -> driver_wake()
	:: else
	fi
}

/* One message into the kernel; the system call is one step. */
inline vsock_send(n)
{
	d_step {
		if
		:: kernel < KERNEL -> kernel++; n = 1
		:: else -> n = 0
		fi
	}
}

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

inline drain()
{
	lock(draining);
	wire_drain();
	unlock(draining)
}

inline conn_flush()
{
	drain();
	if
	:: wire_unsent -> driver_kick()
	:: else
	fi
}

/* ---- the caller ---- */

inline put()
{
#ifdef BREAK_KICK_BEFORE_PUT
	driver_kick();
	out++
#else
	out++;
	driver_kick()
#endif
}

inline put_directly()
{
	vsock_send(n);
	if
	:: n == 1 -> ok = true
	:: else ->
		stalled = true;
		put();
		ok = true
	fi;
	n = 0
}

inline put_behind()
{
	if
	:: wire_room == 0 || (!stream && !stalled) -> conn_flush()
	:: else
	fi;
	if
	:: out == 0             /* now directly */
	:: else ->
		if
		:: wire_room > 0 -> put(); ok = true
		:: else
		fi
	fi
}

inline put_some()
{
	if
	:: out > 0 -> put_behind()
	:: else ->
		if
		:: stream -> put(); ok = true
		:: else -> put_directly()
		fi
	fi
}

inline await_room()
{
#ifndef BREAK_WAITS_AFTER_LOOK
	writer_waits = true;
#endif
	if
	:: wire_unsent -> conn_flush()
	:: else
	fi;
	short_of = stalled;     /* POLLOUT */
	short_of = short_of && wire_room == 0;
#ifdef BREAK_WAITS_AFTER_LOOK
	writer_waits = true;
#endif
	if
	:: short_of ->
end_no_room:
		if                      /* poll */
		:: room_wake -> wake_clear(room_wake)
		:: kernel < KERNEL
		fi
	:: else
	fi;
	writer_waits = false; short_of = false
}

inline end_streak()
{
	streaming = false;
	if
	:: wire_unsent && !stalled -> conn_flush()
	:: else
	fi
}

active proctype caller()
{
	byte written, n, todo;
	bool stream, ok, was, short_of;

	do
	:: written < MESSAGES ->
		if
		:: stream = false
		:: stream = true
		fi;
		streaming = stream;
		ok = false;
		do
		:: !ok ->
			put_some();
			if
			:: !ok && wire_room == 0 -> await_room()
			:: else
			fi
		:: else -> break
		od;
		written++
	:: else -> break
	od;
	if
	:: end_streak()
	:: skip                 /* the program does something else for long */
	fi;
	done = true
}

/* ---- the connection thread ---- */

inline wake_writer()
{
#ifndef BREAK_NO_WAKE_WRITER
	if
	:: writer_waits -> wake_signal(room_wake)
	:: else
	fi
#else
	skip
#endif
}

inline send_what_is_due()
{
	was_streaming = streaming;
	if
	:: !wire_unsent ->
		if
		:: gathered -> streaming = false
		:: else
		fi;
		gathered = false
	:: else ->
		if
		:: !was_streaming || gathered || stalled -> drain(); wake_writer()
		:: was_streaming && wire_room <= OUT_SIZE / 2 -> drain(); wake_writer()
		:: else
		fi;
		gathered = was_streaming && !stalled
	fi
}

inline step_open()
{
	send_what_is_due();
	patient = gathered;     /* until GATHER is over */
	pollout = false;
	if
	:: wire_unsent && stalled -> patient = true; pollout = true
	:: else
	fi
}

/* Only its first part: the rest is about the framed wire. */
#define conn_has_work wire_unsent

inline sleep_until()
{
	look = false;
	if
	:: !patient ->
#ifdef BREAK_LOOK_BEFORE_IDLE
		look = conn_has_work;
		idle = true;
#else
		idle = true;
#ifndef BREAK_NO_LOOK
		look = conn_has_work;
#endif
#endif
		if
		:: look -> idle = false
		:: else
		fi
	:: else
	fi;
	if
	:: !look ->
end_asleep:
		if
		:: wake -> woken = true
		:: pollout && kernel < KERNEL
#ifndef BREAK_PATIENT_WITHOUT_END
		:: patient && gathered  /* the time is over */
#endif
		fi;
		idle = false;
		if
		:: woken -> wake_clear(wake); woken = false
		:: else
		fi
	:: else
	fi
}

active proctype drive()
{
	byte n, todo;
	bool was_streaming, gathered, patient, pollout, look, woken;

	do
	:: step_open(); sleep_until()
	od
}

active proctype peer()
{
end_waiting:
	do
	:: kernel > 0 -> kernel--
	:: break                /* it reads no more */
	od
}

active proctype monitor()
{
	timeout;
	assert(kernel == KERNEL || (done && !wire_unsent));
	assert(done || wire_room == 0)
}
