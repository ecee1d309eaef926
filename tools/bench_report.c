/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB (1u << 20)
#define LARGE_MESSAGE 4096u /* from here on bytes are counted, not messages */

static const char *const way_names[BENCH_WAYS] = { "vchan", "plain" };

static bool is_time(const struct bench_case *c)
{
	return c->what == BENCH_TRIP || c->what == BENCH_SETUP;
}

static const char *unit(const struct bench_case *c)
{
	if (is_time(c))
		return "us";
	return c->size < LARGE_MESSAGE ? "messages/s" : "MiB/s";
}

double bench_figure(const struct bench_case *c, uint32_t count, int64_t ns)
{
	if (is_time(c))
		return (double)ns / count / 1e3;
	return count * (c->size < LARGE_MESSAGE ? 1.0 : (double)c->size / MIB) * 1e9 / (double)ns;
}

/* ---- of all rounds ---- */

struct summary {
	double median, least, most; /* NAN: no round went well */
	unsigned died;
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct summary sum_up(const double *figures, unsigned rounds)
{
	static double sorted[BENCH_MOST_ROUNDS];
	unsigned n = 0;

	for (unsigned i = 0; i < rounds; i++)
		if (!isnan(figures[i]))
			sorted[n++] = figures[i];
	if (n == 0)
		return (struct summary){ NAN, NAN, NAN, rounds };
	qsort(sorted, n, sizeof *sorted, compare);
	return (struct summary){ (sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0],
				 sorted[n - 1], rounds - n };
}

static struct summary summary_of(const struct bench_report *r, const struct bench_row *row,
				 unsigned way)
{
	return sum_up(row->figures[way], r->rounds);
}

static double ratio_of(const struct bench_report *r, const struct bench_row *row)
{
	return summary_of(r, row, BENCH_VCHAN).median / summary_of(r, row, BENCH_PLAIN).median;
}

bool bench_is_whole(const struct bench_report *r)
{
	for (size_t i = 0; i < r->row_count; i++)
		for (unsigned way = 0; way < r->ways; way++)
			if (isnan(summary_of(r, &r->rows[i], way).median))
				return false;
	return true;
}

/* ---- JSON ---- */

static void put_number(double number)
{
	if (isnan(number))
		fputs("null", stdout);
	else
		printf("%.6f", number);
}

static void put_named(const char *name, double number)
{
	printf("\"%s\": ", name);
	put_number(number);
	fputs(", ", stdout);
}

static void put_way(const struct bench_report *r, const struct bench_row *row, unsigned way)
{
	struct summary s = summary_of(r, row, way);

	printf(",\n      \"%s\": {", way_names[way]);
	put_named("median", s.median);
	put_named("min", s.least);
	put_named("max", s.most);
	printf("\"died\": %u, \"count\": %u, \"rounds\": [", s.died, row->counts[way]);
	for (unsigned i = 0; i < r->rounds; i++) {
		if (i > 0)
			fputs(", ", stdout);
		put_number(row->figures[way][i]);
	}
	fputs("]}", stdout);
}

static void put_case(const struct bench_report *r, const struct bench_row *row)
{
	printf("    {\"name\": \"%s\", \"size\": %u, \"unit\": \"%s\", \"better\": \"%s\"",
	       row->c->name, row->c->size, unit(row->c), is_time(row->c) ? "less" : "more");
	for (unsigned way = 0; way < r->ways; way++)
		put_way(r, row, way);
	if (r->ways > BENCH_PLAIN) {
		fputs(",\n      \"ratio\": ", stdout);
		put_number(ratio_of(r, row));
	}
	putchar('}');
}

/* The texts have no character in them that JSON wants escaped (bench_wire.c). */
static void put_end(const char *name, const struct bench_hello *end, uint32_t cid)
{
	printf("  \"%s\": {\"cid\": %u, \"version\": \"%s\", \"kernel\": \"%s\"},\n", name, cid,
	       end->version, end->kernel);
}

void bench_print_json(const struct bench_report *r)
{
	fputs("{\n  \"format\": 1,\n", stdout);
	put_end("driver", &r->driver, r->driver_cid);
	put_end("server", &r->server, r->server_cid);
	printf("  \"port\": %d,\n  \"wire\": \"%s\",\n  \"seconds\": %.3f,\n"
	       "  \"rounds\": %u,\n  \"cases\": [\n", r->port, r->framed ? "framed" : "plain",
	       r->seconds, r->rounds);
	for (size_t i = 0; i < r->row_count; i++) {
		put_case(r, &r->rows[i]);
		puts(i + 1 < r->row_count ? "," : "");
	}
	puts("  ]\n}");
}

/* ---- for people ---- */

/* "12345 (12000 to 13000)"; as wide as the others'. */
static void show_summary(const struct bench_case *c, struct summary s)
{
	char spread[64] = "";
	int digits = is_time(c) || c->size >= LARGE_MESSAGE;

	if (isnan(s.median)) {
		printf("  %8s %-22s", "died", "");
		return;
	}
	snprintf(spread, sizeof spread, "(%.*f to %.*f)", digits, s.least, digits, s.most);
	printf("  %8.*f %-22s", digits, s.median, spread);
}

static void show_row(const struct bench_report *r, const struct bench_row *row)
{
	printf("%-14s %-10s", row->c->name, unit(row->c));
	for (unsigned way = 0; way < r->ways; way++)
		show_summary(row->c, summary_of(r, row, way));
	if (r->ways > BENCH_PLAIN) {
		if (isnan(ratio_of(r, row)))
			printf("  %6s", "-");
		else
			printf("  %6.2f", ratio_of(r, row));
	}
	putchar('\n');
}

void bench_print_table(const struct bench_report *r)
{
	printf("driver: CID %u, vchan-vsock %s, Linux %s\n", r->driver_cid, r->driver.version,
	       r->driver.kernel);
	printf("server: CID %u, vchan-vsock %s, Linux %s\n", r->server_cid, r->server.version,
	       r->server.kernel);
	printf("%s wire; %u rounds in %.1f s: medians (least to most)\n\n",
	       r->framed ? "framed" : "plain", r->rounds, r->seconds);
	printf("%-14s %-10s  %8s %-22s", "case", "unit", "vchan", "");
	if (r->ways > BENCH_PLAIN)
		printf("  %8s %-22s  %6s", "plain", "", "ratio");
	putchar('\n');
	for (size_t i = 0; i < r->row_count; i++)
		show_row(r, &r->rows[i]);
}
