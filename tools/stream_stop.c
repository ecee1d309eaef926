/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_stop.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int event = -1;
static volatile sig_atomic_t came;

static void note(int signo)
{
	const uint64_t one = 1;
	int err = errno;

	if (signo != SIGCHLD)
		came = signo;
	/* If it cannot be written it is readable already. */
	(void)!write(event, &one, sizeof one);
	errno = err;
}

/* Not for one that is ignored: whoever started us wanted that, as nohup does. */
static void take(int signo, int flags)
{
	struct sigaction action = { .sa_handler = note, .sa_flags = flags };
	struct sigaction before;

	sigemptyset(&action.sa_mask);
	if (sigaction(signo, NULL, &before) == 0 && before.sa_handler == SIG_IGN &&
	    signo != SIGCHLD)
		return;
	sigaction(signo, &action, NULL);
}

int stop_begin(void)
{
	static const int stoppers[] = { SIGINT, SIGTERM, SIGHUP };

	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (event < 0)
		return -1;
	for (size_t i = 0; i < sizeof stoppers / sizeof *stoppers; i++)
		take(stoppers[i], (int)SA_RESETHAND);
	take(SIGCHLD, SA_NOCLDSTOP);
	return event;
}

void stop_clear(void)
{
	uint64_t count;

	if (!came && read(event, &count, sizeof count) < 0)
		return;
	/* One that came in between is to be seen all the same. */
	if (came)
		note(came);
}

int stop_signal(void)
{
	return came;
}

void stop_now(void)
{
	if (!came)
		return;
	signal(came, SIG_DFL);
	raise(came);
}
