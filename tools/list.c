/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vchan-vsock list: the channels of this machine, and who has them.
 *
 * The kernel's list of vsock sockets (diag.h), what each of them is by its addresses
 * (channels.h), and which process has it (holders.h).
 */
#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/sockios.h>
#include <linux/vm_sockets.h>

#include "channels.h"
#include "diag.h"
#include "holders.h"
#include "json.h"
#include "vchan/address.h"
#include "vchan/config.h"
#include "vchan/vsock.h"

struct row {
	struct channel channel;
	struct holder holder;
	int unread, unsent; /* bytes in the kernel; -1: it does not tell */
};

struct table {
	struct row *rows;
	size_t count;
	bool queues, all, json;
	bool hidden; /* some processes may not be looked at */
};

/* ---- what there is ---- */

static int read_rules(struct channel_rules *rules)
{
	struct log log = { LOG_ERROR, "list" };
	struct config config;

	memset(rules, 0, sizeof *rules);
	if (config_read(&config, &log) < 0) {
		if (log.level == LOG_NONE) /* else it has said which */
			tool_say("a VCHAN_ variable does not parse; vchan-vsock doctor "
				 "says which");
		return TOOL_FAILED;
	}
	rules->loopback = config.loopback;
	rules->port_base = config.port_base;
	rules->relay_port = config.relay_port;
	/* Where there is none nothing is listed, either. */
	(void)vsock_local_cid(&rules->kernel_cid);
	rules->own_cid = config.has_domain ? address_cid(config.domain) : rules->kernel_cid;
	return TOOL_OK;
}

static int by_channel(const void *left, const void *right)
{
	const struct row *a = left, *b = right;

	return channel_compare(&a->channel, &b->channel);
}

static int fill_rows(struct table *table, const struct diag_sockets *sockets,
		     const struct channel_rules *rules)
{
	/* One more, so that none is not NULL. */
	table->rows = calloc(sockets->count + 1, sizeof *table->rows);
	if (!table->rows)
		return tool_failed("%s", strerror(ENOMEM));
	for (size_t i = 0; i < sockets->count; i++) {
		struct row row = { channel_of(&sockets->sockets[i], rules), { 0 }, -1, -1 };

		if (table->all || row.channel.role != CHANNEL_NONE)
			table->rows[table->count++] = row;
	}
	qsort(table->rows, table->count, sizeof *table->rows, by_channel);
	return TOOL_OK;
}

static struct holder *holder_of(uint32_t inode, struct holder *holders, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (inode && holders[i].inode == inode)
			return &holders[i];
	return NULL;
}

static int find_holders(struct table *table)
{
	struct holder *holders = calloc(table->count + 1, sizeof *holders);

	if (!holders)
		return tool_failed("%s", strerror(ENOMEM));
	for (size_t i = 0; i < table->count; i++)
		holders[i].inode = table->rows[i].channel.socket.inode;
	table->hidden = table->count && holders_find(holders, table->count);
	for (size_t i = 0; i < table->count; i++) {
		struct row *row = &table->rows[i];
		const struct holder *h = holder_of(row->channel.socket.inode, holders,
						   table->count);

		if (h)
			row->holder = *h;
	}
	free(holders);
	return TOOL_OK;
}

static int queue(int fd, unsigned long request)
{
	int bytes;

	return ioctl(fd, request, &bytes) == 0 && bytes >= 0 ? bytes : -1;
}

static bool is_socket(int fd, uint32_t inode)
{
	struct stat st;

	/* Its process may have closed it meanwhile, and opened something else. */
	return fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == inode;
}

/* Through a copy of its fd, which is gone at once. */
static void ask_for_queues(struct row *row)
{
	int process, fd;

	if (!row->holder.pid || row->channel.socket.state == DIAG_LISTENING)
		return;
	process = (int)syscall(SYS_pidfd_open, row->holder.pid, 0);
	if (process < 0)
		return;
	fd = (int)syscall(SYS_pidfd_getfd, process, row->holder.fd, 0);
	if (is_socket(fd, row->channel.socket.inode)) {
		row->unread = queue(fd, SIOCINQ);
		row->unsent = queue(fd, SIOCOUTQ);
	}
	if (fd >= 0)
		close(fd);
	close(process);
}

/* One server waits at two ports; that is one line.  They lie side by side. */
static void join_servers(struct table *table)
{
	size_t kept = 0;

	for (size_t i = 0; i < table->count; i++) {
		struct row *last = kept ? &table->rows[kept - 1] : NULL;
		struct row *row = &table->rows[i];

		if (last && channel_is_same_server(&last->channel, &row->channel) &&
		    last->holder.pid == row->holder.pid)
			last->channel.wires |= row->channel.wires;
		else
			table->rows[kept++] = *row;
	}
	table->count = kept;
}

static int read_table(struct table *table, const struct channel_rules *rules, size_t *others)
{
	struct diag_sockets sockets;
	const char *why = diag_read(&sockets);
	int status = why ? tool_failed("%s", why) : fill_rows(table, &sockets, rules);

	*others = sockets.count - table->count;
	diag_free(&sockets);
	if (status != TOOL_OK || find_holders(table) != TOOL_OK)
		return TOOL_FAILED;
	join_servers(table);
	for (size_t i = 0; table->queues && i < table->count; i++)
		ask_for_queues(&table->rows[i]);
	return TOOL_OK;
}

/* ---- in words ---- */

static const char *state_name(const struct channel *c)
{
	switch (c->socket.state) {
	case DIAG_ESTABLISHED:
		return "connected";
	case DIAG_CONNECTING:
		return "connecting";
	case DIAG_LISTENING:
		return "waiting";
	case DIAG_CLOSING:
		return "closing";
	case DIAG_CLOSED:
		return "closed";
	default:
		return "?";
	}
}

static const char *wire_name(const struct channel *c)
{
	static const char *const names[] = { "?", "plain", "framed", "auto" };

	return c->role == CHANNEL_NONE ? "-" : names[c->wires & 3];
}

static const char *role_name(const struct channel *c)
{
	static const char *const names[] = { "server", "client", "other" };

	return names[c->role];
}

/* ---- for programs ---- */

static void json_number(const char *name, bool known, uint32_t number)
{
	if (known)
		printf(", \"%s\": %u", name, number);
	else
		printf(", \"%s\": null", name);
}

/* The host is domain 0. */
static void json_domain(const char *name, uint32_t cid)
{
	json_number(name, cid != CHANNEL_UNKNOWN, cid == CID_HOST ? 0 : cid);
}

static void json_address(const char *name, uint32_t cid, uint32_t port)
{
	printf(", \"%s\": {\"cid\": ", name);
	if (cid == VMADDR_CID_ANY)
		printf("null");
	else
		printf("%u", cid);
	json_number("port", port != VMADDR_PORT_ANY, port);
	printf("}");
}

static void json_words(const struct channel *c)
{
	bool known = c->role != CHANNEL_NONE;

	printf("  {\"role\": ");
	json_string(stdout, role_name(c));
	printf(", \"state\": ");
	json_string(stdout, state_name(c));
	json_domain("server", c->server);
	json_domain("client", c->client);
	json_number("port", c->port != CHANNEL_UNKNOWN, c->port);
	printf(", \"wire\": ");
	if (known && c->wires)
		json_string(stdout, wire_name(c));
	else
		printf("null");
	printf(", \"relayed\": %s", c->relayed ? "true" : "false");
}

static void print_json_row(const struct row *row)
{
	const struct holder *h = &row->holder;

	json_words(&row->channel);
	json_number("pid", h->pid > 0, (uint32_t)h->pid);
	printf(", \"command\": ");
	if (h->pid)
		json_string(stdout, h->command);
	else
		printf("null");
	printf(", \"processes\": %u", h->count);
	json_number("unread", row->unread >= 0, (uint32_t)row->unread);
	json_number("unsent", row->unsent >= 0, (uint32_t)row->unsent);
	json_address("local", row->channel.socket.cid, row->channel.socket.port);
	json_address("peer", row->channel.socket.peer_cid, row->channel.socket.peer_port);
	printf("}");
}

static void print_json(const struct table *table)
{
	printf("[");
	for (size_t i = 0; i < table->count; i++) {
		printf("%s\n", i ? "," : "");
		print_json_row(&table->rows[i]);
	}
	printf("%s]\n", table->count ? "\n" : "");
}

/* ---- for people ---- */

struct word {
	char text[64];
};

static struct word number_word(bool known, uint32_t number)
{
	struct word w = { "?" };

	if (known)
		snprintf(w.text, sizeof w.text, "%u", number);
	return w;
}

static struct word domain_word(uint32_t cid)
{
	struct word host = { "host" };

	return cid == CID_HOST ? host : number_word(cid != CHANNEL_UNKNOWN, cid);
}

static struct word address_word(uint32_t cid, uint32_t port)
{
	struct word w;

	if (cid == VMADDR_CID_ANY && port == VMADDR_PORT_ANY)
		snprintf(w.text, sizeof w.text, "*:*");
	else if (cid == VMADDR_CID_ANY)
		snprintf(w.text, sizeof w.text, "*:%u", port);
	else
		snprintf(w.text, sizeof w.text, "%u:%u", cid, port);
	return w;
}

static void print_header(const struct table *table)
{
	printf("%-6s  %-6s  %5s  %-6s  %-10s  %-6s", "SERVER", "CLIENT", "PORT", "ROLE", "STATE",
	       "WIRE");
	if (table->queues)
		printf("  %8s  %8s", "UNREAD", "UNSENT");
	if (table->all)
		printf("  %-21s  %-21s", "LOCAL", "PEER");
	printf("  %7s  %s\n", "PID", "COMMAND");
}

static void print_process(const struct row *row)
{
	const struct holder *h = &row->holder;

	printf("  %7s  ", number_word(h->pid > 0, (uint32_t)h->pid).text);
	plain_string(stdout, h->pid ? h->command : "?");
	if (h->count > 1)
		printf(" (and %u more)", h->count - 1);
	printf("%s\n", row->channel.relayed ? " (relayed)" : "");
}

static void print_row(const struct table *table, const struct row *row)
{
	const struct channel *c = &row->channel;
	const struct diag_socket *s = &c->socket;

	if (c->role == CHANNEL_NONE)
		printf("%-6s  %-6s  %5s", "-", "-", "-");
	else
		printf("%-6s  %-6s  %5s", domain_word(c->server).text, domain_word(c->client).text,
		       number_word(c->port != CHANNEL_UNKNOWN, c->port).text);
	printf("  %-6s  %-10s  %-6s", role_name(c), state_name(c), wire_name(c));
	if (table->queues)
		printf("  %8s  %8s", number_word(row->unread >= 0, (uint32_t)row->unread).text,
		       number_word(row->unsent >= 0, (uint32_t)row->unsent).text);
	if (table->all)
		printf("  %-21s  %-21s", address_word(s->cid, s->port).text,
		       address_word(s->peer_cid, s->peer_port).text);
	print_process(row);
}

static void print_table(const struct table *table)
{
	print_header(table);
	for (size_t i = 0; i < table->count; i++)
		print_row(table, &table->rows[i]);
}

/* What a person should know beside the table. */
static void say_more(const struct table *table, size_t others)
{
	bool nameless = false;

	for (size_t i = 0; i < table->count; i++)
		nameless |= !table->rows[i].holder.pid && table->rows[i].channel.socket.inode;
	if (nameless && table->hidden)
		tool_say("some processes cannot be looked at, and are \"?\"; try as root");
	if (!table->count && others)
		tool_say("no channels here, but %zu other vsock sockets: --all shows them",
			 others);
}

/* ---- the command ---- */

enum { OPTION_ALL = 'a', OPTION_JSON = 'j', OPTION_QUEUES = 'q' };

static bool take(void *to, int option)
{
	struct table *table = to;

	table->all |= option == OPTION_ALL;
	table->json |= option == OPTION_JSON;
	table->queues |= option == OPTION_QUEUES;
	return true;
}

/* TOOL_GO_ON, or else the exit status. */
static int read_options(int argc, char **argv, struct table *table)
{
	static const struct option options[] = {
		TOOL_HELP_OPTION,
		{ "all", no_argument, NULL, OPTION_ALL },
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "queues", no_argument, NULL, OPTION_QUEUES },
		{ NULL, 0, NULL, 0 },
	};
	int status = tool_options(argc, argv, "+:ajqh", options, take, table);

	if (status == TOOL_GO_ON && optind < argc)
		return tool_usage("what is \"%s\"? There are only options", argv[optind]);
	return status;
}

static int run(int argc, char **argv)
{
	struct table table = { 0 };
	struct channel_rules rules;
	size_t others = 0;
	int status = read_options(argc, argv, &table);

	if (status != TOOL_GO_ON)
		return status;
	if (read_rules(&rules) != TOOL_OK)
		return TOOL_FAILED;
	status = read_table(&table, &rules, &others);
	if (status == TOOL_OK && table.json)
		print_json(&table);
	else if (status == TOOL_OK)
		print_table(&table);
	if (status == TOOL_OK)
		say_more(&table, others);
	free(table.rows);
	return status;
}

const struct command command_list = {
	"list", "the channels of this machine, and who has them",
	"usage: vchan-vsock list [options]\n\n"
	"Shows the channels that end in this machine: those of its own programs, and those\n"
	"of programs that use vsock in the same way.  A server that waits is one line, a\n"
	"channel within this machine is two: the server's end and the client's.\n\n"
	"  -a, --all      other vsock sockets, too, and the vsock addresses\n"
	"  -q, --queues   bytes that the kernel has for each end: not yet read, not yet\n"
	"                 sent.  \"?\" where it does not tell, as older kernels.  A copy of\n"
	"                 each socket is made for a moment, which takes root\n"
	"  -j, --json     an array of objects; null is what is not known\n"
	"  -h, --help\n\n"
	"WIRE is that of the channel, or of what a server waits for: auto is either.\n"
	"VCHAN_VSOCK_LOOPBACK and VCHAN_VSOCK_PORT_BASE decide what is a channel, as they do\n"
	"for programs.  Process \"?\": as root more can be seen, but not into other\n"
	"containers.  The list is the kernel's, of this network namespace: it takes the\n"
	"module vsock_diag, and touches no channel.\n\n"
	"Exit status: 0; 1 if there is no list; 2 if the command line is wrong.\n\n"
	"Example:\n"
	"  vchan-vsock list --json | jq '.[] | select(.state == \"waiting\") | .pid'\n",
	run,
};
