/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "variables.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "VCHAN_"
/* No name is longer that is worth a guess. */
#define NAME_MOST 64

struct complaint {
	char text[1024]; /* "" when there is none */
};

/* The library says what is wrong on stderr, and stops at the first that is. */
static bool read_config(struct config *config, struct complaint *complaint)
{
	struct log log = { LOG_ERROR, "doctor" };
	int ends[2], saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	ssize_t n = 0;
	bool good;

	if (pipe2(ends, O_CLOEXEC) < 0)
		ends[0] = ends[1] = -1;
	dup2(ends[1], STDERR_FILENO);
	good = config_read(config, &log) == 0;
	if (saved >= 0)
		dup2(saved, STDERR_FILENO);
	else
		close(STDERR_FILENO);
	close(saved);
	close(ends[1]);
	/* A line, all of it, or the end: nobody else writes there. */
	if (ends[0] >= 0)
		n = read(ends[0], complaint->text, sizeof complaint->text - 1);
	close(ends[0]);
	complaint->text[n > 0 ? n : 0] = '\0';
	complaint->text[strcspn(complaint->text, "\n")] = '\0';
	return good;
}

/* Of "vchan-vsock: doctor: NAME='...' is not ...", NAME and what follows. */
static bool name_culprit(const struct complaint *complaint, char name[NAME_MOST],
			 const char **text)
{
	size_t length;

	*text = strstr(complaint->text, PREFIX);
	if (!*text)
		return false;
	length = strcspn(*text, "=");
	if (length >= NAME_MOST)
		return false;
	memcpy(name, *text, length);
	name[length] = '\0';
	return true;
}

/* Without each that is wrong it is tried again, until all have been named. */
static void read_all(struct findings *f, struct config *config)
{
	struct complaint complaint;
	bool is_silent = false;

	while (!read_config(config, &complaint)) {
		char name[NAME_MOST];
		const char *text;

		if (name_culprit(&complaint, name, &text)) {
			findings_add(f, FINDING_BAD, name,
				     "mend or unset it: until then every channel fails with "
				     "EINVAL", "%s", text);
			unsetenv(name);
		} else if (!is_silent) {
			unsetenv("VCHAN_VSOCK_LOG"); /* =none: it kept this a secret */
			is_silent = true;
		} else {
			findings_add(f, FINDING_BAD, "environment", NULL,
				     "the library does not accept it");
			return;
		}
	}
	if (is_silent)
		setenv("VCHAN_VSOCK_LOG", "none", 1);
}

static bool is_known(const char *name, size_t length)
{
	const char *known;

	for (size_t i = 0; (known = config_variable(i)) != NULL; i++)
		if (strlen(known) == length && memcmp(known, name, length) == 0)
			return true;
	return false;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* How many letters to put in, take out or change to make one of the other. */
static size_t distance(const char *a, size_t length, const char *b)
{
	size_t row[NAME_MOST + 1], b_length = strlen(b);

	if (length > NAME_MOST || b_length > NAME_MOST)
		return SIZE_MAX;
	for (size_t j = 0; j <= b_length; j++)
		row[j] = j;
	for (size_t i = 1; i <= length; i++) {
		size_t corner = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b_length; j++) {
			size_t above = row[j];

			row[j] = least(least(row[j], row[j - 1]) + 1,
				       corner + (a[i - 1] != b[j - 1]));
			corner = above;
		}
	}
	return row[b_length];
}

static const char *nearest(const char *name, size_t length)
{
	const char *known, *found = NULL;
	size_t best = length / 2;

	for (size_t i = 0; (known = config_variable(i)) != NULL; i++) {
		size_t apart = distance(name, length, known);

		if (apart < best) {
			best = apart;
			found = known;
		}
	}
	return found;
}

static void look_at_unknown(struct findings *f, const char *entry)
{
	size_t length = strcspn(entry, "=");
	const char *meant;
	char advice[128], name[NAME_MOST];

	if (strncmp(entry, PREFIX, sizeof PREFIX - 1) != 0 || is_known(entry, length))
		return;
	meant = nearest(entry, length);
	snprintf(name, sizeof name, "%.*s", (int)length, entry);
	snprintf(advice, sizeof advice, "perhaps %s is meant", meant ? meant : "nothing");
	findings_add(f, FINDING_NOTE, name, meant ? advice : NULL, "the library knows no such variable");
}

void variables_look(struct findings *f, struct config *config)
{
	unsigned before = f->count;
	const char *name;

	read_all(f, config);
	for (size_t i = 0; (name = config_variable(i)) != NULL; i++) {
		const char *value = getenv(name);

		if (value)
			findings_add(f, FINDING_OK, name, NULL, "%s=%s", name, value);
	}
	for (char **entry = environ; *entry; entry++)
		look_at_unknown(f, *entry);
	if (f->count == before)
		findings_add(f, FINDING_OK, "environment", NULL,
			     "no VCHAN_ variable is set: the defaults rule");
}
