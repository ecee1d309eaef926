/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stream_sink.h"
#include "vchan/clock.h"

#define GRACE (2 * CLOCK_S)
#define LOOK_EVERY_MS 10
#define SIGNALLED 128 /* and the signal: what a shell says of such an end */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What is ours to ignore or to catch is not the command's. */
static int set_up(posix_spawnattr_t *attr)
{
	static const int defaults[] = { SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD };
	sigset_t set, none;

	sigemptyset(&none);
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
		sigaddset(&set, defaults[i]);
	posix_spawnattr_setsigdefault(attr, &set);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setpgroup(attr, 0);
	return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
						      POSIX_SPAWN_SETPGROUP);
}

/* The errno. */
static int spawn(pid_t *pid, const char *line, int in, int out)
{
	char sh[] = "sh", c[] = "-c", *copy = strdup(line);
	char *argv[] = { sh, c, copy, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int err;

	if (!copy)
		return ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	err = set_up(&attr);
	if (!err)
		err = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	if (!err)
		err = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (!err)
		err = posix_spawn(pid, "/bin/sh", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	free(copy);
	return err;
}

static int without_waiting(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int command_start(struct stream_command *c, const char *line)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };
	int err = 0;

	memset(c, 0, sizeof *c);
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    without_waiting(in[1]) < 0 || without_waiting(out[0]) < 0)
		err = errno;
	c->to = in[1];
	c->from = out[0];
	pipe_enlarge(c->to);
	pipe_enlarge(c->from);
	if (!err)
		err = spawn(&c->pid, line, in[0], out[1]);
	close_fd(&in[0]);
	close_fd(&out[1]);
	if (!err)
		return 0;
	c->pid = 0;
	command_close(c);
	errno = err;
	return -1;
}

bool command_has_ended(struct stream_command *c)
{
	int status;

	if (c->pid && waitpid(c->pid, &status, WNOHANG) == c->pid) {
		c->pid = 0;
		c->status = WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) :
						  WEXITSTATUS(status);
	}
	return c->pid == 0;
}

void command_stop(struct stream_command *c)
{
	pid_t group = c->pid;
	int64_t until = clock_now() + GRACE;

	command_close(c);
	if (!group)
		return;
	kill(-group, SIGTERM);
	while (!command_has_ended(c)) {
		if (clock_now() > until)
			kill(-group, SIGKILL);
		poll(NULL, 0, LOOK_EVERY_MS);
	}
}

void command_close(struct stream_command *c)
{
	close_fd(&c->to);
	close_fd(&c->from);
}
