/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the relay says on stderr: one line per event, of key=value or of JSON, in one
 * write that never blocks.  To a terminal it begins with the program's name, elsewhere
 * with the priority that a journal takes from it, <6>.
 *
 * Guests can cause lines, so there are no more of a kind than some per second; how many
 * were left out is a line, too.
 */
#ifndef TOOLS_RELAY_LOG_H
#define TOOLS_RELAY_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As syslog has them. */
enum priority { SAY_ERROR = 3, SAY_WARNING = 4, SAY_NOTICE = 5, SAY_INFO = 6 };

enum flood {
	SAY_ALWAYS,    /* about ourselves */
	SAY_CHANNELS,  /* of those that are allowed */
	SAY_STRANGERS, /* whatever anybody may do */
	SAY_FLOODS,
};

void relay_log_begin(bool json);

/* A line that is being made; relay_log_end says it.  Keys are ours, and plain. */
struct entry {
	char text[1024];
	size_t size;
	enum priority priority;
	bool muted;
};

void relay_log(struct entry *e, enum priority priority, enum flood flood, const char *event);
void relay_log_number(struct entry *e, const char *key, uint64_t value);
void relay_log_seconds(struct entry *e, const char *key, int64_t ns);
void relay_log_text(struct entry *e, const char *key, const char *text);
void relay_log_end(struct entry *e);

/* When relay_log_tick has something to say; CLOCK_NEVER. */
int64_t relay_log_due(void);
void relay_log_tick(int64_t now);

#endif
