/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asking for acknowledgements and answering, by the threads of one end.  Who cannot send a
 * header because another thread is sending leaves a flag (`due`), at which that thread looks
 * after unlocking.  The peer asks once (`asked_us`), and again only after an answer; so
 * no question may be forgotten so long as there is news for it: what was handed over and
 * not told.  What nobody hears while the program does something else, the driver does, to
 * which `untold` says that there may be somebody who asks.
 *
 * Who is there: a reader, which hands over and then does something else; a writer, which
 * sends frames; the driver; the peer.  With ASKER, the other side of it: a writer that does
 * not block asks for room, while another thread receives.
 *
 * Stands for: owe, make_header, send_what_is_due, framed_unlock, send_flags, wire_acknowledge,
 * wire_ask, take_header, take_acknowledgement, is_ack_due and framed_tell of wire_framed.c;
 * wire_handed and framed_has_to_tell of wire.h; look_for_who_asks and stop_looking of conn.c.
 *
 * Left out: the window (framed.pml), a full kernel, clocks: the driver looks at some time.
 *
 * good:
 * good: -DLARGE
 * good: -DASKER
 * bad: -DBREAK_NO_LOOK_AFTER_UNLOCK
 * bad: -DBREAK_TRIES_BEFORE_OWING
 * bad: -DBREAK_DUE_AFTER_HANDED
 * bad: -DBREAK_FORGETS_WHO_ASKED
 * bad: -DBREAK_NO_SECOND_LOOK
 * bad: -DBREAK_NO_UNTOLD
 * bad: -DBREAK_ACKED_BEFORE_ASKED -DASKER
 */
#include "common.pml"

#ifndef READS
#define READS 2
#endif
#ifndef FRAMES
#define FRAMES 1
#endif
#define QUESTIONS 2

#ifndef ASKER

bool draining, reading;
byte handed, told;
bool due_ack;          /* flow.due */
bool asked_us, untold;
bool question;         /* in the socket */
/* The peer's: */
bool asked;
byte acked;

#define owes_news (handed != told)

/* ---- `draining` is held ---- */

inline make_header()
{
#ifndef BREAK_DUE_AFTER_HANDED
	due_ack = false;
#endif
	now = handed;
	if
	:: now != told ->
		asked_us = false;
		told = now
	:: else ->
#ifdef BREAK_FORGETS_WHO_ASKED
		asked_us = false
#endif
		skip
	fi;
#ifdef BREAK_DUE_AFTER_HANDED
	due_ack = false;
#endif
	d_step {                /* send_header; what the peer makes of it */
		if
		:: now != acked -> acked = now; asked = false
		:: else
		fi;
		now = 0
	}
}

inline send_what_is_due()
{
	again = false;
	if
	:: due_ack ->
		exchange(due_ack, false, was);
		if
		:: was && owes_news -> make_header(); again = true
		:: else
		fi;
		was = false
	:: else
	fi
}

inline framed_unlock()
{
	got = true;
	do
	:: got ->
		send_what_is_due();
		unlock(draining);
#ifndef BREAK_NO_LOOK_AFTER_UNLOCK
		again = again || due_ack;
#endif
		if
		:: again -> trylock(draining, got)
		:: else -> got = false
		fi
	:: else -> break
	od;
	again = false
}

/* ---- nothing is held ---- */

inline send_flags()
{
	trylock(draining, got);
	if
	:: got -> framed_unlock()
	:: else
	fi
}

inline wire_acknowledge()
{
	if
	:: owes_news ->
#ifdef BREAK_TRIES_BEFORE_OWING
		trylock(draining, got);
		due_ack = true;
		if
		:: got -> framed_unlock()
		:: else
		fi
#else
		due_ack = true;
		send_flags()
#endif
	:: else
	fi
}

inline framed_tell()
{
	if
#ifdef LARGE
	:: false
#else
	:: owes_news && asked_us -> wire_acknowledge()
#endif
	:: else ->
#ifndef BREAK_NO_UNTOLD
		if
		:: !untold && owes_news -> untold = true
		:: else
		fi
#else
		skip
#endif
	fi
}

inline framed_has_to_tell_then_tell()
{
	if
	:: !untold || due_ack || asked_us -> framed_tell()
	:: else
	fi
}

inline receive()
{
	trylock(reading, mine);
	if
	:: mine ->
		if
		:: question -> question = false; asked_us = true
		:: else
		fi;
		framed_has_to_tell_then_tell();     /* conn_received */
		unlock(reading)
	:: else
	fi;
	mine = false
}

active proctype reader()
{
	byte done, now;
	bool again, was, got, mine;

	do
	:: done < READS ->
		if
		:: receive()
		:: skip
		fi;
		handed++;
		framed_has_to_tell_then_tell();     /* wire_handed */
		done++
	:: else -> break
	od
}

active proctype writer()
{
	byte sent, now;
	bool again, was, got;

	do
	:: sent < FRAMES ->
		lock(draining);
		make_header();                      /* begin_frame */
		framed_unlock();
		sent++
	:: else -> break
	od
}

inline stop_looking()
{
	if
	:: !owes_news ->
		untold = false;
#ifndef BREAK_NO_SECOND_LOOK
		if
		:: owes_news -> untold = true
		:: else
		fi
#endif
	:: else
	fi
}

/* Whenever there is something to be seen. */
active proctype driver()
{
	byte now;
	bool again, was, got, mine;

end_asleep:
	do
	:: untold && (question || asked_us || !owes_news) ->
		stop_looking();
		if
		:: untold ->
			receive();
			if
			:: asked_us -> wire_acknowledge()
			:: else
			fi
		:: else
		fi
	od
}

active proctype peer()
{
	byte questions;

end_waiting:
	do
	:: d_step { questions < QUESTIONS && !asked -> asked = true; question = true; questions++ }
	od
}

active proctype monitor()
{
	timeout;
	assert(!(asked && handed != acked))
}

#else

#define MESSAGES 3
#define TX_WINDOW 1

byte accepted, acked;
bool asked, due_ask;
byte news;             /* acknowledgements in the socket */
bool done;

/* The writer, by calls that do not block; when it has asked it sleeps until there is room. */
active proctype writer()
{
	byte written;
	bool was;

	do
	:: written < MESSAGES ->
		if
		:: accepted - acked >= TX_WINDOW ->
			exchange(asked, true, was);     /* wire_ask */
			if
			:: !was -> due_ask = true
			:: else
			fi;
			accepted - acked < TX_WINDOW
		:: else
		fi;
		accepted++;
		written++
	:: else -> break
	od;
	done = true
}

/* take_acknowledgement */
active proctype receiver()
{
end_asleep:
	do
	:: news > 0 ->
		news--;
#ifdef BREAK_ACKED_BEFORE_ASKED
		acked++;
		asked = false
#else
		asked = false;
		acked++
#endif
	od
}

/* Its program reads; it tells when it is asked. */
active proctype peer()
{
	byte told;

end_waiting:
	do
	:: d_step { due_ask && told < accepted -> due_ask = false; told++; news++ }
	od
}

active proctype monitor()
{
	timeout;
	assert(done)
}

#endif
