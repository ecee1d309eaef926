/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vchan/config.c: every variable, its limits, and rubbish in each. */
#include "unit.h"

#include "vchan/config.h"

struct limits {
	const char *name;
	size_t offset;
	unsigned long long preset, min, max;
};

#define NUMBER(name, field, preset, min, max) \
	{ "VCHAN_" name, offsetof(struct config, field), preset, min, max }

/* As the README's table has it. */
static const struct limits numbers[] = {
	NUMBER("DOMAIN", domain, 0, 0, 4294967294),
	NUMBER("VSOCK_LOOPBACK", loopback, 0, 0, 1),
	NUMBER("VSOCK_PORT_BASE", port_base, 0, 0, 2147483647),
	NUMBER("VSOCK_CLIENT_RING", client_ring, 131072, 1, 1073741824),
	NUMBER("VSOCK_BUFFER_SIZE", buffer_size, 4194304, 1, 1073741824),
	NUMBER("VSOCK_LINGER_MS", linger_ms, 10000, 0, 2147483647),
	NUMBER("VSOCK_BOOT_WAIT_MS", boot_wait_ms, 5000, 0, 2147483647),
	NUMBER("VSOCK_CONNECT_TIMEOUT_MS", connect_timeout_ms, 0, 0, 2147483647),
	NUMBER("VSOCK_REQUIRE_PRIVILEGED", require_privileged, 0, 0, 1),
};

static const char *const rubbish[] = {
	"", " ", " 1", "1 ", "\t1", "1\t", "+1", "-1", "-0", "0x1", "1e3", "1.0", "1,0",
	"1k", "one", "yes", "true", "1;2", "--1", "\xef\xbc\x91" /* a wide 1 */, "\xff",
	"4294967296", "4294967297", "18446744073709551616", "18446744073709551617",
	"99999999999999999999999999999999999999999999999999999999999999999999999999999",
};

static int clear(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		unsetenv(numbers[i].name);
	unsetenv("VCHAN_VSOCK_LOG");
	return 0;
}

static struct log new_log(void)
{
	return (struct log){ LOG_ERROR, "call(1, 2)" };
}

static unsigned long long field(const struct config *c, const struct limits *limits)
{
	uint32_t value;

	memcpy(&value, (const char *)c + limits->offset, sizeof(value));
	return value;
}

/* The configuration is refused, in one line that names the variable. */
static void refused(const char *name, const char *value)
{
	struct capture capture;
	struct config c;
	struct log log = new_log();
	int result;

	setenv(name, value, 1);
	capture_start(&capture);
	errno = 0;
	result = config_read(&c, &log);
	capture_end(&capture);
	unsetenv(name);

	if (result != -1 || errno != EINVAL)
		fail_msg("%s='%s' gives %d, errno %d", name, value, result, errno);
	assert_one_line(capture.text);
	assert_contains(capture.text, name);
	assert_contains(capture.text, "call(1, 2)");
}

static struct config accepted(const char *name, const char *value)
{
	struct capture capture;
	struct config c;
	struct log log = new_log();
	int result;

	setenv(name, value, 1);
	capture_start(&capture);
	result = config_read(&c, &log);
	capture_end(&capture);
	unsetenv(name);

	if (result != 0)
		fail_msg("%s='%s' is refused: %s", name, value, capture.text);
	assert_string_equal(capture.text, "");
	return c;
}

static void empty_environment_gives_the_presets(void **state)
{
	struct config c;
	struct log log = { LOG_DEBUG, "" };

	(void)state;
	assert_int_equal(config_read(&c, &log), 0);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		assert_int_equal(field(&c, &numbers[i]), numbers[i].preset);
	assert_false(c.has_domain);
	assert_int_equal(c.log, LOG_ERROR);
	assert_int_equal(log.level, LOG_ERROR);
}

static void rubbish_is_einval_in_every_variable(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		for (size_t j = 0; j < ARRAY_SIZE(rubbish); j++)
			refused(numbers[i].name, rubbish[j]);
	for (size_t j = 0; j < ARRAY_SIZE(rubbish); j++)
		refused("VCHAN_VSOCK_LOG", rubbish[j]);
}

static void value_with_line_breaks_is_refused_in_one_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		refused(numbers[i].name, "1\n");
		refused(numbers[i].name, "1\n2\r3\033[2J");
	}
	refused("VCHAN_VSOCK_LOG", "error\ndebug");
}

static void endless_value_is_refused_in_one_line(void **state)
{
	static char endless[100000];

	(void)state;
	memset(endless, '7', sizeof(endless) - 1);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		refused(numbers[i].name, endless);
	refused("VCHAN_VSOCK_LOG", endless);
}

static void limits_are_accepted_and_what_is_beyond_is_not(void **state)
{
	char text[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		const struct limits *l = &numbers[i];
		struct config c;

		snprintf(text, sizeof(text), "%llu", l->min);
		c = accepted(l->name, text);
		assert_int_equal(field(&c, l), l->min);
		snprintf(text, sizeof(text), "%llu", l->max);
		c = accepted(l->name, text);
		assert_int_equal(field(&c, l), l->max);

		snprintf(text, sizeof(text), "%llu", l->max + 1);
		refused(l->name, text);
		if (l->min > 0) {
			snprintf(text, sizeof(text), "%llu", l->min - 1);
			refused(l->name, text);
		}
	}
}

static void variable_sets_its_own_field_and_no_other(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct config c = accepted(numbers[i].name, "1");

		for (size_t j = 0; j < ARRAY_SIZE(numbers); j++)
			assert_int_equal(field(&c, &numbers[j]),
					 i == j ? 1 : numbers[j].preset);
	}
}

static void leading_zeros_are_decimal(void **state)
{
	struct config c = accepted("VCHAN_VSOCK_LINGER_MS", "0010");

	(void)state;
	assert_int_equal(c.linger_ms, 10);
}

static void random_numbers_are_read_as_they_are(void **state)
{
	struct random random = random_start();
	char text[32];

	(void)state;
	for (int i = 0; i < 10000; i++) {
		const struct limits *l = &numbers[random_below(&random, ARRAY_SIZE(numbers))];
		unsigned long long value = random_next(&random) >> random_below(&random, 64);

		snprintf(text, sizeof(text), "%llu", value);
		if (value >= l->min && value <= l->max) {
			struct config c = accepted(l->name, text);

			assert_int_equal(field(&c, l), value);
		} else {
			refused(l->name, text);
		}
	}
}

static void domain_0_differs_from_no_domain(void **state)
{
	struct config c = accepted("VCHAN_DOMAIN", "0");

	(void)state;
	assert_true(c.has_domain);
	assert_int_equal(c.domain, 0);
	c = accepted("VCHAN_VSOCK_LOOPBACK", "1");
	assert_false(c.has_domain);
}

static void each_word_sets_the_log(void **state)
{
	static const struct {
		const char *word;
		enum log_level level;
	} words[] = { { "none", LOG_NONE }, { "error", LOG_ERROR },
		      { "info", LOG_INFO }, { "debug", LOG_DEBUG } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		struct config c;
		struct log log = new_log();

		setenv("VCHAN_VSOCK_LOG", words[i].word, 1);
		assert_int_equal(config_read(&c, &log), 0);
		assert_int_equal(c.log, words[i].level);
		assert_int_equal(log.level, words[i].level);
	}
	refused("VCHAN_VSOCK_LOG", "ERROR");
	refused("VCHAN_VSOCK_LOG", "0");
	refused("VCHAN_VSOCK_LOG", "debug ");
}

static void log_none_silences_complaints_about_other_variables(void **state)
{
	struct capture capture;
	struct config c;
	struct log log = new_log();

	(void)state;
	setenv("VCHAN_VSOCK_LOG", "none", 1);
	setenv("VCHAN_DOMAIN", "rubbish", 1);
	capture_start(&capture);
	errno = 0;
	int result = config_read(&c, &log);
	capture_end(&capture);
	assert_int_equal(result, -1);
	assert_int_equal(errno, EINVAL);
	assert_string_equal(capture.text, "");
}

static void names_of_all_variables_are_told(void **state)
{
	const char *name;
	size_t known = 0;

	(void)state;
	for (size_t i = 0; (name = config_variable(i)) != NULL; i++) {
		size_t among = 0;

		while (among < ARRAY_SIZE(numbers) && strcmp(numbers[among].name, name) != 0)
			among++;
		known += among < ARRAY_SIZE(numbers) || !strcmp(name, "VCHAN_VSOCK_LOG") ||
			 !strcmp(name, "VCHAN_VSOCK_WIRE") || !strcmp(name, "VCHAN_VSOCK_RELAY");
		assert_int_equal(known, i + 1);
	}
	assert_int_equal(known, ARRAY_SIZE(numbers) + 3);
}

#define CONFIG_TEST(name) cmocka_unit_test_setup_teardown(name, clear, clear)

static const struct CMUnitTest tests[] = {
	CONFIG_TEST(empty_environment_gives_the_presets),
	CONFIG_TEST(rubbish_is_einval_in_every_variable),
	CONFIG_TEST(value_with_line_breaks_is_refused_in_one_line),
	CONFIG_TEST(endless_value_is_refused_in_one_line),
	CONFIG_TEST(limits_are_accepted_and_what_is_beyond_is_not),
	CONFIG_TEST(variable_sets_its_own_field_and_no_other),
	CONFIG_TEST(leading_zeros_are_decimal),
	CONFIG_TEST(random_numbers_are_read_as_they_are),
	CONFIG_TEST(domain_0_differs_from_no_domain),
	CONFIG_TEST(each_word_sets_the_log),
	CONFIG_TEST(log_none_silences_complaints_about_other_variables),
	CONFIG_TEST(names_of_all_variables_are_told),
};

UNIT_MAIN(tests)
