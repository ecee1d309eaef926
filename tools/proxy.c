/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock proxy: join channels and sockets, one new one for each that comes.
 *
 * A libvchan server serves one peer.  So when its client has come it becomes a connection
 * like an accepted socket, and a new server listens for the next client.
 *
 * libvchan_close would block while a peer does not read what is in the ring.  So here it is
 * told not to linger at all (VCHAN_VSOCK_LINGER_MS), and called when the ring is empty.
 */
#include "proxy.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"
#include "vchan/clock.h"
#include "vchan/config.h"

#define RING (64u << 10)
#define EVENTS 64
#define ACCEPTS 16                     /* in a row, then others have their turn */
#define COMPLAIN_EVERY (1 * CLOCK_S)
#define SAY_SHORT_EVERY (60 * CLOCK_S)
#define SERVE_AGAIN (1 * CLOCK_S)
#define FDS_BESIDE 24                  /* of a server that waits for its client, ... */
#define FDS_EACH 10                    /* of a connection from a vchan to a vchan */

/* ---- what is said ---- */

void proxy_tell(const struct proxy *proxy, const char *format, ...)
{
	char line[512];
	va_list args;

	if (!proxy->verbose)
		return;
	va_start(args, format);
	(void)vsnprintf(line, sizeof line, format, args);
	va_end(args);
	tool_say("%s", line);
}

static void say_what_was_held_back(struct complaints *c)
{
	if (c->held_back == 1)
		tool_say("%s", c->last);
	else if (c->held_back)
		tool_say("%s (and %u more like it)", c->last, c->held_back - 1);
	c->held_back = 0;
}

void proxy_complain(struct proxy *proxy, const char *format, ...)
{
	struct complaints *c = &proxy->complaints;
	int64_t now = clock_now();
	va_list args;

	va_start(args, format);
	(void)vsnprintf(c->last, sizeof c->last, format, args);
	va_end(args);
	c->held_back++;
	if (now < c->next_at && !proxy->verbose)
		return;
	say_what_was_held_back(c);
	c->next_at = now + COMPLAIN_EVERY;
}

void proxy_is_short(struct proxy *proxy, int err)
{
	int64_t now = clock_now();

	proxy->accept_at = now + PROXY_PAUSE;
	if (!proxy->short_said || now >= proxy->short_said + SAY_SHORT_EVERY)
		tool_say("nobody is let in for the moment: %s", tool_reason(err));
	proxy->short_said = now;
}

/* ---- who has something to do ---- */

void proxy_make_ready(struct pair *p)
{
	struct proxy *proxy = p->proxy;

	if (p->is_ready)
		return;
	p->is_ready = true;
	p->next_ready = NULL;
	*proxy->ready_end = p;
	proxy->ready_end = &p->next_ready;
}

void proxy_wake_at(struct pair *p, int64_t at)
{
	if (at < p->wake_at)
		p->wake_at = at;
	if (at < p->proxy->wake_at)
		p->proxy->wake_at = at;
}

static void wake_who_waited(struct proxy *proxy)
{
	int64_t now = clock_now();

	if (now < proxy->wake_at)
		return;
	proxy->wake_at = CLOCK_NEVER;
	for (struct pair *p = proxy->pairs; p; p = p->next) {
		if (p->wake_at <= now)
			proxy_make_ready(p);
		else
			proxy_wake_at(p, p->wake_at);
	}
}

/* Those that become ready meanwhile are for the next round. */
static void run_who_is_ready(struct proxy *proxy)
{
	struct pair *p = proxy->ready, *next;

	proxy->ready = NULL;
	proxy->ready_end = &proxy->ready;
	for (; p; p = next) {
		next = p->next_ready;
		p->is_ready = false;
		pair_run(p);
	}
}

/* ---- listening ---- */

static bool lets_in(const struct proxy *proxy)
{
	return !proxy->stopping && proxy->count < proxy->max &&
	       !(proxy->once && proxy->total) &&
	       (!proxy->accept_at || clock_now() >= proxy->accept_at);
}

static void listener_has_news(struct source *source, uint32_t events)
{
	struct listener *l = (struct listener *)source;

	(void)events;
	l->has_news = true;
	if (l->vchan)
		libvchan_wait(l->vchan); /* or the fd would stay readable */
}

/* 0; -1 and errno. */
static int watch(struct proxy *proxy, int op, int fd, bool on, struct source *source)
{
	struct epoll_event ev;

	memset(&ev, 0, sizeof ev);
	ev.events = on ? EPOLLIN : 0;
	ev.data.ptr = source;
	return epoll_ctl(proxy->epoll, op, fd, &ev);
}

static void close_server(struct listener *l)
{
	if (!l->vchan)
		return;
	watch(l->proxy, EPOLL_CTL_DEL, libvchan_fd_for_select(l->vchan), false, NULL);
	libvchan_close(l->vchan);
	l->vchan = NULL;
}

/* 0; -1 and errno. */
static int serve(struct listener *l)
{
	const struct endpoint *e = &l->proxy->from;

	l->vchan = libvchan_server_init(e->domain, e->port, RING, RING);
	if (!l->vchan)
		return -1;
	if (watch(l->proxy, EPOLL_CTL_ADD, libvchan_fd_for_select(l->vchan), true,
		  &l->source) < 0) {
		int err = errno;

		close_server(l);
		errno = err;
		return -1;
	}
	l->has_news = false;
	return 0;
}

static void serve_next(struct listener *l)
{
	struct proxy *proxy = l->proxy;

	if (serve(l) == 0)
		return;
	if (tool_is_shortage(errno)) {
		proxy_is_short(proxy, errno);
		return;
	}
	proxy_complain(proxy, "%s cannot be served now: %s", proxy->from.text,
		       tool_reason(errno));
	proxy->accept_at = clock_now() + SERVE_AGAIN;
}

/* A client has come, or never will: then its machine has gone, and may come again. */
static void let_client_in(struct listener *l)
{
	libvchan_t *vchan = l->vchan;
	int state = libvchan_is_open(vchan);

	l->has_news = false;
	if (state == VCHAN_WAITING)
		return;
	if (state == VCHAN_DISCONNECTED && libvchan_data_ready(vchan) == 0) {
		close_server(l);
		return;
	}
	watch(l->proxy, EPOLL_CTL_DEL, libvchan_fd_for_select(vchan), false, NULL);
	l->vchan = NULL;
	pair_begin(l->proxy, -1, vchan);
}

static void accept_vchans(struct listener *l)
{
	if (l->vchan && l->has_news)
		let_client_in(l);
	if (!l->vchan && lets_in(l->proxy))
		serve_next(l);
}

/* False: nobody more, now. */
static bool accept_socket(struct listener *l)
{
	int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		pair_begin(l->proxy, fd, NULL);
		return true;
	}
	if (tool_is_shortage(errno))
		proxy_is_short(l->proxy, errno);
	/* Others are those of a connection that has failed already. */
	return errno != EAGAIN && !tool_is_shortage(errno);
}

static void accept_sockets(struct listener *l)
{
	bool on;

	for (int i = 0; l->has_news && i < ACCEPTS && lets_in(l->proxy); i++)
		l->has_news = accept_socket(l);
	/* Who is not let in waits in the kernel, and shall not wake us. */
	l->has_news = false;
	on = lets_in(l->proxy);
	if (on != l->watched && watch(l->proxy, EPOLL_CTL_MOD, l->fd, on, &l->source) == 0)
		l->watched = on;
}

static void let_in(struct proxy *proxy)
{
	if (proxy->accept_at && clock_now() >= proxy->accept_at)
		proxy->accept_at = 0;
	for (unsigned i = 0; i < proxy->listener_count; i++) {
		struct listener *l = &proxy->listeners[i];

		if (l->fd >= 0)
			accept_sockets(l);
		else if (proxy->from.kind == ENDPOINT_VCHAN && lets_in(proxy))
			accept_vchans(l);
	}
}

static void init_listener(struct proxy *proxy, struct listener *l)
{
	l->source.ready = listener_has_news;
	l->proxy = proxy;
	l->fd = -1;
}

/* Only what is still the file that we have made. */
static void remove_file(struct proxy *proxy)
{
	const char *path = endpoint_file(&proxy->from);
	struct stat st;

	if (proxy->has_file && lstat(path, &st) == 0 && st.st_dev == proxy->file_device &&
	    st.st_ino == proxy->file_inode)
		unlink(path);
	proxy->has_file = false;
}

static void stop_listening(struct proxy *proxy)
{
	remove_file(proxy);
	for (unsigned i = 0; i < proxy->listener_count; i++) {
		struct listener *l = &proxy->listeners[i];

		close_server(l);
		if (l->fd >= 0)
			close(l->fd);
		l->fd = -1;
	}
	proxy->listener_count = 0;
}

static void note_file(struct proxy *proxy)
{
	const char *path = endpoint_file(&proxy->from);
	struct stat st;

	if (!path || lstat(path, &st) < 0)
		return;
	proxy->has_file = true;
	proxy->file_device = st.st_dev;
	proxy->file_inode = st.st_ino;
}

static const char *why_not_listen(int err)
{
	switch (err) {
	case EADDRINUSE:
		return "somebody listens there already";
	case EEXIST:
		return "another file is there; remove it, or choose another name";
	default:
		return tool_reason(err);
	}
}

static bool cannot_listen(struct proxy *proxy, int err)
{
	tool_failed("cannot listen at %s: %s", proxy->from.text, why_not_listen(err));
	stop_listening(proxy);
	return false;
}

static int listen_at(struct proxy *proxy, unsigned which)
{
	struct listener *l = &proxy->listeners[proxy->listener_count];
	char name[128];

	init_listener(proxy, l);
	l->fd = endpoint_listen(&proxy->from, which, proxy->mode);
	if (l->fd < 0)
		return -1;
	proxy->listener_count++;
	note_file(proxy);
	if (watch(proxy, EPOLL_CTL_ADD, l->fd, true, &l->source) < 0)
		return -1;
	l->watched = true;
	proxy_tell(proxy, "listening at %s",
		   endpoint_name_of(l->fd, &proxy->from, name, sizeof name));
	return 0;
}

/* At all addresses that the name has here, of which some kinds may not be there. */
static bool listen_with_sockets(struct proxy *proxy)
{
	int err = 0;

	for (unsigned i = 0; i < proxy->from.count; i++) {
		if (listen_at(proxy, i) == 0)
			continue;
		if (errno != EADDRNOTAVAIL && errno != EAFNOSUPPORT)
			return cannot_listen(proxy, errno);
		err = errno;
	}
	return proxy->listener_count || cannot_listen(proxy, err);
}

static bool listen_with_vchan(struct proxy *proxy)
{
	struct listener *l = &proxy->listeners[0];

	init_listener(proxy, l);
	proxy->listener_count = 1;
	if (serve(l) < 0)
		return cannot_listen(proxy, errno);
	proxy_tell(proxy, "listening at %s", proxy->from.text);
	return true;
}

static bool start_listening(struct proxy *proxy)
{
	return proxy->from.kind == ENDPOINT_VCHAN ? listen_with_vchan(proxy) :
						    listen_with_sockets(proxy);
}

/* ---- the end ---- */

static void stop(struct proxy *proxy)
{
	struct listener *l = &proxy->listeners[0];

	/* Whose channel is open has perhaps said something already. */
	if (proxy->listener_count && l->vchan)
		let_client_in(l);
	proxy->stopping = true;
	proxy->stop_at = clock_now() + proxy->drain;
	stop_listening(proxy);
	proxy_tell(proxy, "stopping; %lu connection%s may go on for %.0f s", proxy->count,
		   proxy->count == 1 ? "" : "s", (double)proxy->drain / CLOCK_S);
}

static void signal_has_come(struct source *source, uint32_t events)
{
	struct proxy *proxy = (struct proxy *)((char *)source - offsetof(struct proxy, signals));
	struct signalfd_siginfo info;

	(void)events;
	while (read(proxy->signal_fd, &info, sizeof info) == sizeof info) {
		if (proxy->stopping)
			proxy->at_once = true;
		else
			stop(proxy);
	}
}

static void cut_off_all(struct proxy *proxy)
{
	struct pair *next;

	if (proxy->count)
		tool_say("%lu connection%s cut off", proxy->count,
			 proxy->count == 1 ? "" : "s");
	for (struct pair *p = proxy->pairs; p; p = next) {
		next = p->next;
		pair_cut_off(p);
	}
}

/* ---- the loop ---- */

static bool is_over(const struct proxy *proxy)
{
	if (proxy->once && proxy->total && !proxy->count)
		return true;
	return proxy->stopping &&
	       (!proxy->count || proxy->at_once || clock_now() >= proxy->stop_at);
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* ms, for epoll_wait. */
static int time_to_sleep(const struct proxy *proxy)
{
	int64_t until = proxy->wake_at, left;

	if (proxy->ready)
		return 0;
	if (proxy->accept_at)
		until = earlier(until, proxy->accept_at);
	if (proxy->complaints.held_back)
		until = earlier(until, proxy->complaints.next_at);
	if (proxy->stopping)
		until = earlier(until, proxy->stop_at);
	if (until == CLOCK_NEVER)
		return -1;
	left = (until - clock_now()) / CLOCK_MS + 1;
	if (left < 0)
		return 0;
	return left < INT32_MAX ? (int)left : INT32_MAX;
}

static void run_round(struct proxy *proxy)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(proxy->epoll, events, EVENTS, time_to_sleep(proxy));

	/* Nothing is freed while there are news of it. */
	for (int i = 0; i < n; i++) {
		struct source *source = events[i].data.ptr;

		source->ready(source, events[i].events);
	}
	wake_who_waited(proxy);
	run_who_is_ready(proxy);
	let_in(proxy);
	if (proxy->once && proxy->total)
		stop_listening(proxy);
	if (proxy->complaints.held_back && clock_now() >= proxy->complaints.next_at)
		say_what_was_held_back(&proxy->complaints);
}

static int serve_all(struct proxy *proxy)
{
	if (!start_listening(proxy))
		return TOOL_FAILED;
	while (!is_over(proxy))
		run_round(proxy);
	stop_listening(proxy);
	cut_off_all(proxy);
	say_what_was_held_back(&proxy->complaints);
	return proxy->once && proxy->failed ? TOOL_FAILED : TOOL_OK;
}

/* ---- the beginning ---- */

/* False: said why.  Before there is any other thread. */
static bool read_environment(struct proxy *proxy)
{
	struct log log = { LOG_ERROR, "vchan-vsock proxy" };
	struct config config;

	if (config_read(&config, &log) < 0)
		return false;
	proxy->linger = config.linger_ms * CLOCK_MS;
	setenv("VCHAN_VSOCK_LINGER_MS", "0", 1);
	/* We say it ourselves. */
	setenv("VCHAN_VSOCK_LOG", "none", 0);
	return true;
}

/* Who is let in shall not lack the fds to be connected: then he waits in the kernel. */
static void heed_fd_limit(struct proxy *proxy)
{
	struct rlimit limit;
	uint64_t most;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (limit.rlim_cur != limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		getrlimit(RLIMIT_NOFILE, &limit);
	}
	most = limit.rlim_cur > FDS_BESIDE ? (limit.rlim_cur - FDS_BESIDE) / FDS_EACH : 0;
	if (most >= proxy->max)
		return;
	proxy->max = most > 1 ? most : 1;
	proxy_tell(proxy, "a limit of %lu fds (ulimit -n) allows %lu connections at once",
		   (unsigned long)limit.rlim_cur, (unsigned long)proxy->max);
}

static int open_loop(struct proxy *proxy)
{
	sigset_t ours;

	proxy->ready_end = &proxy->ready;
	proxy->wake_at = CLOCK_NEVER;
	proxy->signals.ready = signal_has_come;
	sigemptyset(&ours);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ours, NULL);
	proxy->signal_fd = signalfd(-1, &ours, SFD_NONBLOCK | SFD_CLOEXEC);
	if (proxy->signal_fd < 0)
		return -1;
	proxy->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (proxy->epoll < 0)
		return -1;
	return watch(proxy, EPOLL_CTL_ADD, proxy->signal_fd, true, &proxy->signals);
}

static void close_loop(const struct proxy *proxy)
{
	if (proxy->epoll >= 0)
		close(proxy->epoll);
	if (proxy->signal_fd >= 0)
		close(proxy->signal_fd);
}

static int run_proxy(struct proxy *proxy)
{
	int status;

	if (!read_environment(proxy) || !endpoint_resolve(&proxy->from) ||
	    !endpoint_resolve(&proxy->to))
		return TOOL_FAILED;
	heed_fd_limit(proxy);
	if (open_loop(proxy) < 0)
		status = tool_failed("cannot start: %s", tool_reason(errno));
	else
		status = serve_all(proxy);
	close_loop(proxy);
	return status;
}

/* ---- the command line ---- */

enum { MAX = 1, ONCE, MODE, TIMEOUT, DRAIN, NO_HALF_CLOSE, VERBOSE };

static bool parse_mode(const char *text, int *mode)
{
	size_t digits = strspn(text, "01234567");

	if (digits == 0 || digits > 4 || text[digits] || strtol(text, NULL, 8) > 0777) {
		tool_usage("--mode: \"%s\" is not an octal mode up to 777, as 660", text);
		return false;
	}
	*mode = (int)strtol(text, NULL, 8);
	return true;
}

static bool parse_seconds(const char *what, const char *text, uint64_t least, int64_t *ns)
{
	uint64_t seconds;

	if (!tool_number(what, text, least, 1000000, &seconds))
		return false;
	*ns = (int64_t)seconds * CLOCK_S;
	return true;
}

static bool take_option(void *to, int option)
{
	struct proxy *proxy = to;

	switch (option) {
	case MAX:
		return tool_number("--max", optarg, 1, 1000000, &proxy->max);
	case MODE:
		return parse_mode(optarg, &proxy->mode);
	case TIMEOUT:
		return parse_seconds("--timeout", optarg, 1, &proxy->timeout);
	case DRAIN:
		return parse_seconds("--drain", optarg, 0, &proxy->drain);
	case ONCE:
		proxy->once = true;
		return true;
	case NO_HALF_CLOSE:
		proxy->no_half_close = true;
		return true;
	case VERBOSE:
		proxy->verbose = true;
		return true;
	default:
		return false;
	}
}

static bool take_endpoints(struct proxy *proxy, int argc, char **argv)
{
	if (argc - optind != 2) {
		tool_usage("it wants two endpoints: LISTEN and CONNECT");
		return false;
	}
	if (!endpoint_parse(argv[optind], true, &proxy->from) ||
	    !endpoint_parse(argv[optind + 1], false, &proxy->to))
		return false;
	if (proxy->mode >= 0 && !endpoint_file(&proxy->from)) {
		tool_usage("--mode is for listening at unix:PATH");
		return false;
	}
	return true;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "max", required_argument, NULL, MAX },
		{ "once", no_argument, NULL, ONCE },
		{ "mode", required_argument, NULL, MODE },
		{ "timeout", required_argument, NULL, TIMEOUT },
		{ "drain", required_argument, NULL, DRAIN },
		{ "no-half-close", no_argument, NULL, NO_HALF_CLOSE },
		{ "verbose", no_argument, NULL, VERBOSE },
		TOOL_HELP_OPTION,
		{ NULL, 0, NULL, 0 },
	};
	static struct proxy proxy = {
		.max = 256, .timeout = 10 * CLOCK_S, .drain = 5 * CLOCK_S, .mode = -1,
		.epoll = -1, .signal_fd = -1,
	};
	int status = tool_options(argc, argv, "+:h", options, take_option, &proxy);

	if (status != TOOL_GO_ON)
		return status;
	return take_endpoints(&proxy, argc, argv) ? run_proxy(&proxy) : TOOL_USAGE;
}

const struct command command_proxy = {
	"proxy", "join channels and sockets, one new one for each that comes",
	"usage: vchan-vsock proxy [options] LISTEN CONNECT\n"
	"\n"
	"Listens at LISTEN and, for each connection that comes there, connects to CONNECT\n"
	"and carries bytes both ways.  Either is one of\n"
	"\n"
	"  unix:PATH, unix:@NAME    a Unix stream socket; @NAME is an abstract one\n"
	"  tcp:HOST:PORT            tcp:[::1]:80, tcp:localhost:80; tcp:*:80 listens at all\n"
	"                           addresses.  Names are looked up once, at the beginning\n"
	"  vsock:CID:PORT           a plain vsock socket; CID: a number, any, local or host\n"
	"  vchan:DOMAIN:PORT        a vchan; DOMAIN: the peer's CID, or host\n"
	"\n"
	"  --max N           so many connections at once, 256; others wait\n"
	"  --once            serve one connection; the exit status says whether it was made\n"
	"                    and not broken off\n"
	"  --mode OCTAL      of the Unix socket to listen at; else the umask decides\n"
	"  --timeout SECONDS how long a connect may take, 10\n"
	"  --drain SECONDS   after SIGTERM or SIGINT connections may go on so long, 5;\n"
	"                    a second signal ends them at once\n"
	"  --no-half-close   a socket's end of sending ends its connection\n"
	"  --verbose         a line for each connection\n"
	"\n"
	"When one side ends, what it has sent is delivered, however long that takes.  A\n"
	"socket's end of sending (a half-close) is passed on to a socket.  A vchan has no such\n"
	"thing: it is kept for what its own side still has to send, and closed when that ends,\n"
	"too, or when the socket is closed altogether.  TCP does not tell a half-close from a\n"
	"close: that of a TCP server is taken for a close; after that of a TCP client the vchan\n"
	"is kept for the reply, a minute or two at most if the client has closed indeed.  So a\n"
	"request that ends with a half-close gets its reply, unless the server waits for that\n"
	"end: with --no-half-close it sees it, and there is no reply.  File descriptors are not\n"
	"passed on.\n"
	"\n"
	"Whoever does not read holds up only his own peer.  A connection takes at most 64 KiB\n"
	"each way here, and of a vchan, in its rings, 1 MiB in and 128 KiB out, or what a server\n"
	"that it is connected to has asked for.\n"
	"\n"
	"Programs of guest 42 on the host's X display, first in the guest, then on the host:\n"
	"\n"
	"  vchan-vsock proxy unix:/tmp/.X11-unix/X0 vchan:host:6000\n"
	"  vchan-vsock proxy vchan:42:6000 unix:/tmp/.X11-unix/X0\n",
	run,
};
