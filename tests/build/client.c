/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the installed library, in C99 and in C++: every function, with
 * arguments that are refused before any vsock is touched.
 */
#include <errno.h>
#include <libvchan.h>
#include <stdio.h>

static int failures;

static void expect(const char *what, int right)
{
	if (!right) {
		fprintf(stderr, "%s: errno %d\n", what, errno);
		failures++;
	}
	errno = 0;
}

int main(void)
{
	EVTCHN fd;
	char byte = 0;

	errno = 0;
	expect("server_init", !libvchan_server_init(-1, 1, 0, 0) && errno == EINVAL);
	expect("client_init", !libvchan_client_init(-1, 1) && errno == EINVAL);
	expect("client_init_async",
	       !libvchan_client_init_async(-1, 1, &fd) && errno == EINVAL);
	expect("finish", libvchan_client_init_async_finish(NULL, true) == -1 &&
				 errno == EINVAL);
	expect("write", libvchan_write(NULL, &byte, 1) == -1 && errno == EINVAL);
	expect("send", libvchan_send(NULL, &byte, 1) == -1 && errno == EINVAL);
	expect("read", libvchan_read(NULL, &byte, 1) == -1 && errno == EINVAL);
	expect("recv", libvchan_recv(NULL, &byte, 1) == -1 && errno == EINVAL);
	expect("wait", libvchan_wait(NULL) == -1 && errno == EINVAL);
	expect("fd_for_select",
	       libvchan_fd_for_select(NULL) == -1 && errno == EINVAL);
	/* What these three return for NULL is the contract tests' affair. */
	libvchan_is_open(NULL);
	libvchan_data_ready(NULL);
	libvchan_buffer_space(NULL);
	libvchan_set_blocking(NULL, true);
	libvchan_close(NULL);

	puts(failures ? "wrong" : "right");
	return failures != 0;
}
