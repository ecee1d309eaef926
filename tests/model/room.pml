/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting for the peer's room, of which its acknowledgements tell, which come with the
 * input, which one thread at a time may receive.  A writer must go on when there is room,
 * and what lies in the write ring must go (`blocked`), whoever has received the news: the
 * reader in its thread, which holds `reading` also while it sleeps; the driver (`wants_input`,
 * `for_ack`); or the writer itself (`writer_waits`).
 *
 * By default the writer blocks (await_room); with NONBLOCK it sleeps on the program's
 * fd instead (`want_room`, `room_seen`), of which the model has what is needed.
 *
 * Stands for: conn_await_room, await_room, room_events, wake_writer, conn_use_room,
 * has_room_news, conn_let_others_in, conn_take_in, take_in_or_wait, await_acknowledgement,
 * conn_has_work, drain and conn_flush of conn.c, conn_received, conn_leave_socket,
 * conn_stop_receiving and conn_tell_of_more of conn.h; sleep_until of driver_thread.c; put,
 * put_behind, put_directly, ask_for_room, want_more_than, libvchan_read and libvchan_wait of
 * io.c; framed_drain, framed_send and take_acknowledgement of wire_framed.c.
 *
 * Left out: what the peer must be asked (framed.pml, due.pml): here it acknowledges
 * all by itself; streams (idle.pml); the end.  A frame is one unit.  What blocks is the
 * bound of packets, which is below the window.  With SILENT the peer acknowledges
 * nothing, and the window is large: what is short is the kernel's room.  With NO_READER
 * nobody reads.
 *
 * good:
 * good: -DTX_WINDOW=1
 * good: -DPACKETS=2
 * good: -DNO_READER -DMESSAGES=3 -DTX_WINDOW=3
 * good: -DSILENT -DNO_READER -DTX_WINDOW=4 -DPACKETS=4 -DOUT_SIZE=1 -DMESSAGES=3
 * good: -DSILENT -DNO_READER -DTX_WINDOW=4 -DPACKETS=4 -DOUT_SIZE=1 -DMESSAGES=3 -DNONBLOCK
 * good: -DPACKETS=2 -DNONBLOCK
 * good: -DUNDER_WAY=1 -DMESSAGES=1 -DTX_WINDOW=3 -DPACKETS=2
 * bad: -DBREAK_WAITS_AFTER_LOOK -DTX_WINDOW=1
 * bad: -DBREAK_NOBODY_LET_IN
 * bad: -DBREAK_LET_IN_BEFORE_UNLOCK
 * bad: -DBREAK_NO_SECOND_TAKE_IN
 * bad: -DBREAK_NO_LOOK_AT_WANTS_INPUT
 * bad: -DBREAK_NO_FOR_ACK -DNO_READER -DMESSAGES=3 -DTX_WINDOW=3
 * bad: -DBREAK_FLUSH_WITHOUT_KICK -DUNDER_WAY=1 -DMESSAGES=1 -DTX_WINDOW=3 -DPACKETS=2
 * bad: -DBREAK_NO_WAKE_AFTER_DRAIN -DSILENT -DNO_READER -DTX_WINDOW=4 -DPACKETS=4 -DOUT_SIZE=1 -DMESSAGES=3
 * bad: -DBREAK_NO_NEWS_OF_ROOM -DNONBLOCK -DSILENT -DNO_READER -DTX_WINDOW=4 -DPACKETS=4 -DOUT_SIZE=1 -DMESSAGES=3
 * bad: -DBREAK_NO_LOOK_FOR_ROOM -DNONBLOCK -DSILENT -DNO_READER -DTX_WINDOW=4 -DPACKETS=4 -DOUT_SIZE=1 -DMESSAGES=3
 */
#include "common.pml"

#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef DATA
#define DATA 1      /* that the peer sends */
#endif
#ifndef TX_WINDOW
#define TX_WINDOW 2
#endif
#ifndef PACKETS
#define PACKETS 1
#endif
#ifndef OUT_SIZE
#define OUT_SIZE 2
#endif
#ifndef KERNEL
#define KERNEL 1
#endif
#ifndef UNDER_WAY
#define UNDER_WAY 0 /* at first: so many in the kernel, and as many acknowledgements */
#endif

/* The socket: */
byte kernel = UNDER_WAY; /* sent, and not taken by the peer */
byte sock_data, sock_acks = UNDER_WAY; /* come, and not received; the data first */
/* The handle: */
byte accepted = 2 * UNDER_WAY, announced = 2 * UNDER_WAY, acked;
byte out;           /* ring_fill */
byte in;
bool amid;          /* a frame is announced, and at the front of the ring */
bool reading, draining;
bool idle, wake, stalled, blocked, wants_input;
bool writer_waits, room_wake, made_room;
bool done;
#ifdef NONBLOCK
bool edge, raised, missed, rest, armed;
bool want_room;
byte room_seen;
#define wants_news want_room
#else
#define wants_news writer_waits
#endif

#define wire_unsent (out > 0)
#define window_room (TX_WINDOW - (accepted - acked))
#define ring_room (OUT_SIZE - out)
#define wire_room (window_room < ring_room -> window_room : ring_room)
#define input (sock_data + sock_acks > 0)
#define is_writer (_pid == 0)

inline driver_wake()
{
	exchange(idle, false, was);
	if
	:: was -> wake_signal(wake)
	:: else
	fi;
	was = false
}

inline driver_kick()
{
	if
	:: idle -> driver_wake()
	:: else
	fi
}

inline wake_writer()
{
#ifndef NONBLOCK
	if
	:: writer_waits && !is_writer -> wake_signal(room_wake)
	:: else
	fi
#else
	skip
#endif
}

#ifdef NONBLOCK
inline conn_raise()
{
	raised = true
}
#endif

inline tell_of_room()
{
#if defined(NONBLOCK) && !defined(BREAK_NO_NEWS_OF_ROOM)
	/* has_room_news */
	if
	:: want_room ->
		if
		:: wire_room > room_seen ->
			exchange(want_room, false, was);
			if
			:: was -> conn_raise()
			:: else
			fi;
			was = false
		:: else
		fi
	:: else
	fi
#else
	skip
#endif
}

/* ---- sending: `draining` is held ---- */

inline begin_frame()
{
	d_step {
		announced++;
		if
		:: kernel < KERNEL -> kernel++; sent = true
		:: else -> sent = false
		fi
	}
}

inline send_pieces()
{
	d_step {
		if
		:: kernel < KERNEL -> kernel++; sent = true
		:: else -> sent = false
		fi
	}
}

inline framed_drain()
{
	todo = out;
	stalled = false;
	blocked = false;
	do
	:: todo == 0 || stalled || blocked -> break
	:: else ->
		if
		:: amid -> send_pieces()
		:: else ->
			if
			:: announced - acked >= PACKETS -> blocked = true; sent = false
			:: else -> begin_frame(); amid = !sent
			fi
		fi;
		if
		:: sent -> amid = false; out--; todo--
		:: !sent && !blocked -> stalled = true
		:: else
		fi
	od;
	todo = 0; sent = false
}

inline drain()
{
	lock(draining);
	framed_drain();
	unlock(draining);
#ifndef BREAK_NO_WAKE_AFTER_DRAIN
	wake_writer()
#endif
}

inline conn_flush()
{
	drain();
	tell_of_room();
#ifndef BREAK_FLUSH_WITHOUT_KICK
	if
	:: wire_unsent -> driver_kick()
	:: else
	fi
#endif
}

/* ---- receiving: `reading` is held ---- */

inline take_acknowledgement()
{
	if
	:: acks > 0 ->
		acked = acked + acks;
		made_room = true;
		acks = 0
	:: else
	fi
}

inline framed_pull()
{
	d_step {
		in = in + sock_data; sock_data = 0;
		acks = sock_acks; sock_acks = 0
	};
	take_acknowledgement();
#ifdef NONBLOCK
	rest = false
#endif
}

inline conn_received()
{
	if
	:: made_room && (wire_unsent || wants_news) -> /* conn_use_room */
		exchange(made_room, false, was);
		if
		:: was ->
			was = false;
			if
			:: wire_unsent -> conn_flush()
			:: else
			fi;
			tell_of_room();
			wake_writer()
		:: else
		fi
	:: else
	fi
}

inline conn_let_others_in()
{
	wake_writer();
	if
	:: wants_input ->
		exchange(wants_input, false, was);
		if
		:: was -> driver_kick()
		:: else
		fi
	:: else
	fi;
	was = false
}

inline conn_leave_socket()
{
#ifdef BREAK_LET_IN_BEFORE_UNLOCK
	conn_let_others_in();
	unlock(reading)
#else
	unlock(reading);
#ifndef BREAK_NOBODY_LET_IN
	conn_let_others_in()
#endif
#endif
}

inline conn_tell_of_more()
{
#ifdef NONBLOCK
	if
	:: missed ->
		exchange(missed, false, was);
		if
		:: was -> conn_raise()
		:: else
		fi;
		was = false
	:: else
	fi;
	if
	:: rest ->
		exchange(armed, true, was);
		if
		:: !was -> edge = input
		:: else
		fi;
		was = false
	:: else
	fi
#else
	skip
#endif
}

inline conn_stop_receiving()
{
	conn_leave_socket();
	conn_tell_of_more()
}

inline conn_take_in()
{
	trylock(reading, mine);
	if
	:: mine ->
		framed_pull();
		conn_received();
		conn_stop_receiving()
	:: else
	fi
}

/* ---- the writer ---- */

inline framed_send()
{
	lock(draining);
	if
	:: !amid && announced - acked < PACKETS ->
		accepted++;
		begin_frame();
		stalled = !sent;
		if
		:: !sent -> amid = true; out++
		:: else
		fi;
		ok = true
	:: else
	fi;
	unlock(draining);
	if
	:: stalled && wire_unsent -> driver_kick()
	:: else
	fi;
	sent = false
}

inline put()
{
	first = (out == 0);
	d_step { accepted++; out++ };
	if
	:: first || !blocked -> driver_kick()
	:: else
	fi;
	first = false;
	ok = true
}

inline put_if_room()
{
	if
	:: wire_room > 0 -> put()
	:: else
	fi
}

inline put_some()
{
	if
	:: wire_unsent ->
		if
		:: wire_room == 0 || !(stalled || blocked) -> conn_flush()
		:: else
		fi;
		if
		:: wire_unsent -> put_if_room()
		:: else
		fi
	:: else ->
		framed_send();
		if
		:: !ok -> put_if_room()
		:: else
		fi
	fi
}

#ifndef NONBLOCK
inline await_room()
{
#ifdef BREAK_WAITS_AFTER_LOOK
	if
	:: wire_unsent -> conn_flush()
	:: else
	fi;
	conn_take_in();
	pollout = stalled;
	short_of = (wire_room == 0);
	writer_waits = true;
#else
	writer_waits = true;
	if
	:: wire_unsent -> conn_flush()
	:: else
	fi;
	conn_take_in();
	pollout = stalled;
	short_of = (wire_room == 0);
#endif
	if
	:: short_of ->
		if                      /* poll */
		:: room_wake -> wake_clear(room_wake)
		:: mine && input
		:: pollout && kernel < KERNEL
		fi
	:: else
	fi;
	writer_waits = false;
	mine = false; pollout = false; short_of = false
}

inline conn_await_room()
{
	if
	:: wire_room == 0 -> await_room()
	:: else
	fi
}

#else

inline ask_for_room()
{
	room_seen = wire_room;
	want_room = true;
	conn_take_in();
#ifdef BREAK_NO_LOOK_FOR_ROOM
	short_of = true
#else
	short_of = (wire_room == 0)
#endif
}

inline take_in()
{
	missed = true;
	trylock(reading, mine);
	if
	:: mine ->
		missed = false;
		if
		:: want_room -> framed_pull()
		:: else -> pull_some()
		fi;
		conn_leave_socket();
		conn_received();
		if
		:: want_room -> conn_tell_of_more()
		:: else
		fi
	:: else
	fi;
	mine = false
}

inline libvchan_wait()
{
	d_step { raised || (edge && input) -> edge = false };
	raised = false;
	armed = false;
	take_in()
}

inline conn_await_room()
{
	ask_for_room();
	if
	:: short_of -> libvchan_wait()
	:: else
	fi
}
#endif

/* What is less than what is there: the news stays behind the data. */
inline pull_some()
{
	if
	:: sock_data > 0 ->
		d_step { sock_data--; in++ };
#ifdef NONBLOCK
		rest = true
#endif
	:: else -> framed_pull()
	fi
}

active proctype writer()
{
	byte written, todo, acks;
	bool ok, sent, was, mine, first, pollout, short_of;

	do
	:: written < MESSAGES ->
		ok = false;
		do
		:: !ok ->
			put_some();
			if
			:: !ok -> conn_await_room()
			:: else
			fi
		:: else -> break
		od;
		written++
	:: else -> break
	od;
	done = true
}

#ifndef NO_READER
/* Reads the peer's data, in blocking calls, and goes on to read for ever. */
active proctype reader()
{
	byte todo, acks;
	bool sent, was;

	do
	:: break                        /* it reads no more */
	:: in > 0 -> in--               /* was_ready */
	:: in == 0 ->
		lock(reading);
end_asleep:
		do
		:: in > 0 -> in--; break
		:: in == 0 && input ->  /* recv */
			pull_some();
			conn_received()
		od;
		conn_stop_receiving()
	od
}

#endif

/* ---- the driver ---- */

inline take_in_or_wait()
{
	conn_take_in();
	if
	:: !mine ->
		wants_input = true;
#ifndef BREAK_NO_SECOND_TAKE_IN
		conn_take_in();
#endif
		if
		:: mine -> wants_input = false
		:: else -> for_input = true
		fi
	:: else
	fi
}

inline await_acknowledgement()
{
	if
	:: wire_unsent && blocked ->
		take_in_or_wait();
		if
		:: mine ->
			for_ack = (wire_unsent && blocked);
			pollin = for_ack
		:: else -> for_ack = true
		fi;
		mine = false
	:: else
	fi
}

inline step_open()
{
	d_step { for_input = false; for_ack = false; pollin = false; pollout = false };
	if
	:: wire_unsent -> drain(); tell_of_room()
	:: else
	fi;
	await_acknowledgement();
	if
	:: wire_unsent && stalled -> pollout = true
	:: else
	fi
}

inline conn_has_work()
{
#ifdef BREAK_NO_LOOK_AT_WANTS_INPUT
	look = false;
#else
	look = (for_input && !wants_input);
#endif
	if
#ifdef BREAK_NO_FOR_ACK
	:: !look -> look = (wire_unsent && !blocked)
#else
	:: !look -> look = (wire_unsent && !(blocked && for_ack))
#endif
	:: else
	fi
}

inline sleep_until()
{
	look = false;
	if
	:: !pollout ->          /* not patient */
		idle = true;
		conn_has_work();
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
		:: pollin && input
		:: pollout && kernel < KERNEL
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
	byte todo, acks;
	bool sent, was, mine, for_input, for_ack, pollin, pollout, look, woken;

	do
	:: step_open(); sleep_until()
	od
}

active proctype peer()
{
	byte data;

end_waiting:
	do
#ifdef SILENT
	:: kernel > 0 -> kernel--
#else
	:: kernel > 0 -> d_step {
			kernel--; sock_acks++;
#ifdef NONBLOCK
			edge = true
#endif
		}
#endif
	:: data < DATA -> d_step {
			data++; sock_data++;
#ifdef NONBLOCK
			edge = true
#endif
		}
	od
}

active proctype monitor()
{
	timeout;
	assert(done && !wire_unsent)
}
