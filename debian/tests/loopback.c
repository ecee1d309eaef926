/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server, and a client that gets back what it has sent. */
#include <libvchan.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVER 7
#define CLIENT 8
#define PORT 513
#define SIZE 1000

static int serve(libvchan_t *vchan)
{
	char data[SIZE];

	return !vchan || libvchan_recv(vchan, data, SIZE) != SIZE ||
	       libvchan_send(vchan, data, SIZE) != SIZE;
}

static int connect_and_ask(void)
{
	libvchan_t *vchan;
	char question[SIZE], answer[SIZE];

	memset(question, 'q', SIZE);
	setenv("VCHAN_DOMAIN", "8", 1);
	vchan = libvchan_client_init(SERVER, PORT);
	return !vchan || libvchan_send(vchan, question, SIZE) != SIZE ||
	       libvchan_recv(vchan, answer, SIZE) != SIZE ||
	       memcmp(question, answer, SIZE) != 0;
}

int main(void)
{
	int status, failed;
	pid_t child = fork();

	if (child == 0)
		return connect_and_ask();
	setenv("VCHAN_DOMAIN", "7", 1);
	libvchan_t *vchan = libvchan_server_init(CLIENT, PORT, SIZE, SIZE);

	failed = serve(vchan);
	libvchan_close(vchan);
	return failed || waitpid(child, &status, 0) != child || status != 0;
}
