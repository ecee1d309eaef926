/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A peer that sends whatever it likes, in whatever pieces, to a handle of the framed
 * wire; and beside it a reader of frames written from docs/wire.md that shares nothing
 * with the library's: it says which bytes the program must get, and how it ends.
 *
 * The input: flags, how much the handle writes first, the number of instructions, so
 * many instructions (a piece's size, what the program reads then), and the stream.
 * That is raw, or words for frames that are mostly right.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fuzz.h"
#include "libvchan.h"
#include "vchan/driver.h"
#include "vchan/frame.h"
#include "vchan/handle.h"

#define STREAM_MOST (192u << 10)

#define COUNT_BIT (1u << 28)
#define WRONG_BIT (1u << 29)
#define ASK_BIT (1u << 30)
#define END_BIT (1u << 31)
#define LENGTH_BITS (COUNT_BIT - 1)

#define F_RINGS 3u
#define F_WORDS 4u    /* the stream is words */
#define F_PULL 8u     /* all is taken in before the program reads */
#define F_BLOCKING 16u /* the program, at the end */

static uint32_t number(const uint8_t *b)
{
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* ---- the format alone ---- */

static void check_codec(const uint8_t *bytes)
{
	uint32_t first = number(bytes);
	bool rare = first & (COUNT_BIT | END_BIT);
	bool good = !(first & WRONG_BIT) && !((first & COUNT_BIT) && (first & END_BIT)) &&
		    !(rare && (first & LENGTH_BITS));
	uint8_t back[FRAME_HEADER];
	struct frame f;

	FUZZ_CHECK(frame_decode(bytes, &f) == good);
	if (!good)
		return;
	FUZZ_CHECK(f.length == (first & LENGTH_BITS) && f.handed == number(bytes + 4));
	FUZZ_CHECK(f.ask == !!(first & ASK_BIT) && f.end == !!(first & END_BIT));
	FUZZ_CHECK(f.count == !!(first & COUNT_BIT));
	frame_encode(&f, back);
	FUZZ_CHECK(memcmp(back, bytes, FRAME_HEADER) == 0);
}

/* ---- the reference: what a receiver makes of the stream ---- */

static struct reference {
	uint32_t window, announced; /* by the other direction */
	uint32_t acked, taken, told; /* it was told so by the peer; and has told it */
	bool sure;                  /* `told` is what the handle has told, to the byte */
	uint8_t head[FRAME_HEADER];
	unsigned heads;
	uint32_t left, received;
	uint8_t *payload;
	size_t payloads;
	bool ended, broken, unknown; /* by END; by a violation; perhaps by one */
} ref;

static void take_count(uint32_t n)
{
	if (ref.taken < ref.acked)
		ref.taken = ref.acked;
	if (n - ref.taken > ref.announced - ref.taken)
		ref.broken = true;
	else
		ref.taken = n;
}

static void take_length(uint32_t length)
{
	uint64_t under_way = (uint64_t)ref.received - ref.told + length;

	if (under_way > ref.window) {
		ref.broken = ref.sure;
		ref.unknown = !ref.sure;
		return;
	}
	ref.received += length;
	ref.left = length;
}

static void take_head(void)
{
	uint32_t first = number(ref.head), second = number(ref.head + 4);
	uint32_t length = first & LENGTH_BITS;
	bool wrong = (first & WRONG_BIT) || ((first & (COUNT_BIT | END_BIT)) && length) ||
		     ((first & COUNT_BIT) && (first & END_BIT));

	ref.heads = 0;
	if (!wrong && (first & COUNT_BIT)) {
		take_count(second);
	} else if (wrong || second - ref.acked > ref.announced - ref.acked) {
		ref.broken = true;
	} else {
		ref.acked = second;
		ref.ended = first & END_BIT;
		take_length(length);
	}
}

static void refer(const uint8_t *data, size_t size)
{
	for (; size && !ref.ended && !ref.broken && !ref.unknown; data++, size--) {
		if (ref.left) {
			ref.payload[ref.payloads++] = *data;
			ref.left--;
			continue;
		}
		ref.head[ref.heads++] = *data;
		if (ref.heads == FRAME_HEADER)
			take_head();
	}
}

/* ---- the peer ---- */

static libvchan_t *chan;
static int peer;
static size_t had; /* by the program */

static struct {
	uint8_t head[FRAME_HEADER];
	unsigned heads;
	uint32_t left;
} heard;

/* The handle keeps the rules itself. */
static void hear_head(void)
{
	uint32_t first = number(heard.head), second = number(heard.head + 4);
	uint32_t length = first & LENGTH_BITS;

	heard.heads = 0;
	FUZZ_CHECK(!(first & WRONG_BIT) && length <= 131064);
	if (first & COUNT_BIT) {
		FUZZ_CHECK(!length && !(first & END_BIT));
		FUZZ_CHECK((first & ASK_BIT) || ref.unknown || second <= ref.received);
		return;
	}
	FUZZ_CHECK(!(first & END_BIT) || !length);
	FUZZ_CHECK(second >= ref.told && second <= had);
	ref.told = second;
	ref.announced += length;
	FUZZ_CHECK(ref.announced - ref.acked <= ref.window);
	heard.left = length;
}

static void hear(void)
{
	uint8_t bytes[4096];
	ssize_t n;

	while ((n = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
		for (ssize_t i = 0; i < n; i++) {
			if (heard.left) {
				heard.left--;
				continue;
			}
			heard.head[heard.heads++] = bytes[i];
			if (heard.heads == FRAME_HEADER)
				hear_head();
		}
}

static void put_head(uint8_t *to, uint32_t first, uint32_t second)
{
	for (int i = 0; i < 4; i++) {
		to[i] = (uint8_t)(first >> 8 * i);
		to[4 + i] = (uint8_t)(second >> 8 * i);
	}
}

/* A word is two bytes: what, and how much.  The bytes of stream that it is. */
static size_t speak(uint8_t *to, const uint8_t *word, uint32_t *handed, uint32_t *payload)
{
	static const uint32_t flags[] = { 0, 0, 0, ASK_BIT, COUNT_BIT, COUNT_BIT | ASK_BIT,
					  END_BIT, WRONG_BIT };
	unsigned kind = word[0] & 7;
	uint32_t length = kind == 0 ? word[1] : kind == 1 ? word[1] * 64u : 0;
	uint32_t second = *handed;

	if (kind == 2)
		second = *handed += word[1];
	if (kind == 4 || kind == 5)
		second = word[1];
	if (word[0] & 128) /* one bit is wrong */
		put_head(to, length | flags[kind] | 1u << (word[1] & 31), second);
	else
		put_head(to, length | flags[kind], second);
	for (uint32_t i = 0; i < length; i++)
		to[FRAME_HEADER + i] = (uint8_t)((*payload)++ * 7 >> 2);
	return FRAME_HEADER + length;
}

static size_t make_stream(uint8_t *stream, const uint8_t *data, size_t size, bool words)
{
	uint32_t handed = 0, payload = 0;
	size_t n = 0;

	if (!words) {
		n = size < STREAM_MOST ? size : STREAM_MOST;
		memcpy(stream, data, n);
		return n;
	}
	for (; size >= 2 && n + FRAME_HEADER + 64 * 255 <= STREAM_MOST; data += 2, size -= 2)
		n += speak(stream + n, data, &handed, &payload);
	return n;
}

/* ---- the program ---- */

static int left_in_socket(void)
{
	int left = 0;

	ioctl(chan->sock, FIONREAD, &left);
	return left;
}

static void look(void)
{
	int n = libvchan_data_ready(chan);

	FUZZ_CHECK(n >= 0 && (size_t)n <= chan->in_size);
	FUZZ_CHECK(ring_fill(&chan->in) <= ref.window);
	FUZZ_CHECK(ref.unknown || had + (size_t)n <= ref.payloads);
}

static void pull(void)
{
	while (left_in_socket() && !chan->eof)
		look();
	look();
}

static int program_reads(size_t n, bool exact)
{
	static char into[65536];
	char *to = into + sizeof into - n;
	int done = exact ? libvchan_recv(chan, to, n) : libvchan_read(chan, to, n);

	if (done > 0 && !ref.unknown) {
		FUZZ_CHECK(had + (size_t)done <= ref.payloads);
		FUZZ_CHECK(memcmp(to, ref.payload + had, (size_t)done) == 0);
	}
	if (done > 0)
		had += (size_t)done;
	FUZZ_CHECK(done <= (int)n && (!exact || done <= 0 || done == (int)n));
	return done;
}

static void instruct(uint8_t what)
{
	static const size_t sizes[] = { 1, 3, 8, 64, 300, 4096, 5000, 20000 };
	size_t n = sizes[what >> 5];

	if ((what >> 3 & 3) == 1)
		program_reads(n, false);
	else if ((what >> 3 & 3) == 2)
		program_reads(n, true);
	else if ((what >> 3 & 3) == 3)
		while (program_reads(n, false) > 0)
			;
}

/* 0 is for headers alone, or a part of one. */
static int end_of_reading(void)
{
	int n;

	do {
		errno = 0;
		n = program_reads(4096, false);
		FUZZ_CHECK(n != 0 || left_in_socket() || !chan->eof);
	} while (n >= 0);
	return errno;
}

static void check_end(void)
{
	int err = end_of_reading();

	FUZZ_CHECK(err == EPROTO || err == ECONNRESET);
	FUZZ_CHECK(end_of_reading() == err);
	FUZZ_CHECK(libvchan_is_open(chan) == VCHAN_DISCONNECTED);
	FUZZ_CHECK(libvchan_data_ready(chan) == 0 && libvchan_buffer_space(chan) == 0);
	errno = 0;
	FUZZ_CHECK(libvchan_write(chan, "x", 1) == -1);
	FUZZ_CHECK(errno == (err == EPROTO ? EPROTO : EPIPE));
	if (ref.unknown)
		return;
	FUZZ_CHECK(had == ref.payloads);
	FUZZ_CHECK(err == (ref.broken ? EPROTO : ECONNRESET));
}

/* ---- one input ---- */

static void begin(unsigned flags, size_t first)
{
	static const size_t rings[] = { 4096, 8192, 32768, 65536 };
	static char some[4096];
	size_t ring = rings[flags & F_RINGS];
	int fds[2];

	fuzz_environment();
	fuzz_pair(fds);
	chan = handle_adopt(fds[0], ring, ring, true);
	FUZZ_CHECK(chan);
	peer = fds[1];
	had = 0;
	memset(&heard, 0, sizeof heard);
	memset(&ref, 0, sizeof ref);
	ref.window = ring < 65536 ? (uint32_t)ring : 1u << 20;
	ref.payload = malloc(STREAM_MOST);
	/* Else the thread may tell at any time. */
	ref.sure = (flags & F_PULL) && !driver_attends;
	libvchan_set_blocking(chan, false);
	FUZZ_CHECK(libvchan_write(chan, some, first) == (int)first);
	libvchan_data_ready(chan); /* so that none of it waits for more */
	while (ref.announced < first) {
		struct pollfd p = { peer, POLLIN, 0 };

		poll(&p, 1, -1);
		hear();
	}
}

/* False: the handle takes no more. */
static bool feed(const uint8_t *data, size_t n)
{
	refer(data, n);
	while (n) {
		ssize_t done = send(peer, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		/* After the end it takes in nothing, and the kernel may be full. */
		if (done < 0 && (errno != EAGAIN || chan->eof))
			return false;
		if (done < 0)
			pull();
		else {
			data += done;
			n -= (size_t)done;
		}
	}
	return true;
}

static void converse(const uint8_t *stream, size_t size, const uint8_t *steps, size_t count,
		     bool pulls)
{
	static const size_t pieces[] = { 1, 2, 7, 8, 9, 100, 4104, 65536 };

	for (size_t i = 0; size; i++) {
		size_t n = i < count ? pieces[steps[i] & 7] : size;

		if (n > size)
			n = size;
		if (!feed(stream, n))
			break;
		if (pulls)
			pull();
		if (i < count)
			instruct(steps[i]);
		hear();
		stream += n;
		size -= n;
	}
}

static void end(bool blocking)
{
	shutdown(peer, SHUT_WR);
	libvchan_set_blocking(chan, blocking);
	check_end();
	libvchan_close(chan);
	close(peer);
	free(ref.payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *stream;
	size_t count, n;
	unsigned flags;

	for (size_t i = 0; i + FRAME_HEADER <= size; i++)
		check_codec(data + i);
	if (size < 3)
		return 0;
	flags = data[0];
	begin(flags, data[1] * 16u);
	count = data[2] < size - 3 ? data[2] : size - 3;
	stream = malloc(STREAM_MOST);
	n = make_stream(stream, data + 3 + count, size - 3 - count, flags & F_WORDS);
	converse(stream, n, data + 3, count, flags & F_PULL);
	end(flags & F_BLOCKING);
	free(stream);
	return 0;
}
