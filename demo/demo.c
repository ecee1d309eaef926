/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-demo: two programs on two machines talk through libvchan.
 *
 *     vchan-demo serve   ME PEER PORT
 *     vchan-demo connect ME PEER PORT
 *
 * One end serves, the other connects.  Each greets the other, then 64 MiB go
 * from the client to the server and 64 MiB back; the receiver sends back the
 * checksum of what it got, and the sender compares.  Nothing in here knows
 * about vsock, except for the port number that it prints for the reader.
 *
 * Exit status: 0 when everything arrived as it was sent, else 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libvchan.h>

#define MIB 1048576u
#define TOTAL (64 * MIB)
#define CHUNK_WORDS 8192 /* 64 KiB a call */
#define RING 131072
#define GREETING 64
#define HOST 2

struct demo {
	libvchan_t *vchan;
	const char *name;
	int me;
	int peer;
	int port;
};

static const char *machine(int domain)
{
	return domain == 0 || domain == HOST ? "host" : "guest";
}

/* One line of the story, under the name of who tells it. */
static void __attribute__((format(printf, 2, 3)))
tell(const struct demo *demo, const char *format, ...)
{
	va_list args;

	printf("  %-5s | ", demo->name);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
}

static void __attribute__((noreturn, format(printf, 2, 3)))
fail(const struct demo *demo, const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "  %-5s | FAILED: ", demo->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

static void send_all(const struct demo *demo, const void *data, size_t size)
{
	if (libvchan_write(demo->vchan, data, size) != (int)size)
		fail(demo, "writing %zu bytes: %s", size, strerror(errno));
}

static void receive_all(const struct demo *demo, void *data, size_t size)
{
	if (libvchan_recv(demo->vchan, data, size) != (int)size)
		fail(demo, "receiving %zu bytes: %s", size, strerror(errno));
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Pseudo-random words, so that a lost or repeated piece cannot go unseen. */
static void fill(uint64_t *words, uint64_t *state)
{
	for (size_t i = 0; i < CHUNK_WORDS; i++) {
		*state ^= *state << 13;
		*state ^= *state >> 7;
		*state ^= *state << 17;
		words[i] = *state;
	}
}

/* FNV-1a by words: it depends on every bit and on the order. */
static uint64_t checksum(uint64_t sum, const uint64_t *words)
{
	for (size_t i = 0; i < CHUNK_WORDS; i++)
		sum = (sum ^ words[i]) * UINT64_C(0x100000001b3);
	return sum;
}

static void send_data(const struct demo *demo)
{
	static uint64_t words[CHUNK_WORDS];
	uint64_t state = UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)demo->me;
	uint64_t sum = 0, got;
	double start = seconds(), took;

	for (size_t sent = 0; sent < TOTAL; sent += sizeof(words)) {
		fill(words, &state);
		sum = checksum(sum, words);
		send_all(demo, words, sizeof(words));
	}
	receive_all(demo, &got, sizeof(got));
	took = seconds() - start;

	if (got != sum)
		fail(demo, "sent checksum %016" PRIx64 ", the %s got %016" PRIx64,
		     sum, machine(demo->peer), got);
	tell(demo, "sent %u MiB in %.1f s (%.0f MiB/s); the %s got every byte",
	     TOTAL / MIB, took, (double)TOTAL / MIB / took, machine(demo->peer));
}

static void receive_data(const struct demo *demo)
{
	static uint64_t words[CHUNK_WORDS];
	uint64_t sum = 0;

	for (size_t got = 0; got < TOTAL; got += sizeof(words)) {
		receive_all(demo, words, sizeof(words));
		sum = checksum(sum, words);
	}
	tell(demo, "got %u MiB, checksum %016" PRIx64, TOTAL / MIB, sum);
	send_all(demo, &sum, sizeof(sum));
}

static void greet(const struct demo *demo)
{
	char text[GREETING] = "";

	snprintf(text, sizeof(text), "Hello %s, this is the %s (CID %d).",
		 machine(demo->peer), demo->name, demo->me);
	send_all(demo, text, sizeof(text));
}

static void be_greeted(const struct demo *demo)
{
	char text[GREETING];

	receive_all(demo, text, sizeof(text));
	if (strncmp(text, "Hello ", 6) != 0)
		fail(demo, "a greeting was expected, something else came");
	tell(demo, "hears: \"%.*s\"", GREETING, text);
}

static void serve(struct demo *demo)
{
	demo->vchan = libvchan_server_init(demo->peer, demo->port, RING, RING);
	if (!demo->vchan)
		fail(demo, "cannot serve port %d: %s", demo->port,
		     strerror(errno));
	tell(demo, "serves vchan port %d to domain %d", demo->port, demo->peer);

	be_greeted(demo);
	greet(demo);
	receive_data(demo);
	send_data(demo);
}

static void talk(struct demo *demo)
{
	demo->vchan = libvchan_client_init(demo->peer, demo->port);
	if (!demo->vchan)
		fail(demo, "cannot connect to port %d of domain %d: %s",
		     demo->port, demo->peer, strerror(errno));
	/* The same sum as in the README; without VCHAN_VSOCK_PORT_BASE. */
	tell(demo, "connected to CID %d, vsock port %d * 65536 + %d = %d",
	     demo->peer, demo->me, demo->port, demo->me * 65536 + demo->port);

	greet(demo);
	be_greeted(demo);
	send_data(demo);
	receive_data(demo);
}

static int number(const char *text, long most)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < 0 || value > most) {
		fprintf(stderr, "vchan-demo: %s is not a number from 0 to %ld\n",
			text, most);
		exit(1);
	}
	return (int)value;
}

int main(int argc, char **argv)
{
	struct demo demo = { 0 };

	if (argc != 5 ||
	    (strcmp(argv[1], "serve") != 0 && strcmp(argv[1], "connect") != 0)) {
		fprintf(stderr, "usage: vchan-demo serve|connect ME PEER PORT\n");
		return 1;
	}
	demo.me = number(argv[2], INT32_MAX);
	demo.peer = number(argv[3], INT32_MAX);
	demo.port = number(argv[4], 65535);
	demo.name = machine(demo.me);

	if (strcmp(argv[1], "serve") == 0)
		serve(&demo);
	else
		talk(&demo);

	libvchan_close(demo.vchan);
	return 0;
}
