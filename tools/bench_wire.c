/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench_wire.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "tools/traffic.h"
#include "vchan/le.h"

#define VERSION 1u

#define VERSION_AT 16
#define VERSION_SIZE 32
#define KERNEL_AT 48
#define KERNEL_SIZE 80

static const unsigned char magic[8] = { 'v', 'c', 'h', 'b', 'e', 'n', 'c', 'h' };

/* What a terminal, a table and a JSON document take as it is. */
static bool is_plain(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("._+-~:", c));
}

static void put_text(char *to, size_t size, const char *text)
{
	size_t i;

	for (i = 0; i < size && text[i]; i++)
		to[i] = (char)(is_plain(text[i]) ? text[i] : '_');
	to[i] = '\0';
}

static bool get_text(const unsigned char *from, size_t size, char *text)
{
	size_t length = 0;

	memcpy(text, from, size);
	text[size] = '\0';
	while (is_plain(text[length]))
		length++;
	for (size_t i = length; i < size; i++)
		if (text[i])
			return false;
	return length > 0;
}

static bool is_zero(const unsigned char *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (bytes[i])
			return false;
	return true;
}

void bench_own_hello(struct bench_hello *hello)
{
	struct utsname machine;

	put_text(hello->version, VERSION_SIZE, VCHAN_VSOCK_VERSION);
	put_text(hello->kernel, KERNEL_SIZE, uname(&machine) == 0 ? machine.release : "unknown");
}

void bench_encode_hello(const struct bench_hello *hello, unsigned char bytes[BENCH_HELLO_SIZE])
{
	memset(bytes, 0, BENCH_HELLO_SIZE);
	memcpy(bytes, magic, sizeof magic);
	put16(bytes + 8, VERSION);
	memcpy(bytes + VERSION_AT, hello->version, strlen(hello->version));
	memcpy(bytes + KERNEL_AT, hello->kernel, strlen(hello->kernel));
}

const char *bench_decode_prefix(const unsigned char bytes[BENCH_PREFIX_SIZE])
{
	static char why[160];
	unsigned version = get16(bytes + 8);

	if (memcmp(bytes, magic, sizeof magic) != 0)
		return "what it says is not the bench's: is there a `vchan-vsock bench`?";
	if (version == VERSION)
		return is_zero(bytes + 10, 6) ? NULL : "its hello is malformed";
	snprintf(why, sizeof why,
		 "it speaks version %u of the bench's protocol, and this is version %u: "
		 "use the same vchan-vsock on both sides", version, VERSION);
	return why;
}

const char *bench_decode_hello(const unsigned char bytes[BENCH_HELLO_SIZE],
			       struct bench_hello *hello)
{
	const char *why = bench_decode_prefix(bytes);

	if (why)
		return why;
	if (!get_text(bytes + VERSION_AT, VERSION_SIZE, hello->version) ||
	    !get_text(bytes + KERNEL_AT, KERNEL_SIZE, hello->kernel))
		return "its hello is malformed";
	return NULL;
}

void bench_encode_order(const struct bench_order *order, unsigned char bytes[BENCH_ORDER_SIZE])
{
	memset(bytes, 0, BENCH_ORDER_SIZE);
	put32(bytes, (uint32_t)order->what);
	put32(bytes + 4, (uint32_t)order->way);
	put32(bytes + 8, order->inward);
	put32(bytes + 12, order->size);
	put32(bytes + 16, order->count);
}

const char *bench_decode_order(const unsigned char bytes[BENCH_ORDER_SIZE],
			       struct bench_order *order)
{
	uint32_t what = get32(bytes), way = get32(bytes + 4), inward = get32(bytes + 8);

	order->size = get32(bytes + 12);
	order->count = get32(bytes + 16);
	if (what >= BENCH_WHATS || way >= BENCH_WAYS || inward > 1 ||
	    order->size > TRAFFIC_LARGEST || order->count > BENCH_MOST_MESSAGES ||
	    !is_zero(bytes + 20, 12))
		return "it orders what there is not";
	order->what = (enum bench_what)what;
	order->way = (enum bench_way)way;
	order->inward = inward;
	return what == BENCH_BYE || (order->size > 0 && order->count > 0)
		       ? NULL : "it orders nothing";
}

void bench_encode_answer(enum bench_answer answer, bool failed, uint32_t port,
			 unsigned char bytes[BENCH_ANSWER_SIZE])
{
	memset(bytes, 0, BENCH_ANSWER_SIZE);
	put32(bytes, (uint32_t)answer);
	put32(bytes + 4, failed);
	put32(bytes + 8, port);
}

const char *bench_decode_answer(const unsigned char bytes[BENCH_ANSWER_SIZE],
				enum bench_answer wanted, bool *failed, uint32_t *port)
{
	uint32_t bad = get32(bytes + 4);

	if (get32(bytes) != (uint32_t)wanted || bad > 1 || !is_zero(bytes + 12, 4))
		return "its answer is malformed";
	*failed = bad;
	*port = get32(bytes + 8);
	return NULL;
}
