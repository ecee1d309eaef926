/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vchan/clock.h"

#define REDRAW (250 * CLOCK_MS)
#define KIB 1024.0

struct text {
	char of[40];
};

static struct text amount(double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	struct text t;
	unsigned unit = 0;

	while (bytes >= KIB && unit < sizeof units / sizeof *units - 1) {
		bytes /= KIB;
		unit++;
	}
	(void)snprintf(t.of, sizeof t.of, "%.*f %s", unit ? 1 : 0, bytes, units[unit]);
	return t;
}

static struct text duration(double seconds)
{
	uint64_t s = (uint64_t)seconds;
	struct text t;

	if (s >= 3600)
		(void)snprintf(t.of, sizeof t.of, "%" PRIu64 ":%02u:%02u", s / 3600,
			       (unsigned)(s / 60 % 60), (unsigned)(s % 60));
	else
		(void)snprintf(t.of, sizeof t.of, "%u:%02u", (unsigned)(s / 60),
			       (unsigned)(s % 60));
	return t;
}

void progress_begin(struct stream_progress *p, bool wanted, bool always, uint64_t size)
{
	memset(p, 0, sizeof *p);
	p->shown = wanted && (always || isatty(STDERR_FILENO));
	p->size = size;
	p->began = clock_now();
	p->next = p->began + REDRAW;
}

int64_t progress_due(const struct stream_progress *p)
{
	return p->shown ? p->next : CLOCK_NEVER;
}

/* Share and time left, of the direction that most goes in. */
static void forecast(const struct stream_progress *p, double done, double rate, char *to,
		     size_t room)
{
	double size = (double)p->size;

	to[0] = 0;
	if (!p->size)
		return;
	if (rate > 0 && done < size)
		(void)snprintf(to, room, ", %.0f %%, %s left", 100 * done / size,
			       duration((size - done) / rate).of);
	else
		(void)snprintf(to, room, ", %.0f %%", 100 * done / size);
}

static void draw(struct stream_progress *p, uint64_t sent, uint64_t received, const char *end)
{
	double took = (double)(clock_now() - p->began) / (double)CLOCK_S;
	double most = (double)(sent > received ? sent : received);
	double rate = took > 0 ? most / took : 0;
	char share[64];

	forecast(p, most, rate, share, sizeof share);
	/* To the end of the line: the last one may have been longer. */
	fprintf(stderr, "\r%s sent, %s received, %s/s, %s%s\033[K%s", amount((double)sent).of,
		amount((double)received).of, amount(rate).of, duration(took).of, share, end);
	p->drawn = true;
}

void progress_draw(struct stream_progress *p, uint64_t sent, uint64_t received)
{
	int64_t now = clock_now();

	if (!p->shown || now < p->next)
		return;
	p->next = now + REDRAW;
	draw(p, sent, received, "");
}

void progress_end(struct stream_progress *p, uint64_t sent, uint64_t received)
{
	if (p->shown)
		draw(p, sent, received, "\n");
	p->shown = false;
}
