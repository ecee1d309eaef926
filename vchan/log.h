/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines on stderr: one per event, in one write, errno kept, without stdio (a
 * program may be inside of it).
 */
#ifndef VCHAN_LOG_H
#define VCHAN_LOG_H

enum log_level { LOG_NONE, LOG_ERROR, LOG_INFO, LOG_DEBUG };

struct log {
	enum log_level level; /* what is said: this and above */
	char name[80];        /* the subject of each line: "call(domain, port)" */
};

#define LOG_PRINTF __attribute__((format(printf, 2, 3)))

void log_error(const struct log *log, const char *format, ...) LOG_PRINTF;
void log_info(const struct log *log, const char *format, ...) LOG_PRINTF;
void log_debug(const struct log *log, const char *format, ...) LOG_PRINTF;

/* errno in words, then what to do about it where we know: "no such ...". */
struct reason {
	char text[320];
};
struct reason log_reason(int err);

#endif
