/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* As sd_notify(3) has it: a datagram to a path, or with '@' to an abstract name. */
void relay_notify(const char *state)
{
	const char *place = getenv("NOTIFY_SOCKET");
	size_t length = place ? strlen(place) : 0;
	struct sockaddr_un a;
	int fd;

	memset(&a, 0, sizeof a);
	a.sun_family = AF_UNIX;
	if (length < 2 || length >= sizeof a.sun_path)
		return;
	memcpy(a.sun_path, place, length);
	if (a.sun_path[0] == '@')
		a.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	/* Who does not listen starts us again later. */
	(void)sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
		     (const struct sockaddr *)&a,
		     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
	close(fd);
}
