/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ends and the framed wire between them: the window, acknowledgements and who asks for
 * them, packets and their counts, frames that a full kernel cuts.  A writer whose peer reads
 * never waits for ever, also when both write before either reads; nothing exceeds the window.
 *
 * Each end e has its program, which first writes WRITES(e) units in one blocking call each,
 * then reads READS(e) of them, and then does something else for ever; and its driver.  With
 * TWO_THREADS it writes and reads at the same time; with EXACTLY the reader wants all of them
 * at once, as libvchan_recv does; with OVER each write is of more than there may be room for,
 * as in send_over.
 *
 * Stands for: wire_framed.c but for the taking apart of what comes; write_rest and send_over of
 * io.c; await_room, await_acknowledgement, tell_who_asks and look_for_who_asks of conn.c;
 * docs/wire.md.
 *
 * Left out: threads: what one of them does at a time is one step here (room.pml and due.pml
 * have the rest); clocks: the driver looks at some time; bytes: payload is counted in units,
 * of which the kernel takes one at a time.
 *
 * good: -DWRITES_A=4 -DREADS_B=4
 * good: -DWRITES_A=4 -DREADS_B=4 -DLARGE
 * good: -DWINDOW=3 -DWRITES_A=3 -DREADS_B=3 -DWRITES_B=3 -DREADS_A=3
 * good: -DWINDOW=4 -DWRITES_A=5 -DREADS_B=1
 * good: -DWINDOW=4 -DWRITES_A=5 -DREADS_B=1 -DLARGE
 * good: -DWINDOW=4 -DPACKETS_MAX=2 -DWRITES_A=4 -DREADS_B=4 -DEXACTLY
 * good: -DWINDOW=4 -DPACKETS_MAX=2 -DWRITES_A=4 -DREADS_B=4 -DTWO_THREADS -DWRITES_B=1 -DREADS_A=1
 * good: -DTWO_THREADS -DWINDOW=4 -DWRITES_A=6 -DREADS_B=2 -DWRITES_B=1 -DREADS_A=1
 * good: -DOVER -DWRITES_A=6 -DREADS_B=6 -DKERNEL=1
 * bad: -DBREAK_NO_ASK -DWINDOW=4 -DWRITES_A=5 -DREADS_B=1
 * bad: -DBREAK_ASKS_ONCE -DWINDOW=4 -DWRITES_A=6 -DREADS_B=2
 * bad: -DBREAK_NO_UNTOLD -DWINDOW=4 -DWRITES_A=5 -DREADS_B=1
 * bad: -DBREAK_WRITER_TAKES_NOTHING_IN -DWRITES_A=3 -DREADS_B=3
 * bad: -DBREAK_DRIVER_TAKES_NOTHING_IN -DOVER -DWRITES_A=4 -DREADS_B=4
 * bad: -DBREAK_NO_WINDOW -DOVER -DWRITES_A=4 -DREADS_B=4
 * bad: -DBREAK_NO_QUESTION -DWINDOW=4 -DPACKETS_MAX=2 -DWRITES_A=4 -DREADS_B=4 -DEXACTLY
 * bad: -DBREAK_NO_ANSWER -DWINDOW=4 -DPACKETS_MAX=2 -DWRITES_A=4 -DREADS_B=4 -DEXACTLY
 */
#ifndef WRITES_A
#define WRITES_A 0
#endif
#ifndef WRITES_B
#define WRITES_B 0
#endif
#ifndef READS_A
#define READS_A 0
#endif
#ifndef READS_B
#define READS_B 0
#endif
#ifndef WINDOW
#define WINDOW 2
#endif
#ifndef PACKETS_MAX
#define PACKETS_MAX 8
#endif
#ifndef KERNEL
#define KERNEL 2   /* headers and units of payload */
#endif

#ifdef OVER
#define AT_ONCE 2
#else
#define AT_ONCE 1
#endif

#define MOST 8     /* units of payload, ever */

#define WRITES(e) (e == 0 -> WRITES_A : WRITES_B)
#define READS(e) (e == 0 -> READS_A : READS_B)

mtype = { FRAME, COUNT, PAYLOAD };

/* What is sent: what, length, ask, handed (or taken in); by its sender. */
chan wire[2] = [KERNEL] of { mtype, byte, bool, byte };

typedef end_ {
	byte out, in;                   /* ring_fill */
	byte accepted, announced, acked;
	byte handed, told, received, taken;
	byte frame_left, packets;
	bool head_left, asked, counting, asked_us, untold;
	bool due_ask, due_ack, due_ask_count, due_count;
	bool stalled, blocked, done;
	byte batch[MOST + 1];           /* packets, by the payload up to which they are */
	/* The header of which head_left tells: */
	mtype what; byte length; bool ask; byte number;
};
end_ end[2];

#define E end[e]
#define wire_unsent (E.out > 0 || E.head_left)
#define is_amid (E.frame_left > 0 || E.head_left)
#define window_left (WINDOW - (E.announced - E.acked))
#define wire_room (WINDOW - (E.accepted - E.acked))
#define owes_news (E.handed != E.told)
#define owes_much (E.handed - E.told >= WINDOW / 2)
#define kernel_has_room (len(wire[e]) < KERNEL)
#define any_due (E.due_ask || E.due_ack || E.due_ask_count || E.due_count)

/* All of these are parts of one step. */

inline count_packets()
{
	E.packets++;
	E.batch[E.announced]++
}

inline forget_packets()
{
	k = 0;
	do
	:: k <= E.taken || k <= E.acked ->
		E.packets = E.packets - E.batch[k];
		E.batch[k] = 0;
		k++
	:: else -> break
	od;
	k = 0
}

/* The header, then the payload, as far as the kernel has room. */
inline send_pieces()
{
	E.stalled = false;
	if
	:: kernel_has_room -> count_packets()
	:: else
	fi;
	if
	:: E.head_left && kernel_has_room ->
		wire[e]!E.what, E.length, E.ask, E.number;
		E.head_left = false;
		E.what = 0; E.length = 0; E.ask = false; E.number = 0
	:: else
	fi;
	do
	:: !E.head_left && E.frame_left > 0 && kernel_has_room ->
		wire[e]!PAYLOAD, 0, false, 0;
		E.frame_left--; E.out--
	:: else -> break
	od;
	E.stalled = is_amid
}

inline make_header(n)
{
	E.what = FRAME; E.length = n;
	E.ask = E.due_ask;
	E.due_ask = false; E.due_ack = false;
	if
	:: E.handed != E.told -> E.asked_us = false; E.told = E.handed
	:: else
	fi;
	E.number = E.handed;
	E.head_left = true
}

inline make_count(question)
{
	E.what = COUNT; E.length = 0; E.ask = question; E.number = E.received;
	E.head_left = true
}

/* framed_unlock: until nothing is due, or the kernel is full */
inline send_what_is_due()
{
	do
	:: any_due && !is_amid ->
		if
		:: E.due_count -> E.due_count = false; make_count(false)
		:: !E.due_count && E.due_ask_count -> E.due_ask_count = false; make_count(true)
		:: else ->
			if
			:: (E.due_ack && owes_news) || E.due_ask -> make_header(0)
			:: else -> E.due_ack = false
			fi
		fi;
		if
		:: E.head_left -> send_pieces()
		:: else
		fi
	:: else -> break
	od
}

/* n: how much of a frame of n units may be begun. */
inline allowed()
{
#ifndef BREAK_NO_WINDOW
	if
	:: n > window_left -> n = window_left
	:: else
	fi;
#endif
	if
	:: E.packets >= PACKETS_MAX / 2 ->
		forget_packets();
		if
		:: E.packets >= PACKETS_MAX / 2 && !E.counting ->
			E.counting = true;
#ifndef BREAK_NO_QUESTION
			E.due_ask_count = true
#endif
		:: else
		fi
	:: else
	fi;
	if
	:: E.packets >= PACKETS_MAX -> n = 0
	:: else
	fi
}

inline begin_frame()
{
	E.announced = E.announced + n;
	assert(E.announced - E.acked <= WINDOW);
	make_header(n);
	E.frame_left = n;
	send_pieces()
}

inline wire_ask()
{
#ifndef BREAK_NO_ASK
	if
	:: !E.asked -> E.asked = true; E.due_ask = true
	:: else
	fi
#else
	skip
#endif
}

inline framed_drain()
{
	E.stalled = false; E.blocked = false;
	do
	:: E.stalled || E.blocked || !wire_unsent -> break
	:: else ->
		if
		:: is_amid -> send_pieces()
		:: else ->
			n = E.out;
			allowed();
			if
			:: n == 0 -> E.blocked = true
			:: else -> begin_frame()
			fi
		fi
	od;
	n = 0;
	if
	:: E.blocked && E.packets < PACKETS_MAX -> wire_ask()
	:: else
	fi
}

inline framed_tell()
{
	if
#ifdef LARGE
	:: owes_much -> E.due_ack = true
#else
	:: owes_much || (owes_news && E.asked_us) -> E.due_ack = true
#endif
	:: else -> E.untold = E.untold || owes_news
	fi
}

inline take_acknowledgement()
{
	assert(number <= E.announced);
	if
	:: number > E.acked ->
#ifndef BREAK_ASKS_ONCE
		E.asked = false;
#endif
		E.acked = number;
		made_room = true
	:: else
	fi
}

/* One header, or one unit. */
inline receive()
{
	wire[1 - e]?what, length, asks, number;
	if
	:: what == PAYLOAD -> E.in++
	:: what == COUNT && asks ->
#ifndef BREAK_NO_ANSWER
		E.due_count = true
#else
		skip
#endif
	:: what == COUNT && !asks ->
		if
		:: number > E.taken -> E.taken = number
		:: else
		fi;
		E.counting = false;
		made_room = true
	:: what == FRAME ->
		E.received = E.received + length;
		assert(E.received - E.told <= WINDOW);
		E.asked_us = E.asked_us || asks;
		take_acknowledgement()
	fi;
	what = 0; length = 0; asks = false; number = 0
}

#define to_receive (len(wire[1 - e]) > 0)
#define is_writing (i < WRITES(e))
#ifdef TWO_THREADS
#define is_reading (j < READS(e))
#else
#define is_reading (!is_writing && j < READS(e))
#endif
#ifdef EXACTLY
#define is_enough (E.in + j >= READS(e))
#else
#define is_enough (E.in > 0)
#endif

/* The program and the driver: what one of them does at a time, and what follows. */
proctype both(byte e)
{
	byte n, k, length, number, i, j;
	mtype what;
	bool asks, made_room;

end_asleep:
	do
	:: atomic {
		if
		/* libvchan_write */
		:: is_writing && wire_room > 0 ->
			E.accepted = E.accepted + AT_ONCE; E.out = E.out + AT_ONCE; i = i + AT_ONCE;
			made_room = true        /* now directly */
		/* await_room */
		:: is_writing && wire_room <= 0 && !E.asked -> wire_ask(); E.asked = true
#ifndef BREAK_WRITER_TAKES_NOTHING_IN
		:: is_writing && wire_room <= 0 && to_receive -> receive()
#endif
		/* libvchan_read, or _recv */
		:: is_reading && is_enough -> E.in--; E.handed++; j++
		:: is_reading && !is_enough && to_receive -> receive()
		/* the driver: POLLOUT; await_acknowledgement; look_for_who_asks */
		:: wire_unsent && E.stalled && kernel_has_room -> made_room = true
#ifndef BREAK_DRIVER_TAKES_NOTHING_IN
		:: wire_unsent && E.blocked && to_receive -> receive()
#endif
#ifndef BREAK_NO_UNTOLD
		:: E.untold && owes_news && to_receive -> receive()
		:: E.untold && owes_news && E.asked_us -> E.due_ack = true
#endif
		fi;
		framed_tell();
		if
		:: made_room && wire_unsent -> framed_drain()
		:: else
		fi;
		made_room = false;
		send_what_is_due();
		E.untold = E.untold && owes_news;
		E.done = !is_writing && j == READS(e)
	   }
	od
}

init
{
	atomic { run both(0); run both(1) };
	timeout;
	assert(end[0].done && end[1].done);
	assert(!(end[0].out > 0 && end[0].blocked) && !(end[1].out > 0 && end[1].blocked))
}
