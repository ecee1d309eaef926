/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* echo_client SERVER PORT: sends its input to echo_server, and prints what comes back. */
#include <libvchan.h>
#include <stdio.h>
#include <unistd.h>

#include "number.h"

int main(int argc, char **argv)
{
	libvchan_t *vchan;
	char data[4096];
	ssize_t size;

	if (argc != 3)
		return 2;
	vchan = libvchan_client_init(number(argv[1]), number(argv[2]));
	if (!vchan)
		return 1; /* the library has said why, on stderr */
	while ((size = read(STDIN_FILENO, data, sizeof(data))) > 0) {
		if (libvchan_write(vchan, data, (size_t)size) != size ||
		    libvchan_recv(vchan, data, (size_t)size) != size) {
			perror("echo_client"); /* EPIPE, ECONNRESET: the server is gone */
			return 1;
		}
		fwrite(data, 1, (size_t)size, stdout);
		fflush(stdout);
	}
	libvchan_close(vchan);
	return 0;
}
