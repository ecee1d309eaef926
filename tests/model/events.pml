/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What makes the program's fd readable: an epoll fd with an eventfd (`raised`) and, from the
 * first use on (`fd_used`), the connected socket, edge-triggered (`edge`).  The edge is there
 * until a wait harvests it, and vanishes when somebody takes the data.  No byte may be left
 * with the program asleep on the fd, and a libvchan_wait after a poll that said readable
 * returns, whatever others have taken in between.
 *
 * Who is there: the program's thread, which sleeps on the fd, waits, and reads until
 * nothing is left, by data_ready or by reads that do not block; with FRAMED the driver, or a
 * writer in another thread, which takes in what comes (conn_take_in), also mere headers;
 * with READER the reader is a thread of its own, which blocks in read, and the first only
 * waits.
 *
 * Stands for: events.c; libvchan_wait, take_in, libvchan_data_ready, ready, libvchan_read,
 * was_ready, read_some, receive, after_pulling, end_reading and tell_of_capped of io.c;
 * conn_begin_to_use_fd, conn_something_came, conn_data_came,
 * conn_headers_came, conn_take_in, conn_stop_receiving,
 * conn_tell_of_more, conn_say_that_more_is and arm of conn.h and conn.c; wire_recv, wire_pull,
 * wire_pull_some and wire_note_rest of wire.c and wire_framed.c.
 *
 * Left out: the end of the connection, the driver's member of the epoll fd (caller.pml), news
 * of room (room.pml), the bytes: only their number counts.  A receive is one step, also
 * where framed_pull makes several.
 *
 * good:
 * good: -DFRAMED
 * good: -DREADER
 * good: -DREADER -DFRAMED
 * bad: -DBREAK_NO_REARM
 * bad: -DBREAK_ARMED_STAYS
 * bad: -DBREAK_NO_EVENT_FOR_THE_RING -DFRAMED
 * bad: -DBREAK_NO_MISSED -DFRAMED
 * bad: -DBREAK_CAPPED_UNTOLD -DFRAMED
 * bad: -DBREAK_NOT_QUIET
 * bad: -DBREAK_NO_TAKEN -DREADER
 * bad: -DBREAK_NO_WAITING -DREADER
 * bad: -DBREAK_TAKEN_BEFORE_WAITING -DREADER
 * bad: -DBREAK_WAITING_BEFORE_TAKEN -DREADER
 * bad: -DBREAK_HEARD_UNTOLD -DFRAMED
 * bad: -DBREAK_HEARD_NO_WAITING -DFRAMED
 */
#include "common.pml"

#ifdef FRAMED
#define BYTES 2    /* that come */
#define HEADERS 1  /* that come alone */
#define TAKE_INS 1 /* how often the driver looks */
#define IN_SIZE 1
#define MEMORY 2   /* of the read ring: a window */
#else
#define BYTES 3
#define HEADERS 0
#define IN_SIZE 2
#define MEMORY IN_SIZE
#endif
#define PORTION 1  /* of wire_pull_some */

byte sock, heads;  /* in the kernel: bytes, and headers alone */
byte in;           /* ring_fill */
bool edge;         /* the socket is in epoll's list of those that may be ready */
bool raised;       /* the eventfd is readable */
bool reading, fd_used;
bool fresh, heard, rest, armed, missed, capped, taken, waiting;
byte came;         /* bytes, ever */
bool news;         /* a ghost: an event since the last wait began to look */

#define socket_readable (sock + heads > 0)
#define fd_readable (raised || (fd_used && edge && socket_readable))

inline conn_raise()
{
	d_step { raised = true; news = true }
}

inline events_rearm_socket()
{
	d_step { edge = socket_readable; news = news || _pid != 0 }
}

inline conn_begin_to_use_fd()
{
	d_step {
		if
		:: !fd_used -> fd_used = true; edge = socket_readable
		:: else
		fi
	}
}

/* ---- receiving: `reading` is held ---- */

/* recv(2) of `size` bytes, and its result in n; what lies behind them stays. */
inline receive_once(size)
{
	d_step {
		n = (sock < size -> sock : size);
		sock = sock - n;
#ifdef FRAMED
		heard = heard || n > 0 || heads > 0;
		if
		:: n < size -> heads = 0
		:: else
		fi;
#endif
		got_all = (n == size)
	}
	rest = got_all
}

/* n: what came into the ring. */
inline wire_pull(most)
{
#ifdef FRAMED
	receive_once((MEMORY - in < most -> MEMORY - in : most));
	in = in + n
#else
	if
	:: in >= IN_SIZE -> rest = true; n = 0
	:: else ->
		receive_once((IN_SIZE - in < most -> IN_SIZE - in : most));
		in = in + n
	fi
#endif
}

inline conn_data_came()
{
#ifdef BREAK_NO_EVENT_FOR_THE_RING
	if
	:: waiting -> conn_raise()
#else
	if
#ifndef BREAK_NO_WAITING
	:: in > 0 || waiting -> conn_raise()
#else
	:: in > 0 -> conn_raise()
#endif
#endif
	:: else
	fi
}

inline conn_headers_came()
{
#ifdef BREAK_HEARD_NO_WAITING
	skip
#else
	if
	:: waiting -> conn_raise()
	:: else
	fi
#endif
}

/* n: the bytes that came. */
inline conn_something_came()
{
	if
	:: n == 0 && !heard
	:: else ->
		heard = false;
#ifdef BREAK_WAITING_BEFORE_TAKEN
		if
		:: n > 0 -> conn_data_came()
		:: else
		fi;
#endif
#ifdef BREAK_HEARD_UNTOLD
		taken = taken || n > 0;
#else
#ifndef BREAK_NO_TAKEN
		taken = true;
#endif
#endif
#ifndef BREAK_WAITING_BEFORE_TAKEN
		if
		:: n > 0 -> conn_data_came()
		:: else -> conn_headers_came()
		fi;
#endif
	fi
}

inline arm()
{
	if
	:: fd_used -> events_rearm_socket()
	:: else
	fi
}

inline conn_say_that_more_is()
{
	if
	:: in >= IN_SIZE
	:: else ->
		if
		:: missed ->
			exchange(missed, false, was);
			if
			:: was -> conn_raise()
			:: else
			fi
		:: else
		fi;
#ifndef BREAK_NO_REARM
		if
		:: rest ->
			exchange(armed, true, was);
			if
			:: !was -> arm()
			:: else
			fi
		:: else
		fi
#endif
	fi;
	was = false
}

inline conn_tell_of_more()
{
	if
	:: missed || (rest && !armed) -> conn_say_that_more_is()
	:: else
	fi
}

inline conn_leave_socket()
{
	unlock(reading)
}

inline conn_stop_receiving()
{
	conn_leave_socket();
	conn_tell_of_more()
}

/* ---- the program's calls ---- */

inline tell_of_capped()
{
#ifdef BREAK_CAPPED_UNTOLD
	skip
#else
	if
	:: capped && in > 0 ->
		exchange(capped, false, was);
		if
		:: was -> conn_raise()
		:: else
		fi;
		was = false
	:: else
	fi
#endif
}

inline ready()
{
	n = in;
	if
	:: n > IN_SIZE -> capped = true; n = IN_SIZE
	:: else
	fi
}

inline libvchan_data_ready()
{
	trylock(reading, mine);
	if
	:: mine ->
		if
		:: fresh && in > 0 -> fresh = false
		:: else ->
			wire_pull(PORTION);
			conn_something_came()
		fi;
		conn_stop_receiving()
	:: else
	fi;
	ready()
}

/* Non-blocking: into the caller's buffer `want` bytes at most, and, as small reads do,
 * what lies behind them into the ring; n: the bytes in the buffer. */
inline wire_recv(want)
{
	if
	:: receive_once(want)
	:: receive_once(want + 1);
		if
		:: n > want -> in = in + 1; n = want
		:: else
		fi;
		if
		:: rest ->
			k = n;
			wire_pull(PORTION);
			n = k; k = 0
		:: else
		fi
	fi
}

inline was_ready(want)
{
	in = in - want;
	conn_tell_of_more();
	tell_of_capped();
	n = want
}

inline libvchan_read(want)
{
	if
	:: in >= want -> was_ready(want)
	:: else ->
		lock(reading);
		got = (in < want -> in : want);
		in = in - got;
		if
		:: got == want -> n = 0
		:: else ->
			wire_recv(want - got);
			conn_something_came()
		fi;
		n = n + got; got = 0;
		conn_stop_receiving();
		if
		:: n > 0 -> tell_of_capped()
		:: else
		fi
	fi
}

inline take_in()
{
#ifndef BREAK_NO_MISSED
	missed = true;
#endif
	trylock(reading, mine);
	if
	:: mine ->
		missed = false;
		wire_pull(PORTION);
		heard = false;
		fresh = true;
#ifdef BREAK_NOT_QUIET
		conn_stop_receiving()
#else
		conn_leave_socket()
#endif
	:: else
	fi
}

inline libvchan_wait()
{
	conn_begin_to_use_fd();
#ifdef BREAK_TAKEN_BEFORE_WAITING
	exchange(taken, false, at_once);
	waiting = true;
#else
	waiting = true;
	exchange(taken, false, at_once);
#endif
	/* events_wait; epoll_wait drops who is not ready from its list */
	d_step { fd_readable || at_once -> edge = false; news = false };
	at_once = false;
	waiting = false;
	raised = false;
#ifndef BREAK_ARMED_STAYS
	armed = false;
#endif
	take_in()
}

#ifndef READER

/* All that is there, in one of the ways that the contract knows. */
inline read_all()
{
	do
	:: libvchan_data_ready();
		if
		:: n == 0 -> break
		:: else ->
			todo = n;
			do
			:: todo > 0 ->
				libvchan_read(1);
				todo--
			:: todo == 2 ->
				libvchan_read(2);
				todo = 0
			:: else -> break
			od;
			if
			:: break        /* it does not ask again */
			:: skip
			fi
		fi
	:: libvchan_read(IN_SIZE);
		if
		:: n < IN_SIZE -> break
		:: else
		fi
	od;
	n = 0
}

active proctype program()
{
	byte n, k, got, todo;
	bool was, mine, got_all, at_once;

	if
	:: read_all()
	:: skip
	fi;
	conn_begin_to_use_fd();
end_asleep:
	do
	:: fd_readable ->       /* poll */
		libvchan_wait();
		assert(news || !fd_readable);
		read_all()
	od
}

#else

active proctype program()
{
	byte n;
	bool was, mine, got_all, at_once;

	conn_begin_to_use_fd();
end_asleep:
	do
	:: fd_readable -> libvchan_wait()
	od
}

active proctype reader()
{
	byte n, k, got, had, want;
	bool was, got_all;

	do
	:: had < BYTES ->
		if
		:: want = 1
		:: want = IN_SIZE
		fi;
		if
		:: in >= want -> was_ready(want)
		:: else ->
			lock(reading);
			got = (in < want -> in : want);
			in = in - got;
			n = 0;
			if
			:: got > 0      /* all that may be had without waiting, for instance */
			:: else ->
				do
				:: n == 0 ->
					socket_readable; /* in recv, asleep */
					wire_recv(want);
					conn_something_came()
				:: else -> break
				od
			fi;
			n = n + got; got = 0;
			conn_stop_receiving();
			tell_of_capped()
		fi;
		had = had + n
	:: else -> break
	od
}

#endif

/* ---- the others ---- */

#if defined(FRAMED) && !defined(READER)
/* The driver or a writer, who want room. */
active proctype other()
{
	byte n, looks;
	bool was, mine, got_all;

	do
	:: looks < TAKE_INS ->
		trylock(reading, mine);
		if
		:: mine ->
			wire_pull(MEMORY);
			conn_something_came();
			conn_stop_receiving()
		:: else
		fi;
		looks++
	:: else -> break
	od
}
#endif

active proctype peer()
{
	byte alone;

	do
	:: came < BYTES -> d_step { came++; sock++; edge = fd_used; news = true }
	:: alone < HEADERS -> d_step { alone++; heads++; edge = fd_used; news = true }
	:: came == BYTES && alone == HEADERS -> break
	od
}

active proctype monitor()
{
	timeout;
	assert(came == BYTES && sock + in == 0)
}
