/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay_daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay_channel.h"
#include "relay_file.h"
#include "relay_log.h"
#include "relay_notify.h"
#include "tool.h"
#include "vchan/clock.h"
#include "vchan/fd.h"
#include "vchan/vsock.h"

#define QUEUE 128
#define ACCEPTS 32 /* in a row, before others have their turn */
#define EVENTS 128
#define REST (100 * CLOCK_MS) /* after accept failed for what time may mend */
/* Besides two for each channel: one for each unfinished request, and a few. */
#define OTHER_FDS (1024 + 32)

struct daemon {
	struct relay relay;
	const struct relay_options *options;
	int listener, signals;
	struct watch listening, signalled;
	int64_t now, listen_again_at, stop_at;
	bool stopping, at_once;
};

/* ---- lines ---- */

static void say(enum priority priority, const char *event, const char *key, const char *text)
{
	struct entry e;

	relay_log(&e, priority, SAY_ALWAYS, event);
	if (key)
		relay_log_text(&e, key, text);
	relay_log_end(&e);
}

static void say_number(enum priority priority, const char *event, const char *key,
		       uint64_t number)
{
	struct entry e;

	relay_log(&e, priority, SAY_ALWAYS, event);
	relay_log_number(&e, key, number);
	relay_log_end(&e);
}

static void say_faults(const char *path, const struct relay_faults *faults)
{
	int err = errno;
	char where[512];
	struct entry e;

	for (size_t i = 0; i < faults->shown; i++) {
		(void)snprintf(where, sizeof where, "%s:%u:%u", path, faults->list[i].line,
			       faults->list[i].column);
		relay_log(&e, SAY_ERROR, SAY_ALWAYS, "policy-fault");
		relay_log_text(&e, "at", where);
		relay_log_text(&e, "why", faults->list[i].what);
		relay_log_end(&e);
	}
	if (faults->shown)
		return;
	relay_log(&e, SAY_ERROR, SAY_ALWAYS, "policy-fault");
	relay_log_text(&e, "at", path);
	relay_log_text(&e, "why", strerror(err));
	relay_log_end(&e);
}

/* ---- the policy ---- */

/* False: the one that we have stays. */
static bool read_policy(struct daemon *d, const char *event)
{
	struct relay_faults faults;
	struct policy *policy = relay_file_read(d->options->policy, &faults);
	struct entry e;

	if (!policy) {
		say_faults(d->options->policy, &faults);
		return false;
	}
	policy_free(d->relay.policy);
	d->relay.policy = policy;
	relay_log(&e, SAY_NOTICE, SAY_ALWAYS, event);
	relay_log_text(&e, "file", d->options->policy);
	relay_log_number(&e, "rules", policy_rules(policy));
	relay_log_end(&e);
	return true;
}

static void reload(struct daemon *d)
{
	char state[64];

	(void)snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%lld",
		       (long long)(clock_now() / CLOCK_US));
	relay_notify(state);
	if (!read_policy(d, "policy-read"))
		say(SAY_ERROR, "policy-kept", "why", "the file is bad; the old policy is in force");
	relay_notify("READY=1");
}

/* ---- signals, and the end ---- */

static void close_listener(struct daemon *d)
{
	if (d->listener >= 0)
		close(d->listener);
	d->listener = -1;
	d->listen_again_at = CLOCK_NEVER;
}

static void begin_to_stop(struct daemon *d)
{
	if (d->stopping) {
		d->at_once = true;
		return;
	}
	d->stopping = true;
	d->stop_at = clock_now() + d->options->drain_s * CLOCK_S;
	relay_notify("STOPPING=1");
	close_listener(d);
	channels_stop(&d->relay, false, "stopping");
	say_number(SAY_NOTICE, "stopping", "channels", d->relay.count);
}

static void take_signals(struct daemon *d)
{
	struct signalfd_siginfo info;

	while (read(d->signals, &info, sizeof info) == (ssize_t)sizeof info)
		if (info.ssi_signo == SIGHUP)
			reload(d);
		else
			begin_to_stop(d);
}

/* ---- guests come ---- */

static int watch_listener(struct daemon *d, int op)
{
	struct epoll_event e;

	memset(&e, 0, sizeof e);
	e.events = EPOLLIN;
	e.data.ptr = &d->listening;
	return epoll_ctl(d->relay.epoll, op, d->listener, &e);
}

/* Out of fds, most likely, with guests in the queue: epoll would return at once. */
static void rest(struct daemon *d)
{
	struct entry e;

	relay_log(&e, SAY_ERROR, SAY_STRANGERS, "accept-failed");
	relay_log_text(&e, "why", strerror(errno));
	relay_log_end(&e);
	(void)watch_listener(d, EPOLL_CTL_DEL);
	d->listen_again_at = clock_now() + REST;
}

static void listen_again(struct daemon *d, int64_t now)
{
	if (now < d->listen_again_at)
		return;
	d->listen_again_at = watch_listener(d, EPOLL_CTL_ADD) == 0 ? CLOCK_NEVER : now + REST;
}

static void accept_some(struct daemon *d)
{
	uint32_t cid, port;

	for (int i = 0; i < ACCEPTS; i++) {
		int fd = vsock_accept(d->listener, &cid, &port);

		if (fd >= 0) {
			channel_accepted(&d->relay, fd, cid, port);
			continue;
		}
		if (tool_is_shortage(errno))
			rest(d);
		return;
	}
}

/* ---- the loop ---- */

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int timeout_ms(const struct daemon *d)
{
	int64_t at = earlier(d->relay.tick_at, relay_log_due());

	if (d->relay.queue)
		return 0;
	at = earlier(at, d->listen_again_at);
	at = earlier(at, d->stop_at);
	if (at == CLOCK_NEVER)
		return -1;
	/* Up, so as not to wake early and find nothing to do. */
	return d->now >= at ? 0 : (int)((at - d->now + CLOCK_MS - 1) / CLOCK_MS);
}

static void take_event(struct daemon *d, const struct epoll_event *e)
{
	const struct watch *w = e->data.ptr;

	if (w->channel)
		channel_event(&d->relay, w, e->events);
	else if (w == &d->signalled)
		take_signals(d);
	else if (d->listener >= 0)
		accept_some(d);
}

/* Some milliseconds late at times, and so cheap that each message can have a look. */
static int64_t rough_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (int64_t)t.tv_sec * CLOCK_S + t.tv_nsec + 1;
}

static void look_at_clock(struct daemon *d)
{
	int64_t now = d->now = rough_now();

	if (now >= d->relay.tick_at)
		channels_tick(&d->relay, now);
	listen_again(d, now);
	relay_log_tick(now);
	if (now >= d->stop_at)
		d->at_once = true;
}

static int loop(struct daemon *d)
{
	struct epoll_event events[EVENTS];

	while (!d->at_once && !(d->stopping && !d->relay.count)) {
		int n = epoll_wait(d->relay.epoll, events, EVENTS, timeout_ms(d));

		if (n < 0 && errno != EINTR) {
			say(SAY_ERROR, "failed", "why", strerror(errno));
			return TOOL_FAILED;
		}
		for (int i = 0; i < n; i++)
			take_event(d, &events[i]);
		channels_turn(&d->relay);
		look_at_clock(d);
	}
	return TOOL_OK;
}

/* ---- the beginning ---- */

static void raise_fd_limit(const struct relay_options *options)
{
	rlim_t wanted = 2 * (rlim_t)options->limits.total + OTHER_FDS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
		return;
	limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < wanted)
		say_number(SAY_WARNING, "few-files", "wanted", wanted);
}

static int listen_on_port(struct daemon *d)
{
	uint32_t port = d->options->port;
	int fd = vsock_socket(d->relay.config.buffer_size);

	d->listener = fd;
	if (fd < 0)
		return tool_failed("no vsock socket: %s", tool_reason(errno));
	if (vsock_listen(fd, VMADDR_CID_ANY, port, QUEUE) == 0)
		return TOOL_OK;
	if (errno == EACCES || errno == EPERM)
		return tool_failed("vsock port %u: %s: ports below 1024 take CAP_NET_BIND_SERVICE; "
				   "be root, or have the service manager give it "
				   "(AmbientCapabilities=)", port, strerror(errno));
	if (errno == EADDRINUSE)
		return tool_failed("vsock port %u is in use: does another relay run? "
				   "ss --vsock -lp shows which", port);
	return tool_failed("vsock port %u: %s", port, tool_reason(errno));
}

/* Channels come from such ports, too, so that it is better known now. */
static int try_a_low_port(struct daemon *d)
{
	int fd = vsock_socket(d->relay.config.buffer_size), ret, err;
	uint32_t port;

	if (fd < 0)
		return tool_failed("no vsock socket: %s", tool_reason(errno));
	ret = ports_bind(fd, false, false, &port);
	err = errno;
	close(fd);
	if (ret < 0)
		return tool_failed("no vsock port below 1024 to connect from: %s%s", strerror(err),
				   err == EACCES ? ": it takes CAP_NET_BIND_SERVICE; be root, or "
				   "have the service manager give it (AmbientCapabilities=)" : "");
	ports_release(port, 0, 0, 0);
	return TOOL_OK;
}

static int watch_signals(struct daemon *d)
{
	struct epoll_event e;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	memset(&e, 0, sizeof e);
	e.events = EPOLLIN;
	e.data.ptr = &d->signalled;
	d->signals = fd_above_standard(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
	d->relay.epoll = fd_above_standard(epoll_create1(EPOLL_CLOEXEC));
	if (d->signals < 0 || d->relay.epoll < 0 ||
	    epoll_ctl(d->relay.epoll, EPOLL_CTL_ADD, d->signals, &e) < 0)
		return tool_failed("epoll and signalfd: %s", strerror(errno));
	return TOOL_OK;
}

static int begin(struct daemon *d)
{
	struct log log = { LOG_ERROR, "relay" };
	int status;

	if (config_read(&d->relay.config, &log) < 0)
		return TOOL_FAILED; /* it has said why */
	if (!read_policy(d, "policy-read"))
		return TOOL_FAILED;
	status = watch_signals(d);
	if (status == TOOL_OK)
		status = listen_on_port(d);
	if (status == TOOL_OK)
		status = try_a_low_port(d);
	if (status == TOOL_OK && watch_listener(d, EPOLL_CTL_ADD) < 0)
		status = tool_failed("epoll: %s", strerror(errno));
	return status;
}

static void end(struct daemon *d)
{
	channels_stop(&d->relay, true, "stopped");
	while (d->relay.queue)
		channels_turn(&d->relay);
	close_listener(d);
	if (d->signals >= 0)
		close(d->signals);
	if (d->relay.epoll >= 0)
		close(d->relay.epoll);
	policy_free(d->relay.policy);
	relay_log_tick(CLOCK_NEVER - 1);
}

int relay_daemon(const struct relay_options *options)
{
	static struct daemon d;
	int status;

	d.options = options;
	d.listener = d.signals = d.relay.epoll = -1;
	d.relay.limits = options->limits;
	d.relay.queue_end = &d.relay.queue;
	d.relay.tick_at = d.listen_again_at = d.stop_at = CLOCK_NEVER;
	d.now = clock_now();
	relay_log_begin(options->json);
	raise_fd_limit(options);
	status = begin(&d);
	if (status == TOOL_OK) {
		say_number(SAY_NOTICE, "listening", "vsock_port", options->port);
		relay_notify("READY=1");
		status = loop(&d);
		say_number(SAY_NOTICE, "stopped", "channels", d.relay.count);
	}
	end(&d);
	return status;
}
