/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "holders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int by_inode(const void *left, const void *right)
{
	const struct holder *a = left, *b = right;

	return (a->inode > b->inode) - (a->inode < b->inode);
}

/* "socket:[NUMBER]", or 0. */
static uint32_t inode_of(int directory, const char *fd)
{
	static const char prefix[] = "socket:[";
	char target[64], *end;
	ssize_t n = readlinkat(directory, fd, target, sizeof target - 1);
	unsigned long long inode;

	if (n < 0)
		return 0;
	target[n] = '\0';
	if (strncmp(target, prefix, sizeof prefix - 1) != 0)
		return 0;
	inode = strtoull(target + sizeof prefix - 1, &end, 10);
	return *end == ']' && inode <= UINT32_MAX ? (uint32_t)inode : 0;
}

static void read_command(const char *pid, char *command, size_t size)
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, command, size - 1);
		close(fd);
	}
	command[n > 0 ? n : 0] = '\0';
	command[strcspn(command, "\n")] = '\0';
}

static void note(struct holder *h, const char *pid, const char *fd)
{
	pid_t number = (pid_t)strtol(pid, NULL, 10);

	/* Twice in the same process is once. */
	if (h->last == number)
		return;
	h->last = number;
	if (h->count++)
		return;
	h->pid = number;
	h->fd = (int)strtol(fd, NULL, 10);
	read_command(pid, h->command, sizeof h->command);
}

static void search(DIR *fds, const char *pid, struct holder *holders, size_t count)
{
	const struct dirent *entry;

	while ((entry = readdir(fds)) != NULL) {
		struct holder key = { .inode = inode_of(dirfd(fds), entry->d_name) };
		struct holder *h = key.inode ? bsearch(&key, holders, count, sizeof *holders,
						       by_inode) : NULL;

		if (h)
			note(h, pid, entry->d_name);
	}
}

static bool is_hidden(int err)
{
	return err == EACCES || err == EPERM;
}

bool holders_find(struct holder *holders, size_t count)
{
	const struct dirent *entry;
	bool hidden = false;
	DIR *proc = opendir("/proc");

	qsort(holders, count, sizeof *holders, by_inode);
	if (!proc)
		return true;
	while ((entry = readdir(proc)) != NULL) {
		char path[64];
		DIR *fds;

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof path, "/proc/%.20s/fd", entry->d_name);
		fds = opendir(path);
		if (fds) {
			search(fds, entry->d_name, holders, count);
			closedir(fds);
		} else if (is_hidden(errno)) {
			hidden = true;
		}
	}
	closedir(proc);
	return hidden;
}
