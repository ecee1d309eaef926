/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever stands in the environment: config_read, beside the README's table.
 *
 * The input sets variables: a byte that says which, one that says how long, and so
 * many bytes of value, again and again.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "vchan/config.h"

enum kind { NUMBER, LEVEL, WIRE };

static const struct variable {
	const char *name;
	enum kind kind;
	const char *min, *max, *preset;
} variables[] = {
	{ "VCHAN_DOMAIN", NUMBER, "0", "4294967294", "0" },
	{ "VCHAN_VSOCK_LOOPBACK", NUMBER, "0", "1", "0" },
	{ "VCHAN_VSOCK_PORT_BASE", NUMBER, "0", "2147483647", "0" },
	{ "VCHAN_VSOCK_CLIENT_RING", NUMBER, "1", "1073741824", "131072" },
	{ "VCHAN_VSOCK_BUFFER_SIZE", NUMBER, "1", "1073741824", "4194304" },
	{ "VCHAN_VSOCK_LINGER_MS", NUMBER, "0", "2147483647", "10000" },
	{ "VCHAN_VSOCK_BOOT_WAIT_MS", NUMBER, "0", "2147483647", "5000" },
	{ "VCHAN_VSOCK_CONNECT_TIMEOUT_MS", NUMBER, "0", "2147483647", "0" },
	{ "VCHAN_VSOCK_LOG", LEVEL, NULL, NULL, "error" },
	{ "VCHAN_VSOCK_WIRE", WIRE, NULL, NULL, "auto" },
};
#define VARIABLES (sizeof variables / sizeof *variables)

static const char *const levels[] = { "none", "error", "info", "debug", NULL };
static const char *const wires[] = { "auto", "framed", "plain", NULL };

/* ---- what the README says ---- */

static const char *value_of(const struct variable *v)
{
	const char *text = getenv(v->name);

	return text ? text : v->preset;
}

static int place_of(const char *const words[], const char *text)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], text))
			return i;
	return -1;
}

/* Of two numbers in digits: as strcmp. */
static int compare_digits(const char *a, const char *b)
{
	size_t n, m;

	a += strspn(a, "0");
	b += strspn(b, "0");
	n = strlen(a);
	m = strlen(b);
	return n == m ? strcmp(a, b) : n < m ? -1 : 1;
}

static bool is_good(const struct variable *v)
{
	const char *text = value_of(v);

	if (v->kind == LEVEL)
		return place_of(levels, text) >= 0;
	if (v->kind == WIRE)
		return place_of(wires, text) >= 0;
	return *text && strspn(text, "0123456789") == strlen(text) &&
	       compare_digits(text, v->min) >= 0 && compare_digits(text, v->max) <= 0;
}

/* ---- what is said ---- */

static int said_in = -1, kept;
static char said[4096];

static void listen_to_stderr(void)
{
	if (said_in < 0)
		said_in = memfd_create("said", MFD_CLOEXEC);
	FUZZ_CHECK(ftruncate(said_in, 0) == 0 && lseek(said_in, 0, SEEK_SET) == 0);
	kept = dup(STDERR_FILENO);
	dup2(said_in, STDERR_FILENO);
}

static void listen_no_more(void)
{
	ssize_t n;

	dup2(kept, STDERR_FILENO);
	close(kept);
	n = pread(said_in, said, sizeof said - 1, 0);
	FUZZ_CHECK(n >= 0 && n < 1000);
	said[n] = '\0';
}

/* One line, harmless to a terminal, about one of those that are bad. */
static void check_complaint(void)
{
	size_t n = strlen(said);
	bool names_one = false;

	FUZZ_CHECK(n > 0 && said[n - 1] == '\n');
	for (size_t i = 0; i + 1 < n; i++)
		FUZZ_CHECK((unsigned char)said[i] >= ' ' && said[i] != 127);
	for (size_t i = 0; i < VARIABLES; i++)
		names_one |= !is_good(&variables[i]) && strstr(said, variables[i].name);
	FUZZ_CHECK(names_one);
}

static void check_values(const struct config *c)
{
	const uint32_t values[] = { c->domain, c->loopback, c->port_base, c->client_ring,
				    c->buffer_size, c->linger_ms, c->boot_wait_ms,
				    c->connect_timeout_ms, (uint32_t)c->log, (uint32_t)c->wire };

	for (size_t i = 0; i < VARIABLES; i++) {
		const char *text = value_of(&variables[i]);

		if (variables[i].kind == LEVEL)
			FUZZ_CHECK(values[i] == (uint32_t)place_of(levels, text));
		else if (variables[i].kind == WIRE)
			FUZZ_CHECK(values[i] == (uint32_t)place_of(wires, text));
		else
			FUZZ_CHECK(values[i] == strtoull(text, NULL, 10));
	}
	FUZZ_CHECK(c->has_domain == (getenv("VCHAN_DOMAIN") != NULL));
}

/* ---- the input ---- */

static void set_variables(const uint8_t *data, size_t size)
{
	char value[256];

	for (size_t i = 0; i < VARIABLES; i++)
		unsetenv(variables[i].name);
	while (size >= 2) {
		size_t n = data[1] < size - 2 ? data[1] : size - 2;

		memcpy(value, data + 2, n);
		value[n] = '\0';
		setenv(variables[data[0] % VARIABLES].name, value, 1);
		data += 2 + n;
		size -= 2 + n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct log log = { LOG_ERROR, "call(1, 2)" };
	struct config *c = malloc(sizeof *c);
	bool good = true, mute;
	int result, err;

	set_variables(data, size);
	for (size_t i = 0; i < VARIABLES; i++)
		good &= is_good(&variables[i]);
	mute = !strcmp(value_of(&variables[8]), "none");
	listen_to_stderr();
	errno = 0;
	result = config_read(c, &log);
	err = errno;
	listen_no_more();
	FUZZ_CHECK(result == (good ? 0 : -1));
	if (good)
		check_values(c);
	else
		FUZZ_CHECK(err == EINVAL);
	if (good || mute)
		FUZZ_CHECK(!*said);
	else
		check_complaint();
	free(c);
	return 0;
}
