/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "relay_limits.h"
#include "vchan/clock.h"

#define TELL_EVERY (2 * CLOCK_S)
#define ROOM_FOR_END 4

static struct {
	bool json, terminal;
	struct bucket buckets[SAY_FLOODS];
	uint64_t suppressed;
	int64_t tell_at;
} state;

/* Lines per second, and at once. */
static const struct {
	unsigned rate, burst;
} floods[SAY_FLOODS] = {
	[SAY_CHANNELS] = { 500, 5000 },
	[SAY_STRANGERS] = { 20, 200 },
};

void relay_log_begin(bool json)
{
	memset(&state, 0, sizeof state);
	state.json = json;
	state.terminal = isatty(STDERR_FILENO);
	state.tell_at = CLOCK_NEVER;
	for (int i = 0; i < SAY_FLOODS; i++)
		bucket_init(&state.buckets[i], floods[i].burst);
}

static void put(struct entry *e, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* A line that is too long is cut. */
static void put(struct entry *e, const char *format, ...)
{
	size_t room = sizeof e->text - ROOM_FOR_END - e->size;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(e->text + e->size, room, format, args);
	va_end(args);
	if (n > 0)
		e->size += (size_t)n < room ? (size_t)n : room - 1;
}

static void put_key(struct entry *e, const char *key)
{
	put(e, state.json ? ",\"%s\":" : " %s=", key);
}

/* Quoted; what is special is escaped, for JSON and, good enough, for eyes. */
static void put_quoted(struct entry *e, const char *text)
{
	put(e, "\"");
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		if (*p == '"' || *p == '\\')
			put(e, "\\%c", *p);
		else if (*p < ' ' || *p >= 127)
			put(e, "\\u%04x", *p);
		else
			put(e, "%c", *p);
	put(e, "\"");
}

static void suppress(struct entry *e)
{
	e->muted = true;
	if (!state.suppressed++)
		state.tell_at = clock_now() + TELL_EVERY;
}

void relay_log(struct entry *e, enum priority priority, enum flood flood, const char *event)
{
	e->size = 0;
	e->priority = priority;
	e->muted = false;
	if (flood != SAY_ALWAYS && !bucket_take(&state.buckets[flood], floods[flood].rate,
						floods[flood].burst, clock_now()))
		suppress(e);
	if (state.json)
		put(e, "{\"priority\":%d,\"event\":\"%s\"", priority, event);
	else if (state.terminal)
		put(e, "vchan-vsock relay: event=%s", event);
	else
		put(e, "<%d>event=%s", priority, event);
}

void relay_log_number(struct entry *e, const char *key, uint64_t value)
{
	put_key(e, key);
	put(e, "%llu", (unsigned long long)value);
}

void relay_log_seconds(struct entry *e, const char *key, int64_t ns)
{
	put_key(e, key);
	put(e, "%lld.%03lld", (long long)(ns / CLOCK_S),
	    (long long)(ns % CLOCK_S / CLOCK_MS));
}

void relay_log_text(struct entry *e, const char *key, const char *text)
{
	put_key(e, key);
	/* A word needs no quotes. */
	if (!state.json && *text && !strpbrk(text, " \"\\=") &&
	    strspn(text, "abcdefghijklmnopqrstuvwxyz-") == strlen(text))
		put(e, "%s", text);
	else
		put_quoted(e, text);
}

void relay_log_end(struct entry *e)
{
	struct pollfd p = { STDERR_FILENO, POLLOUT, 0 };

	if (e->muted)
		return;
	if (state.json)
		e->text[e->size++] = '}';
	e->text[e->size++] = '\n';
	/* Nobody who reads slowly may hold up the channels. */
	if (poll(&p, 1, 0) <= 0 || write(STDERR_FILENO, e->text, e->size) < 0)
		suppress(e);
}

int64_t relay_log_due(void)
{
	return state.tell_at;
}

void relay_log_tick(int64_t now)
{
	struct entry e;
	uint64_t suppressed = state.suppressed;

	if (now < state.tell_at)
		return;
	state.tell_at = CLOCK_NEVER;
	state.suppressed = 0;
	relay_log(&e, SAY_WARNING, SAY_ALWAYS, "suppressed");
	relay_log_number(&e, "lines", suppressed);
	relay_log_end(&e);
}
