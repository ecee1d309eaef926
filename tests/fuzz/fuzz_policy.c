/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever stands in the relay's policy: tools/relay_policy.c, beside another reading
 * of the grammar.  The input is three numbers, about which the policy is asked (source
 * and port of two bytes, target of four), and its text.
 */
#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
/* It is the tool's, and not among the library's objects. */
#include "tools/relay_policy.c" /* NOLINT(bugprone-suspicious-include): no object has it */

#define FAULTS 3

struct question {
	uint32_t source, target, port;
};

/* ---- the other reading: words, then characters ---- */

/* -1: it is no number of that range. */
static long long number_of(const char *text, size_t length, uint32_t least, uint32_t most)
{
	char digits[11] = "";
	long long value;

	if (!length || length > 10 || (length > 1 && *text == '0'))
		return -1;
	memcpy(digits, text, length);
	if (strspn(digits, "0123456789") != length)
		return -1;
	value = atoll(digits);
	return value >= least && value <= most ? value : -1;
}

static bool read_element(const char *text, size_t length, uint32_t least, uint32_t most,
			 uint32_t asked, bool *has)
{
	const char *dash = memchr(text, '-', length);
	size_t first = dash ? (size_t)(dash - text) : length;
	long long from = number_of(text, first, least, most), to = from;

	if (dash)
		to = number_of(dash + 1, length - first - 1, least, most);
	if (from < 0 || to < from)
		return false;
	*has |= asked >= from && asked <= to;
	return true;
}

static bool read_set(const char *word, uint32_t least, uint32_t most, uint32_t asked, bool *has)
{
	*has = strcmp(word, "*") == 0 && asked >= least && asked <= most;
	if (strcmp(word, "*") == 0)
		return true;
	for (;;) {
		size_t length = strcspn(word, ",");

		if (!read_element(word, length, least, most, asked, has))
			return false;
		if (!word[length])
			return true;
		word += length + 1;
	}
}

/* False: it is bad. */
static bool read_line(char *line, const struct question *q, bool *allowed)
{
	char *words[6] = { NULL }, *rest = NULL, *word;
	bool source, target, port;
	size_t count = 0;

	for (const char *p = line; *p; p++)
		if ((*p > 0 && *p < ' ' && *p != '\t') || *p == 127)
			return false;
	line[strcspn(line, "#")] = '\0';
	for (word = strtok_r(line, " \t", &rest); word && count < 6;
	     word = strtok_r(NULL, " \t", &rest))
		words[count++] = word;
	if (count == 0)
		return true;
	if (count != 5 || strcmp(words[0], "allow") != 0 || strcmp(words[2], "->") != 0 ||
	    !read_set(words[1], 3, 32767, q->source, &source) ||
	    !read_set(words[3], 3, 2147483647, q->target, &target) ||
	    !read_set(words[4], 0, 65535, q->port, &port))
		return false;
	*allowed |= source && target && port;
	return true;
}

/* How many lines are bad. */
static size_t read_text(const char *text, size_t size, const struct question *q, bool *allowed)
{
	size_t bad = 0;

	for (const char *end = text + size; text < end;) {
		const char *feed = memchr(text, '\n', (size_t)(end - text));
		size_t length = (size_t)((feed ? feed : end) - text);
		char *line = malloc(length + 1);

		memcpy(line, text, length);
		line[length] = '\0';
		bad += strlen(line) < length || !read_line(line, q, allowed);
		free(line);
		text += length + 1;
	}
	return bad;
}

/* ---- both ---- */

static void check_faults(const struct policy_fault *faults, size_t count)
{
	for (size_t i = 0; i < count && i < FAULTS; i++) {
		FUZZ_CHECK(faults[i].line > (i ? faults[i - 1].line : 0));
		FUZZ_CHECK(faults[i].column > 0 && faults[i].what[0]);
	}
}

static void try(const char *text, size_t size, const struct question *q)
{
	struct policy_fault faults[FAULTS];
	bool allowed = false;
	size_t bad = read_text(text, size, q, &allowed), count;
	struct policy *policy = policy_parse(text, size, faults, FAULTS, &count);

	FUZZ_CHECK(!policy == (bad > 0));
	FUZZ_CHECK(count == bad);
	check_faults(faults, count);
	if (policy) {
		FUZZ_CHECK(policy_allows(policy, q->source, q->target, q->port) == allowed);
		FUZZ_CHECK(policy_rules(policy) <= size);
	}
	policy_free(policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t head = 8;
	struct question q;
	char *text;

	if (size < head)
		return 0;
	q.source = data[0] + data[1] * 256u;
	q.port = data[2] + data[3] * 256u;
	memcpy(&q.target, data + 4, 4);
	text = malloc(size - head + 1);
	memcpy(text, data + head, size - head);
	try(text, size - head, &q);
	free(text);
	return 0;
}
