/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end that gives the orders, and has the clock. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_case.h"
#include "bench_ends.h"
#include "bench_report.h"
#include "tool.h"
#include "vchan/address.h"
#include "vchan/clock.h"
#include "vchan/handle.h"
#include "vchan/vsock.h"

#define LEAST_ROUNDS 3
#define SLICES 6u /* of a run's time for each case and way: rounds, and finding out */
#define SLICE_LEAST (4 * CLOCK_MS)
#define SLICE_MOST (250 * CLOCK_MS)
#define MESSAGES_ENOUGH (1u << 24)

struct driver {
	const struct bench_options *options;
	struct bench_place place;
	int64_t slice; /* ns: what a measurement shall take */
	struct bench_report report;
};

/* ---- one measurement ---- */

static struct bench_order order_of(const struct bench_case *c, enum bench_way way,
				   uint32_t count)
{
	return (struct bench_order){ c->what, way, c->inward, c->size, count };
}

/* ns, 0: a plain socket died, which is worth a word in the report; -1: no going on. */
static int64_t measure(struct driver *d, const struct bench_case *c, enum bench_way way,
		       uint32_t count)
{
	struct bench_order order = order_of(c, way, count);
	struct bench_result result = { 0, "" };
	enum bench_outcome outcome;

	bench_watch(d->options);
	outcome = bench_drive(&d->place, &order, &result);
	if (outcome == BENCH_MEASURED)
		return result.ns;
	if (outcome == BENCH_DIED && way == BENCH_PLAIN)
		return 0;
	bench_show(NULL);
	if (result.why[0])
		tool_say("%s%s: %s", c->name, outcome == BENCH_DIED ? ", the channel died" : "",
			 result.why);
	return -1;
}

/* How many messages take about a slice; 0: no going on. */
static uint32_t find_count(struct driver *d, const struct bench_case *c, enum bench_way way)
{
	uint32_t count = 2;
	double wanted;

	for (;;) {
		int64_t ns = measure(d, c, way, count);

		if (ns < 0)
			return 0;
		if (ns == 0)
			return count;
		if (ns >= d->slice / 3 || count >= MESSAGES_ENOUGH) {
			wanted = (double)count * (double)d->slice / (double)ns;
			return wanted < 1 ? 1
			       : wanted < BENCH_MOST_MESSAGES ? (uint32_t)wanted
							      : BENCH_MOST_MESSAGES;
		}
		count *= 2 + (uint32_t)(ns * 60 > d->slice ? d->slice / 2 / ns : 30);
	}
}

/* ---- all ---- */

static int find_counts(struct driver *d)
{
	for (size_t i = 0; i < d->report.row_count; i++) {
		struct bench_row *row = &d->report.rows[i];
		char line[80];

		snprintf(line, sizeof line, "how fast is %s?", row->c->name);
		bench_show(line);
		for (unsigned way = 0; way < d->report.ways; way++) {
			row->counts[way] = find_count(d, row->c, (enum bench_way)way);
			if (row->counts[way] == 0)
				return -1;
		}
	}
	return 0;
}

/* The ways side by side, and none of them always first. */
static int measure_row(struct driver *d, struct bench_row *row)
{
	unsigned round = d->report.rounds;

	for (unsigned i = 0; i < d->report.ways; i++) {
		unsigned way = (i + round) % d->report.ways;
		int64_t ns = measure(d, row->c, (enum bench_way)way, row->counts[way]);

		if (ns < 0)
			return -1;
		row->figures[way][round] =
			ns ? bench_figure(row->c, row->counts[way], ns) : NAN;
	}
	return 0;
}

static int measure_round(struct driver *d)
{
	char line[80];

	for (size_t i = 0; i < d->report.row_count; i++) {
		snprintf(line, sizeof line, "round %u, %s", d->report.rounds + 1,
			 d->report.rows[i].c->name);
		bench_show(line);
		if (measure_row(d, &d->report.rows[i]) < 0)
			return -1;
	}
	d->report.rounds++;
	return 0;
}

/* Rounds as long as the time lasts; the last one may take a little more. */
static int measure_all(struct driver *d)
{
	int64_t start = clock_now(), until = start + d->options->seconds * CLOCK_S, took = 0;

	if (find_counts(d) < 0)
		return -1;
	while (d->report.rounds < LEAST_ROUNDS ||
	       (d->report.rounds < BENCH_MOST_ROUNDS && clock_now() + took / 2 < until)) {
		took = clock_now();
		if (measure_round(d) < 0)
			return -1;
		took = clock_now() - took;
	}
	d->report.seconds = (double)(clock_now() - start) / CLOCK_S;
	bench_show(NULL);
	return 0;
}

static void part(struct driver *d)
{
	struct bench_order order = { .what = BENCH_BYE };
	unsigned char bytes[BENCH_ORDER_SIZE];

	bench_watch(d->options);
	bench_encode_order(&order, bytes);
	libvchan_send(d->place.control, bytes, sizeof bytes);
}

/* ---- beginning and end ---- */

static bool is_chosen(const struct bench_options *options, const struct bench_case *c)
{
	for (size_t i = 0; i < options->name_count; i++)
		if (bench_is_named(c, options->names[i]))
			return true;
	return options->name_count == 0;
}

static void choose(struct driver *d)
{
	struct bench_report *r = &d->report;

	for (size_t i = 0; i < bench_case_count; i++)
		if (is_chosen(d->options, &bench_cases[i]))
			r->rows[r->row_count++].c = &bench_cases[i];
	d->slice = d->options->seconds * CLOCK_S / (int64_t)(r->row_count * r->ways * SLICES);
	if (d->slice < SLICE_LEAST)
		d->slice = SLICE_LEAST;
	if (d->slice > SLICE_MOST)
		d->slice = SLICE_MOST;
}

static void describe(struct driver *d)
{
	const libvchan_t *control = d->place.control;
	struct bench_report *r = &d->report;

	bench_own_hello(&r->driver);
	if (control->config.has_domain)
		r->driver_cid = address_cid(control->config.domain);
	else
		(void)vsock_local_cid(&r->driver_cid); /* it was known a moment ago */
	r->server_cid = address_cid((uint32_t)d->options->domain);
	r->port = d->options->port;
	r->framed = handle_is_framed(control);
}

/* 0, or -1 after a line. */
static int await_server(const struct bench_options *options, libvchan_t *control, int watch)
{
	int64_t until = clock_now() + options->patience * CLOCK_S, left;
	int ret;

	for (;;) {
		struct pollfd p = { watch, POLLIN, 0 };

		ret = libvchan_client_init_async_finish(control, true);
		if (ret <= 0)
			return ret;
		left = until - clock_now();
		if (left <= 0)
			break;
		(void)poll(&p, 1, (int)(left / CLOCK_MS) + 1);
	}
	bench_show(NULL);
	tool_say("nobody serves port %d in domain %d: start `vchan-vsock bench --serve ME %d` "
		 "there", options->port, options->domain, options->port);
	return -1;
}

static libvchan_t *connect_to_server(const struct bench_options *options)
{
	int watch;
	libvchan_t *control = libvchan_client_init_async(options->domain, options->port, &watch);

	if (!control)
		return NULL; /* the library has said why */
	bench_show("waiting for the server");
	if (await_server(options, control, watch) == 0)
		return control;
	libvchan_close(control);
	return NULL;
}

static int drive(struct driver *d)
{
	const char *why;

	bench_watch(d->options);
	why = bench_meet(d->place.control, &d->report.server);
	if (why) {
		bench_show(NULL);
		return tool_failed("domain %d: %s", d->options->domain, why);
	}
	describe(d);
	choose(d);
	if (measure_all(d) < 0)
		return TOOL_FAILED;
	part(d);
	return TOOL_OK;
}

static int print(const struct bench_report *report, bool json)
{
	(json ? bench_print_json : bench_print_table)(report);
	return bench_is_whole(report) ? TOOL_OK
				      : tool_failed("not all could be measured: the kernel "
						    "resets the plain socket");
}

int bench_measure(const struct bench_options *options)
{
	struct driver d = { .options = options };
	libvchan_t *control;
	int status;

	d.report.ways = options->no_plain ? 1 : BENCH_WAYS;
	d.report.rows = calloc(bench_case_count, sizeof *d.report.rows);
	if (!d.report.rows)
		return tool_failed("%s", tool_reason(ENOMEM));
	control = connect_to_server(options);
	if (control) {
		d.place = bench_place(control, options->domain, options->port);
		status = drive(&d);
		libvchan_close(control);
		bench_watch_no_more();
		if (status == TOOL_OK)
			status = print(&d.report, options->json);
	} else {
		status = TOOL_FAILED;
	}
	free(d.report.rows);
	return status;
}
