/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "stream_command.h"
#include "stream_peer.h"
#include "stream_progress.h"
#include "stream_sink.h"
#include "stream_stop.h"
#include "tool.h"
#include "vchan/clock.h"

#define BUFFER ((size_t)256 << 10)
#define NULL_MAJOR 1u
#define NULL_MINOR 3u

/* One direction. */
struct lane {
	char *data;
	size_t from, to;  /* what is in the buffer */
	uint64_t moved;   /* out of it, bytes */
	bool ended;       /* nothing more comes into it */
};

struct stream {
	libvchan_t *vchan;
	const struct stream_plan *plan;
	struct stream_input *input;
	struct stream_command command; /* of --exec */
	struct stream_progress progress;
	struct stream_sink out;
	struct lane up, down; /* to the peer, from it */
	int in;             /* -1: none */
	int event, stop_fd;
	size_t room;        /* of the channel, when nothing is under way */
	bool readable;      /* the channel may have something, */
	bool writable;      /* or room */
	bool in_ready, out_full;
	bool refused;       /* the channel takes nothing any more, */
	bool deaf;          /* and the command neither */
	int64_t quiet_since; /* all was delivered, and nothing has come since; 0: not so */
	bool over;
	const char *why;    /* it has failed; NULL: it has not */
	int err;            /* and errno, or 0 */
};

/* ---- standard input ---- */

static void plug_holes(void)
{
	int fd;

	/* Nothing can be read from it, and nothing be written: as it was. */
	do
		fd = open("/dev/null", O_PATH);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static bool has_input(void)
{
	int flags = fcntl(STDIN_FILENO, F_GETFL);
	struct stat st;

	if (flags < 0 || (flags & O_PATH) || fstat(STDIN_FILENO, &st) < 0)
		return false;
	return !(S_ISCHR(st.st_mode) && st.st_rdev == makedev(NULL_MAJOR, NULL_MINOR));
}

void stream_open_input(struct stream_input *input, const struct stream_plan *plan)
{
	struct stat st;

	plug_holes();
	*input = (struct stream_input){ -1, -1, false, false };
	if (plan->recv_only || plan->exec || !has_input())
		return;
	input->fd = STDIN_FILENO;
	if (fstat(input->fd, &st) < 0)
		return;
	if (S_ISREG(st.st_mode))
		input->start = lseek(input->fd, 0, SEEK_CUR);
	pipe_enlarge(input->fd);
}

/* For this peer. */
static int input_again(struct stream_input *input)
{
	if (input->start >= 0)
		input->ended = lseek(input->fd, input->start, SEEK_SET) < 0;
	return input->ended ? -1 : input->fd;
}

/* Is there more of it, of which the peer has had nothing?  Of a person at a terminal,
 * who is just as surprised, nobody asks that. */
static bool input_is_left(const struct stream *s)
{
	int bytes = 0;

	if (s->in < 0 || s->up.ended || isatty(s->in))
		return false;
	return ioctl(s->in, FIONREAD, &bytes) == 0 && bytes > 0;
}

/* ---- moving ---- */

static bool is_empty(const struct lane *l)
{
	return l->from == l->to;
}

static size_t fill(const struct lane *l)
{
	return l->to - l->from;
}

static void take(struct lane *l, size_t n)
{
	l->from += n;
	l->moved += n;
}

static void put(struct lane *l, size_t n)
{
	l->from = 0;
	l->to = n;
}

static void fail(struct stream *s, const char *why, int err)
{
	if (s->why)
		return;
	s->over = true;
	s->why = why;
	s->err = err;
}

static void fail_here(struct stream *s, const char *why)
{
	s->input->broken = !s->plan->exec;
	fail(s, why, errno);
}

static void read_input(struct stream *s)
{
	ssize_t n = read(s->in, s->up.data, BUFFER);

	s->in_ready = false;
	if (n > 0)
		put(&s->up, (size_t)n);
	else if (n == 0)
		s->up.ended = true;
	else if (errno != EAGAIN && errno != EINTR)
		fail_here(s, "cannot read the input");
}

static void write_channel(struct stream *s)
{
	size_t size = fill(&s->up);
	int n = libvchan_write(s->vchan, s->up.data + s->up.from, size);

	if (n < 0) {
		/* What the peer said before it left is still to be read. */
		s->refused = s->readable = true;
		return;
	}
	take(&s->up, (size_t)n);
	s->writable = (size_t)n == size;
}

static void move_up(struct stream *s)
{
	if (s->in_ready && is_empty(&s->up) && !s->up.ended)
		read_input(s);
	if (!is_empty(&s->up) && s->writable && !s->refused)
		write_channel(s);
}

static void read_channel(struct stream *s)
{
	int n = libvchan_read(s->vchan, s->down.data, BUFFER);

	if (n > 0) {
		put(&s->down, (size_t)n);
		if (s->quiet_since)
			s->quiet_since = clock_now();
		return;
	}
	s->readable = false;
	s->down.ended = n < 0;
	if (n < 0 && errno == EPROTO)
		fail(s, "the peer broke the rules of the wire; VCHAN_VSOCK_LOG=error tells which",
		     EPROTO);
}

static void write_output(struct stream *s)
{
	ssize_t n = sink_write(&s->out, s->down.data + s->down.from, fill(&s->down));

	if (n >= 0) {
		take(&s->down, (size_t)n);
		s->out_full = n == 0;
	} else if (s->plan->exec) {
		/* It may have more to say.  What it did not read is left to the peer, which
		 * is to know that it was not all delivered. */
		s->deaf = s->out_full = true;
		s->out.fd = -1;
	} else {
		fail_here(s, "cannot write to standard output");
	}
}

static void move_down(struct stream *s)
{
	if (s->readable && is_empty(&s->down) && !s->down.ended)
		read_channel(s);
	if (!is_empty(&s->down) && !s->out_full)
		write_output(s);
}

/* ---- the end ---- */

static void peer_has_ended(struct stream *s)
{
	s->over = true;
	if (s->plan->exec)
		return;
	if (!is_empty(&s->up) || (s->up.moved && !peer_has_had_all(s->vchan)) ||
	    input_is_left(s))
		fail(s, "the peer left before all of the input was delivered", 0);
}

/* All that there was to send is on its way, and nothing is left here. */
static bool all_is_sent(struct stream *s)
{
	if (!s->up.ended || !is_empty(&s->up) || s->refused)
		return false;
	return s->quiet_since || (size_t)libvchan_buffer_space(s->vchan) >= s->room;
}

static int64_t quiet_until(const struct stream *s)
{
	if (!s->quiet_since || s->plan->exec || s->plan->linger == CLOCK_NEVER)
		return CLOCK_NEVER;
	return s->quiet_since + s->plan->linger;
}

static void look_for_end(struct stream *s)
{
	if (s->over)
		return;
	if (stop_signal()) {
		s->over = true;
	} else if ((s->down.ended && is_empty(&s->down)) ||
		   (s->deaf && libvchan_is_open(s->vchan) == VCHAN_DISCONNECTED)) {
		peer_has_ended(s);
	} else if (all_is_sent(s)) {
		if (!s->quiet_since)
			s->quiet_since = clock_now();
		if (s->plan->exec)
			s->over = command_has_ended(&s->command);
		else if (!s->readable && is_empty(&s->down))
			s->over = clock_now() >= quiet_until(s);
	}
}

/* ---- the loop ---- */

static bool can_go_on(const struct stream *s)
{
	return (s->readable && is_empty(&s->down) && !s->down.ended) ||
	       (!is_empty(&s->up) && s->writable && !s->refused) ||
	       (!is_empty(&s->down) && !s->out_full);
}

static int milliseconds_until(int64_t then)
{
	int64_t left;

	if (then == CLOCK_NEVER)
		return -1;
	left = (then - clock_now() + CLOCK_MS - 1) / CLOCK_MS;
	if (left < 0)
		return 0;
	return left < INT32_MAX ? (int)left : INT32_MAX;
}

static int how_long(const struct stream *s)
{
	int64_t quiet = quiet_until(s), draw = progress_due(&s->progress);

	if (can_go_on(s))
		return 0;
	/* While the output takes nothing, the peer may have said something. */
	if (!is_empty(&s->down))
		quiet = CLOCK_NEVER;
	return milliseconds_until(quiet < draw ? quiet : draw);
}

static void sleep_for_more(struct stream *s)
{
	bool wants = is_empty(&s->up) && !s->up.ended && !s->refused;
	struct pollfd fds[] = {
		{ s->stop_fd, POLLIN, 0 },
		{ s->down.ended ? -1 : s->event, POLLIN, 0 },
		{ wants ? s->in : -1, POLLIN, 0 },
		{ s->out_full ? s->out.fd : -1, POLLOUT, 0 },
	};

	if (poll(fds, sizeof fds / sizeof *fds, how_long(s)) < 0)
		return;
	if (fds[0].revents)
		stop_clear();
	if (fds[1].revents) {
		libvchan_wait(s->vchan);
		s->readable = s->writable = true;
	}
	s->in_ready = fds[2].revents != 0;
	if (fds[3].revents)
		s->out_full = false;
}

static void copy(struct stream *s)
{
	look_for_end(s);
	while (!s->over) {
		sleep_for_more(s);
		move_up(s);
		move_down(s);
		progress_draw(&s->progress, s->up.moved, s->down.moved);
		look_for_end(s);
	}
}

/* ---- beginning and end ---- */

static void let_go(struct stream *s)
{
	sink_close(&s->out);
	free(s->up.data);
	free(s->down.data);
}

/* The errno. */
static int set_up(struct stream *s)
{
	int out = s->plan->send_only ? -1 : STDOUT_FILENO;

	s->in = input_again(s->input);
	s->event = libvchan_fd_for_select(s->vchan);
	s->room = (size_t)libvchan_buffer_space(s->vchan);
	s->readable = s->writable = true;
	s->up.data = malloc(BUFFER);
	s->down.data = malloc(BUFFER);
	if (!s->up.data || !s->down.data)
		return ENOMEM;
	if (s->plan->exec) {
		if (command_start(&s->command, s->plan->exec) < 0)
			return errno;
		s->in = s->command.from;
		out = s->command.to;
	}
	sink_open(&s->out, out);
	return 0;
}

/* It sees the end of its input now, and may take its time. */
static int command_status(struct stream *s)
{
	struct pollfd p = { s->stop_fd, POLLIN, 0 };

	command_close(&s->command);
	while (!command_has_ended(&s->command) && !stop_signal())
		if (poll(&p, 1, -1) > 0)
			stop_clear();
	command_stop(&s->command);
	return s->command.status;
}

static int say_why(const struct stream *s)
{
	if (!s->why)
		return stop_signal() ? TOOL_FAILED : TOOL_OK;
	if (s->err)
		return tool_failed("%s: %s", s->why, strerror(s->err));
	return tool_failed("%s", s->why);
}

int stream_run(libvchan_t *vchan, const struct stream_plan *plan, struct stream_input *input,
	       int stop_fd)
{
	struct stream s = { .vchan = vchan, .plan = plan, .input = input, .stop_fd = stop_fd };
	int err = set_up(&s), status, of_command;

	if (err) {
		let_go(&s);
		return tool_failed("cannot begin: %s", strerror(err));
	}
	progress_begin(&s.progress, plan->progress, plan->progress_always, plan->size);
	copy(&s);
	progress_end(&s.progress, s.up.moved, s.down.moved);
	input->ended |= s.up.ended;
	status = say_why(&s);
	let_go(&s);
	if (!plan->exec)
		return status;
	of_command = command_status(&s);
	return status ? status : of_command;
}
