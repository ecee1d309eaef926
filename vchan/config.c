/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "relay.h"
#include "ring.h"

struct variable {
	const char *name;
	size_t offset; /* of a uint32_t in struct config */
	uint32_t preset, min, max;
};

#define FIELD(name) offsetof(struct config, name)
#define MS_MAX 2147483647u /* 24 days, and what fits an int */

static const struct variable variables[] = {
	{ "VCHAN_VSOCK_LOOPBACK", FIELD(loopback), 0, 0, 1 },
	{ "VCHAN_VSOCK_PORT_BASE", FIELD(port_base), 0, 0, 2147483647u },
	{ "VCHAN_VSOCK_CLIENT_RING", FIELD(client_ring), 128 << 10, 1, RING_MAX },
	{ "VCHAN_VSOCK_BUFFER_SIZE", FIELD(buffer_size), 4 << 20, 1, RING_MAX },
	{ "VCHAN_VSOCK_LINGER_MS", FIELD(linger_ms), 10000, 0, MS_MAX },
	{ "VCHAN_VSOCK_BOOT_WAIT_MS", FIELD(boot_wait_ms), 5000, 0, MS_MAX },
	{ "VCHAN_VSOCK_CONNECT_TIMEOUT_MS", FIELD(connect_timeout_ms), 0, 0, MS_MAX },
	{ "VCHAN_VSOCK_REQUIRE_PRIVILEGED", FIELD(require_privileged), 0, 0, 1 },
};

/* A CID of a machine: neither of the two that mean "any". */
static const struct variable domain = { "VCHAN_DOMAIN", FIELD(domain), 0, 0,
					4294967294u };

/* Decimal digits, all of them, in the range; false otherwise. */
static bool parse_number(const char *text, uint32_t min, uint32_t max, uint32_t *value)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (uint64_t)(*text - '0');
		if (n > max)
			return false;
	}
	*value = (uint32_t)n;
	return n >= min;
}

static int read_number(struct config *c, const struct variable *v, const struct log *log)
{
	const char *text = getenv(v->name);
	uint32_t value = v->preset;

	if (text && !parse_number(text, v->min, v->max, &value)) {
		log_error(log, "%s='%.64s' is not a decimal number from %u to %u: %s",
			  v->name, text, v->min, v->max, log_reason(EINVAL).text);
		errno = EINVAL;
		return -1;
	}
	memcpy((char *)c + v->offset, &value, sizeof value);
	return 0;
}

/* The place of the variable's value among the words; -1/EINVAL. */
static int read_word(const char *name, const char *const words[], size_t count, int preset,
		     const char *choices, const struct log *log)
{
	const char *text = getenv(name);

	if (!text)
		return preset;
	for (size_t i = 0; i < count; i++)
		if (!strcmp(text, words[i]))
			return (int)i;
	log_error(log, "%s='%.64s' is not %s: %s", name, text, choices, log_reason(EINVAL).text);
	errno = EINVAL;
	return -1;
}

static int read_log(struct config *c, struct log *log)
{
	static const char *const words[] = { "none", "error", "info", "debug" };
	int level;

	log->level = c->log = LOG_ERROR;
	level = read_word("VCHAN_VSOCK_LOG", words, 4, LOG_ERROR,
			  "none, error, info or debug", log);
	if (level < 0)
		return -1;
	log->level = c->log = (enum log_level)level;
	return 0;
}

static int read_wire(struct config *c, const struct log *log)
{
	static const char *const words[] = { "auto", "framed", "plain" };
	int wire = read_word("VCHAN_VSOCK_WIRE", words, 3, WIRE_AUTO,
			     "auto, framed or plain", log);

	if (wire < 0)
		return -1;
	c->wire = (enum wire_choice)wire;
	return 0;
}

/* auto, never, or the port of the relay, which then is the only way. */
static int read_relay(struct config *c, const struct log *log)
{
	const char *text = getenv("VCHAN_VSOCK_RELAY");

	c->relay = RELAY_AUTO;
	c->relay_port = RELAY_PORT;
	if (!text || !strcmp(text, "auto"))
		return 0;
	if (!strcmp(text, "never")) {
		c->relay = RELAY_NEVER;
		return 0;
	}
	c->relay = RELAY_ALWAYS;
	if (parse_number(text, 1, RELAY_PORT_MAX, &c->relay_port))
		return 0;
	log_error(log, "VCHAN_VSOCK_RELAY='%.64s' is not auto, never or a port from 1 to %u: %s",
		  text, RELAY_PORT_MAX, log_reason(EINVAL).text);
	errno = EINVAL;
	return -1;
}

int config_read(struct config *c, struct log *log)
{
	memset(c, 0, sizeof *c);
	if (read_log(c, log) < 0 || read_wire(c, log) < 0 || read_relay(c, log) < 0)
		return -1;
	for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
		if (read_number(c, &variables[i], log) < 0)
			return -1;
	c->has_domain = getenv(domain.name) != NULL;
	return read_number(c, &domain, log);
}
