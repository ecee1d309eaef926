/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Up to `room` bytes; -1 and errno. */
static ssize_t read_all(int fd, char *to, size_t room)
{
	size_t size = 0;

	while (size < room) {
		ssize_t n = read(fd, to + size, room - size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		size += (size_t)n;
	}
	return (ssize_t)size;
}

static struct policy *parse(int fd, char *text, struct relay_faults *faults)
{
	ssize_t size = read_all(fd, text, POLICY_SIZE_MOST + 1);
	struct policy *policy;

	if (size < 0)
		return NULL;
	if ((size_t)size > POLICY_SIZE_MOST) {
		errno = EFBIG;
		return NULL;
	}
	policy = policy_parse(text, (size_t)size, faults->list, RELAY_FILE_FAULTS,
			      &faults->count);
	faults->shown = faults->count;
	if (faults->shown > RELAY_FILE_FAULTS)
		faults->shown = RELAY_FILE_FAULTS;
	if (!policy)
		errno = ENOMEM; /* unless there are faults */
	return policy;
}

struct policy *relay_file_read(const char *path, struct relay_faults *faults)
{
	/* A fifo would hold everything up. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err;
	char *text = fd < 0 ? NULL : malloc(POLICY_SIZE_MOST + 1);
	struct policy *policy = NULL;

	faults->count = faults->shown = 0;
	if (fd < 0)
		return NULL;
	if (text)
		policy = parse(fd, text, faults);
	err = errno;
	free(text);
	close(fd);
	errno = err;
	return policy;
}
