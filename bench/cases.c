/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is measured, as either end does it. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define NS 1000000000ull
#define LONE_SPIN_NS 3000000    /* the caller computes */
#define BURST_SPIN_NS 20000000
#define BURST_MESSAGES 64
#define PAUSE_LEAST_US 1000     /* before what is lone */
#define PAUSE_MORE_US 4000

/* One case, at one end. */
struct run {
	const struct self *self;
	const struct order *o;
	struct end *ends;  /* o->channels, IDLE: o->count, else one */
	unsigned count;
	char *buffer;      /* TRAFFIC_LARGEST bytes */
	struct report *r;
};

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

/* ---- channels ---- */

static int open_partner(struct run *run)
{
	uint32_t port = 0;

	for (unsigned i = 0; i < run->count; i++) {
		if (end_serve(&run->ends[i], run->self, run->o, i, &port) < 0)
			return -1;
		if (socket_send(run->self->control, &port, sizeof port) < 0 ||
		    end_accept(&run->ends[i]) < 0)
			return -1;
	}
	return 0;
}

static int open_measurer(struct run *run)
{
	uint32_t port;

	for (unsigned i = 0; i < run->count; i++)
		if (socket_recv(run->self->control, &port, sizeof port) < 0 ||
		    end_connect(&run->ends[i], run->self, run->o, i, port) < 0)
			return -1;
	return 0;
}

static int open_ends(struct run *run)
{
	return run->self->is_partner ? open_partner(run) : open_measurer(run);
}

static void close_ends(struct run *run)
{
	for (unsigned i = 0; i < run->count; i++)
		end_close(&run->ends[i]);
}

static int greet(const struct run *run, struct end *e)
{
	return traffic_greet(e, !run->self->is_partner);
}

static int round_trips(struct run *run)
{
	const struct order *o = run->o;

	return traffic_round_trips(run->ends, !run->self->is_partner,
				   o->what == POLLED_ROUND_TRIP, run->buffer, o->size, o->count);
}

static int write_all(struct run *run)
{
	const struct order *o = run->o;

	if (o->what == QREXEC)
		return traffic_write_messages(run->ends, run->buffer, o->size, o->count);
	return traffic_write(run->ends, o->what == STREAM_SEND ? end_send : end_write,
			     run->buffer, o->size, o->count);
}

static int read_all(struct run *run)
{
	const struct order *o = run->o;

	return (o->what == QREXEC ? traffic_read_messages : traffic_read)(run->ends, run->buffer,
									  o->size, o->count);
}

/* Until the writer knows that all has arrived. */
static int stream(struct run *run)
{
	char done = 'x';

	if (run->self->is_partner == !!run->o->inward)
		return write_all(run) < 0 ? -1 : end_recv(run->ends, &done, 1);
	return read_all(run) < 0 ? -1 : end_send(run->ends, &done, 1);
}

/* ---- set-up ---- */

static int set_up(struct run *run)
{
	for (uint64_t i = 0; i < run->o->count; i++) {
		if (open_ends(run) < 0 || greet(run, run->ends) < 0)
			return -1;
		end_close(run->ends);
	}
	return 0;
}

/* ---- how late a message is: both ends have one clock ----
 * Before each one the sender has read something, which it has not told yet. */

static void spin(uint64_t ns)
{
	uint64_t until = now_ns() + ns;

	while (now_ns() < until)
		;
}

static int send_samples(struct run *run)
{
	const struct order *o = run->o;
	unsigned messages = o->what == BURST ? BURST_MESSAGES : 1;
	uint64_t message[2] = { 0, 0 };

	for (uint64_t i = 0; i < o->count; i++) {
		if (end_recv(run->ends, message, sizeof message) < 0)
			return -1;
		usleep(PAUSE_LEAST_US + (unsigned)random() % PAUSE_MORE_US);
		for (unsigned k = 0; k < messages; k++) {
			message[0] = now_ns();
			if (end_write(run->ends, message, sizeof message) < 0)
				return -1;
		}
		spin(o->what == BURST ? BURST_SPIN_NS : LONE_SPIN_NS);
	}
	return 0;
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void sort_ns(uint64_t *ns, size_t count)
{
	qsort(ns, count, sizeof *ns, compare_numbers);
}

static int take_samples(struct run *run)
{
	const struct order *o = run->o;
	unsigned messages = o->what == BURST ? BURST_MESSAGES : 1;
	static uint64_t late[MOST_SAMPLES];
	uint64_t message[2] = { 0, 0 };

	for (uint64_t i = 0; i < o->count; i++) {
		if (end_write(run->ends, message, sizeof message) < 0)
			return -1;
		for (unsigned k = 0; k < messages; k++)
			if (end_recv(run->ends, message, sizeof message) < 0)
				return -1;
		late[i % MOST_SAMPLES] = now_ns() - message[0];
	}
	sort_ns(late, o->count);
	run->r->median = late[o->count / 2];
	run->r->most = late[o->count - 1];
	return 0;
}

static int samples(struct run *run)
{
	return run->self->is_partner ? take_samples(run) : send_samples(run);
}

/* ---- many channels ---- */

struct lane {
	pthread_t thread;
	struct run *run;
	struct end *end;
	uint64_t bytes;
	int error;
	atomic_bool *stop;
};

static void *write_lane(void *arg)
{
	struct lane *l = arg;

	while (!atomic_load(l->stop)) {
		if (end_write(l->end, l->run->buffer, l->run->o->size) < 0) {
			l->error = errno;
			return NULL;
		}
	}
	end_close(l->end);
	return NULL;
}

static void *read_lane(void *arg)
{
	struct lane *l = arg;
	char *buffer = malloc(l->run->o->size);
	ssize_t n = -1;

	while (buffer && (n = end_read(l->end, buffer, l->run->o->size)) > 0)
		l->bytes += (uint64_t)n;
	/* A plain socket that closes with unread data behind it resets. */
	if (n < 0 && errno != ECONNRESET)
		l->error = errno;
	free(buffer);
	return NULL;
}

static void add_up(struct run *run, const struct lane *lanes)
{
	run->r->least = UINT64_MAX;
	for (unsigned i = 0; i < run->count; i++) {
		run->r->bytes += lanes[i].bytes;
		if (lanes[i].bytes < run->r->least)
			run->r->least = lanes[i].bytes;
	}
}

static int busy(struct run *run)
{
	struct lane *lanes = calloc(run->count, sizeof *lanes);
	struct timespec pause = { run->o->ms / 1000, run->o->ms % 1000 * 1000000L };
	atomic_bool stop = false;
	unsigned i;
	int err = 0;

	if (!lanes)
		return -1;
	for (i = 0; i < run->count && !err; i++) {
		lanes[i].run = run;
		lanes[i].end = &run->ends[i];
		lanes[i].stop = &stop;
		err = pthread_create(&lanes[i].thread, NULL,
				     run->self->is_partner ? read_lane : write_lane, &lanes[i]);
	}
	if (err)
		i--;
	else if (!run->self->is_partner)
		nanosleep(&pause, NULL);
	atomic_store(&stop, true);
	while (i-- > 0) {
		pthread_join(lanes[i].thread, NULL);
		if (lanes[i].error)
			err = lanes[i].error;
	}
	add_up(run, lanes);
	free(lanes);
	errno = err;
	return err ? -1 : 0;
}

/* ---- idle channels ---- */

struct holdings {
	int64_t resident, fds, switches;
};

/* The number behind `name` in a file of /proc. */
static int64_t number_in(const char *path, const char *name)
{
	char line[256];
	long long number = 0, sum = 0;
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0 &&
		    sscanf(line + strlen(name), "%lld", &number) == 1)
			sum += number;
	if (f)
		fclose(f);
	return sum;
}

static int64_t count_entries(const char *path)
{
	DIR *d = opendir(path);
	int64_t n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* Of all threads but this one, which is looking. */
static int64_t count_switches(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *entry;
	char path[64];
	int64_t n = 0;

	while (d && (entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid())
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%.20s/status", entry->d_name);
		n += number_in(path, "voluntary_ctxt_switches:");
	}
	if (d)
		closedir(d);
	return n;
}

static struct holdings look(void)
{
	struct holdings h = { number_in("/proc/self/smaps_rollup", "Rss:") * 1024,
			      count_entries("/proc/self/fd"), 0 };

	return h;
}

static int idle(struct run *run)
{
	struct timespec pause = { run->o->ms / 1000, run->o->ms % 1000 * 1000000L };
	struct rlimit limit = { 16384, 16384 };
	struct holdings before, after;
	int64_t switches;

	setrlimit(RLIMIT_NOFILE, &limit);
	before = look();
	if (open_ends(run) < 0)
		return -1;
	for (unsigned i = 0; i < run->count; i++)
		if (greet(run, &run->ends[i]) < 0)
			return -1;
	after = look();
	run->r->resident = after.resident - before.resident;
	run->r->fds = after.fds - before.fds;
	if (run->self->is_partner)
		return greet(run, run->ends);
	sleep(1); /* what was under way */
	switches = count_switches();
	nanosleep(&pause, NULL);
	run->r->switches = count_switches() - switches;
	return greet(run, run->ends);
}

/* ---- all ---- */

static int measure(struct run *run, int (*what)(struct run *))
{
	uint64_t cpu = cpu_ns(), start = now_ns();
	int ret = what(run), err = errno;

	run->r->ns = now_ns() - start;
	run->r->cpu_ns = cpu_ns() - cpu;
	errno = err;
	return ret;
}

static int run_what(struct run *run)
{
	switch (run->o->what) {
	case SET_UP:
		return measure(run, set_up);
	case IDLE:
		return measure(run, idle);
	default:
		break;
	}
	if (open_ends(run) < 0)
		return -1;
	for (unsigned i = 0; i < run->count; i++)
		if (greet(run, &run->ends[i]) < 0)
			return -1;
	switch (run->o->what) {
	case ROUND_TRIP:
	case POLLED_ROUND_TRIP:
		return measure(run, round_trips);
	case LONE:
	case BURST:
		return measure(run, samples);
	case BUSY:
		return measure(run, busy);
	default:
		return measure(run, stream);
	}
}

void run_case(const struct self *self, const struct order *o, struct report *r)
{
	char *buffer = traffic_buffer();
	unsigned count = o->what == BUSY ? o->channels : o->what == IDLE ? (unsigned)o->count : 1;
	struct run run = { self, o, calloc(count, sizeof *run.ends), count, buffer, r };

	memset(r, 0, sizeof *r);
	for (unsigned i = 0; run.ends && i < count; i++)
		run.ends[i].sock = -1;
	if (!run.ends || run_what(&run) < 0)
		r->error = errno ? errno : EIO;
	if (run.ends)
		close_ends(&run);
	free(run.ends);
}
