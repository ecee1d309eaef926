/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * poll_loop serve|connect DOMAIN PORT: joins a channel to standard input and output.
 *
 * An event loop as libvchan.h wants it.  Its rules, each of which some program got
 * wrong:
 *
 *  1. The fd to poll is taken once, for life, and polled for POLLIN.
 *  2. libvchan_wait clears it, and nothing else does.  It is called when poll said that
 *     the fd is readable, for otherwise it blocks.
 *  3. An event says "look", and not what there is to see: each turn looks at everything.
 *  4. While data is unread the fd is quiet: so do not sleep before data_ready is 0.
 *  5. Write what buffer_space says, no more.  When it says 0, leave your input alone, or
 *     poll returns at once for ever; the fd will tell of room, since it was asked for.
 *  6. The end is is_open 0 and *then* data_ready 0.  The other way round, the last bytes
 *     may come in between, and be lost.
 *
 * At the end of its input it closes the channel, which delivers what was written.  What
 * the peer would still say is lost then: a vchan has no half-close, so two programs agree
 * on who leaves first.
 */
#include <errno.h>
#include <libvchan.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "number.h"

static bool to_output(libvchan_t *vchan)
{
	char data[4096];
	int size = libvchan_read(vchan, data, sizeof(data));

	if (size <= 0)
		return size == 0;
	return fwrite(data, 1, (size_t)size, stdout) == (size_t)size && fflush(stdout) == 0;
}

/* False: the input is at its end. */
static bool from_input(libvchan_t *vchan, int room)
{
	char data[4096];
	size_t most = (size_t)room < sizeof(data) ? (size_t)room : sizeof(data);
	ssize_t size = read(STDIN_FILENO, data, most);

	/* -1 is no reason to leave: the peer may have gone, and have said something before. */
	if (size > 0)
		libvchan_write(vchan, data, (size_t)size);
	return size > 0;
}

/* Until an end leaves; false: something failed. */
static bool loop(libvchan_t *vchan)
{
	struct pollfd fds[2] = { { libvchan_fd_for_select(vchan), POLLIN, 0 } };

	for (;;) {
		int open = libvchan_is_open(vchan); /* before data_ready: rule 6 */
		int ready = libvchan_data_ready(vchan);
		int room = libvchan_buffer_space(vchan);

		if (ready > 0 && !to_output(vchan))
			return false;
		if (ready == 0 && open == VCHAN_DISCONNECTED)
			return true;

		fds[1].fd = room > 0 ? STDIN_FILENO : -1;
		fds[1].events = POLLIN;
		if (poll(fds, 2, ready > 0 ? 0 : -1) < 0) {
			if (errno != EINTR)
				return false;
			continue;
		}
		if (fds[0].revents)
			libvchan_wait(vchan);
		if (fds[1].revents && !from_input(vchan, room))
			return true;
	}
}

int main(int argc, char **argv)
{
	bool serve = argc == 4 && strcmp(argv[1], "serve") == 0, good;
	libvchan_t *vchan;

	if (!serve && (argc != 4 || strcmp(argv[1], "connect") != 0))
		return 2;
	vchan = serve ? libvchan_server_init(number(argv[2]), number(argv[3]), 65536, 65536)
		      : libvchan_client_init(number(argv[2]), number(argv[3]));
	if (!vchan)
		return 1; /* the library has said why, on stderr */
	libvchan_set_blocking(vchan, false); /* nothing in here may wait but poll */
	good = loop(vchan);
	if (!good)
		perror("poll_loop");
	libvchan_close(vchan);
	return good ? 0 : 1;
}
