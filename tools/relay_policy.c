/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_policy.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct range {
	uint32_t from, to;
};

struct set {
	struct range *ranges;
	size_t count;
};

enum part { SOURCE, TARGET, PORTS, PARTS };

struct rule {
	struct set sets[PARTS];
};

struct policy {
	struct rule *rules;
	size_t count;
};

/* What a number of each part may be, and its name. */
static const struct {
	struct range limits;
	const char *name, *one;
} parts[PARTS] = {
	[SOURCE] = { { POLICY_CID_LEAST, POLICY_SOURCE_MOST }, "SOURCE", "a guest's CID" },
	[TARGET] = { { POLICY_CID_LEAST, POLICY_TARGET_MOST }, "TARGET", "a guest's CID" },
	[PORTS] = { { 0, POLICY_PORT_MOST }, "PORTS", "a vchan port" },
};

/* A line that is being read. */
struct line {
	const char *text, *end, *at;
	struct policy_fault *fault; /* where the first one of it goes, or NULL */
	bool bad, out_of_memory;
};

static void blame(struct line *l, const char *where, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void blame(struct line *l, const char *where, const char *format, ...)
{
	va_list args;

	l->bad = true;
	if (!l->fault)
		return;
	l->fault->column = (unsigned)(where - l->text) + 1;
	va_start(args, format);
	(void)vsnprintf(l->fault->what, sizeof l->fault->what, format, args);
	va_end(args);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static void skip_blanks(struct line *l)
{
	while (l->at < l->end && is_blank(*l->at))
		l->at++;
}

/* Up to a blank or the end; comments are cut off before. */
static const char *word_end(const struct line *l)
{
	const char *p = l->at;

	while (p < l->end && !is_blank(*p))
		p++;
	return p;
}

static bool take_word(struct line *l, const char *word)
{
	const char *end = word_end(l);

	if ((size_t)(end - l->at) != strlen(word) || memcmp(l->at, word, strlen(word)) != 0)
		return false;
	l->at = end;
	skip_blanks(l);
	return true;
}

/* For one more; it doubles where there are 1, 2, 4, ... */
static void *grown(void *array, size_t count, size_t size)
{
	return count & (count - 1) ? array : reallocarray(array, count ? 2 * count : 1, size);
}

static bool add(struct line *l, struct set *set, struct range range)
{
	struct range *more = grown(set->ranges, set->count, sizeof *more);

	if (!more) {
		l->bad = l->out_of_memory = true;
		return false;
	}
	set->ranges = more;
	set->ranges[set->count++] = range;
	return true;
}

/* Decimal, without leading zeros, which mean octal to some. */
static bool take_number(struct line *l, enum part part, uint32_t *number)
{
	const struct range *limits = &parts[part].limits;
	const char *start = l->at;
	uint64_t value = 0;

	while (l->at < l->end && *l->at >= '0' && *l->at <= '9' && value <= UINT32_MAX)
		value = value * 10 + (uint64_t)(*l->at++ - '0');
	if (l->at == start)
		blame(l, start, "a number is missing here, in %s", parts[part].name);
	else if (*start == '0' && l->at > start + 1)
		blame(l, start, "a number does not begin with 0");
	else if (value < limits->from || value > limits->to)
		blame(l, start, "%s is from %u to %u", parts[part].one, limits->from, limits->to);
	*number = (uint32_t)value;
	return !l->bad;
}

static bool take_range(struct line *l, enum part part, struct set *set)
{
	const char *start = l->at;
	struct range range;

	if (!take_number(l, part, &range.from))
		return false;
	range.to = range.from;
	if (l->end - l->at > 1 && memcmp(l->at, "->", 2) == 0) {
		blame(l, l->at, "\"->\" has blanks around it");
		return false;
	}
	if (l->at < l->end && *l->at == '-') {
		l->at++;
		if (!take_number(l, part, &range.to))
			return false;
	}
	if (range.to < range.from) {
		blame(l, start, "a range goes from the lower number to the higher one");
		return false;
	}
	return add(l, set, range);
}

static bool take_list(struct line *l, enum part part, struct set *set)
{
	const char *end = word_end(l);

	if (end - l->at == 1 && *l->at == '*') {
		l->at = end;
		return add(l, set, parts[part].limits);
	}
	while (take_range(l, part, set)) {
		if (l->at == end)
			return true;
		if (*l->at != ',') {
			blame(l, l->at, "only a number, 3-9, 3,5,7-9 or * can be %s",
			      parts[part].name);
			return false;
		}
		l->at++;
	}
	return false;
}

static bool take_set(struct line *l, enum part part, struct set *set)
{
	if (l->at == l->end)
		blame(l, l->at, "%s is missing: allow SOURCE -> TARGET PORTS", parts[part].name);
	else
		take_list(l, part, set);
	skip_blanks(l);
	return !l->bad;
}

static void take_rule(struct line *l, struct rule *rule)
{
	if (!take_word(l, "allow")) {
		blame(l, l->at, "a rule begins with \"allow\": allow SOURCE -> TARGET PORTS");
		return;
	}
	if (!take_set(l, SOURCE, &rule->sets[SOURCE]))
		return;
	if (!take_word(l, "->")) {
		blame(l, l->at, "\"->\" is missing here: allow SOURCE -> TARGET PORTS");
		return;
	}
	if (!take_set(l, TARGET, &rule->sets[TARGET]) || !take_set(l, PORTS, &rule->sets[PORTS]))
		return;
	if (l->at < l->end)
		blame(l, l->at, "the rule should end here");
}

static void free_rule(struct rule *rule)
{
	for (int i = 0; i < PARTS; i++)
		free(rule->sets[i].ranges);
}

/* What an editor does not show means something else than it looks like. */
static bool is_plain_text(struct line *l, const char *end)
{
	for (const char *p = l->text; p < end; p++)
		if (((unsigned char)*p < ' ' && *p != '\t') || *p == 127) {
			blame(l, p, *p == '\r' ? "a carriage return; lines end in a line feed only"
					       : "a control character");
			return false;
		}
	return true;
}

static void take_line(struct line *l, const char *end, struct policy *policy)
{
	const char *comment = memchr(l->text, '#', (size_t)(end - l->text));
	struct rule rule = { { { NULL, 0 } } }, *more;

	l->at = l->text;
	l->end = comment ? comment : end;
	if (!is_plain_text(l, end))
		return;
	while (l->end > l->text && is_blank(l->end[-1]))
		l->end--;
	skip_blanks(l);
	if (l->at >= l->end)
		return;
	take_rule(l, &rule);
	more = l->bad ? NULL : grown(policy->rules, policy->count, sizeof *more);
	if (!more) {
		free_rule(&rule);
		l->out_of_memory |= !l->bad;
		l->bad = true;
		return;
	}
	policy->rules = more;
	policy->rules[policy->count++] = rule;
}

/* False: there is no memory. */
static bool take_lines(const char *text, size_t size, struct policy *policy,
		       struct policy_fault *faults, size_t room, size_t *count)
{
	const char *end = text + size;
	unsigned number = 0;

	for (const char *next; text < end; text = next) {
		const char *feed = memchr(text, '\n', (size_t)(end - text));
		struct line l = { text, NULL, NULL, NULL, false, false };

		number++;
		next = feed ? feed + 1 : end;
		if (*count < room) {
			l.fault = &faults[*count];
			l.fault->line = number;
		}
		take_line(&l, feed ? feed : end, policy);
		if (l.out_of_memory)
			return false;
		*count += l.bad;
	}
	return true;
}

struct policy *policy_parse(const char *text, size_t size, struct policy_fault *faults,
			    size_t room, size_t *count)
{
	struct policy *policy = calloc(1, sizeof *policy);

	*count = 0;
	if (!policy)
		return NULL;
	if (!take_lines(text, size, policy, faults, room, count))
		*count = 0;
	else if (*count == 0)
		return policy;
	policy_free(policy);
	return NULL;
}

void policy_free(struct policy *policy)
{
	if (!policy)
		return;
	for (size_t i = 0; i < policy->count; i++)
		free_rule(&policy->rules[i]);
	free(policy->rules);
	free(policy);
}

size_t policy_rules(const struct policy *policy)
{
	return policy->count;
}

static bool has(const struct set *set, uint32_t number)
{
	for (size_t i = 0; i < set->count; i++)
		if (number >= set->ranges[i].from && number <= set->ranges[i].to)
			return true;
	return false;
}

bool policy_allows(const struct policy *policy, uint32_t source, uint32_t target,
		   uint32_t port)
{
	for (size_t i = 0; i < policy->count; i++) {
		const struct set *sets = policy->rules[i].sets;

		if (has(&sets[SOURCE], source) && has(&sets[TARGET], target) &&
		    has(&sets[PORTS], port))
			return true;
	}
	return false;
}
