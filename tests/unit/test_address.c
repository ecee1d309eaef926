/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vchan/address.c: the mapping that anyone can work out by hand. */
#include "unit.h"

#include "vchan/address.h"

#define MACHINES false
#define LOOPBACK true

static uint32_t port_of(bool loopback, uint32_t base, uint32_t server, uint32_t client,
			uint32_t port)
{
	const char *why = "";
	uint32_t vsock_port = 0;

	assert_int_equal(address_port(loopback, base, server, client, port,
				      &vsock_port, &why), 0);
	assert_null(why);
	return vsock_port;
}

static void refused(bool loopback, uint32_t base, uint32_t server, uint32_t client,
		    uint32_t port, const char *reason)
{
	const char *why = NULL;
	uint32_t vsock_port;

	assert_errno(address_port(loopback, base, server, client, port, &vsock_port,
				  &why), -1, ERANGE);
	assert_non_null(why);
	assert_contains(why, reason);
}

static void domain_0_is_the_host(void **state)
{
	(void)state;
	assert_int_equal(address_cid(0), CID_HOST);
	assert_int_equal(address_cid(2), CID_HOST);
}

static void every_other_domain_is_its_cid(void **state)
{
	static const uint32_t domains[] = { 1, 2, 3, 42, 32767, 32768, UINT32_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(domains); i++)
		assert_int_equal(address_cid(domains[i]), domains[i]);
}

static void readme_examples_are_right(void **state)
{
	(void)state;
	/* The host serves guest 42 on port 512; guest 42 serves the host. */
	assert_int_equal(port_of(MACHINES, 0, 2, 42, 512), 2753024);
	assert_int_equal(port_of(MACHINES, 0, 42, 2, 512), 131584);
}

static void port_does_not_depend_on_the_server_between_machines(void **state)
{
	(void)state;
	assert_int_equal(port_of(MACHINES, 0, 2, 42, 512),
			 port_of(MACHINES, 0, 99999, 42, 512));
}

static void port_base_is_added(void **state)
{
	(void)state;
	assert_int_equal(port_of(MACHINES, 1000000, 2, 42, 512), 3753024);
	assert_int_equal(port_of(LOOPBACK, 1000000, 0, 0, 1), 1000001);
}

static void largest_addresses_between_machines_are_accepted(void **state)
{
	(void)state;
	assert_int_equal(port_of(MACHINES, 0, 2, 32767, 65535), 2147483647);
	assert_int_equal(port_of(MACHINES, 2147483647 - 65536 - 65535, 2, 1, 65535),
			 2147483647);
}

static void addresses_out_of_range_between_machines_are_erange(void **state)
{
	(void)state;
	refused(MACHINES, 0, 2, 32768, 0, "client");
	refused(MACHINES, 0, 2, UINT32_MAX, 0, "client");
	refused(MACHINES, 0, 2, 3, 65536, "port");
	refused(MACHINES, 0, 2, 3, UINT32_MAX, "port");
	refused(MACHINES, 1, 2, 32767, 65535, "VCHAN_VSOCK_PORT_BASE");
	refused(MACHINES, 2147483647, 2, 3, 1, "VCHAN_VSOCK_PORT_BASE");
	refused(MACHINES, UINT32_MAX, 2, 32767, 65535, "VCHAN_VSOCK_PORT_BASE");
}

static void loopback_maps_server_client_and_port(void **state)
{
	(void)state;
	assert_int_equal(port_of(LOOPBACK, 0, 2, 7, 111),
			 2 * 8388608 + 7 * 16384 + 111);
	assert_int_equal(port_of(LOOPBACK, 0, 255, 511, 16383), 2147483647);
}

static void addresses_out_of_range_on_loopback_are_erange(void **state)
{
	(void)state;
	refused(LOOPBACK, 0, 256, 0, 0, "server");
	refused(LOOPBACK, 0, 0, 512, 0, "client");
	refused(LOOPBACK, 0, 0, 0, 16384, "port");
	refused(LOOPBACK, 0, UINT32_MAX, 0, 0, "server");
	refused(LOOPBACK, 1, 255, 511, 16383, "VCHAN_VSOCK_PORT_BASE");
}

/* The three parts can be read back from the port, so no two share one. */
static void every_address_has_a_port_of_its_own(void **state)
{
	struct random random = random_start();

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint32_t client = (uint32_t)random_below(&random, 32768);
		uint32_t port = (uint32_t)random_below(&random, 65536);
		uint32_t result = port_of(MACHINES, 0, 2, client, port);

		assert_true(result < UINT32_C(1) << 31);
		assert_int_equal(result >> 16, client);
		assert_int_equal(result & 65535, port);
	}
	for (int i = 0; i < 100000; i++) {
		uint32_t server = (uint32_t)random_below(&random, 256);
		uint32_t client = (uint32_t)random_below(&random, 512);
		uint32_t port = (uint32_t)random_below(&random, 16384);
		uint32_t result = port_of(LOOPBACK, 0, server, client, port);

		assert_true(result < UINT32_C(1) << 31);
		assert_int_equal(result >> 23, server);
		assert_int_equal(result >> 14 & 511, client);
		assert_int_equal(result & 16383, port);
	}
}

/* The parts of an address's port are the address, whatever the base. */
static void parts_of_every_port_are_its_address(void **state)
{
	struct random random = random_start();

	(void)state;
	for (int i = 0; i < 200000; i++) {
		bool loopback = i & 1;
		uint32_t server = (uint32_t)random_below(&random, 256);
		uint32_t client = (uint32_t)random_below(&random, loopback ? 512 : 32768);
		uint32_t port = (uint32_t)random_below(&random, loopback ? 16384 : 65536);
		uint32_t most = 2147483647 - port_of(loopback, 0, server, client, port);
		uint32_t base = i % 4 < 2 ? 0 : (uint32_t)random_below(&random, most + UINT64_C(1));
		uint32_t got[3] = { server, UINT32_MAX, UINT32_MAX };

		if (loopback)
			got[0] = UINT32_MAX;
		assert_true(address_parts(loopback, base,
					  port_of(loopback, base, server, client, port),
					  &got[0], &got[1], &got[2]));
		assert_int_equal(got[0], server);
		assert_int_equal(got[1], client);
		assert_int_equal(got[2], port);
	}
}

static void ports_outside_of_the_mapping_have_no_parts(void **state)
{
	static const bool modes[] = { MACHINES, LOOPBACK };
	uint32_t a = 1, b = 2, c = 3;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		assert_false(address_parts(modes[i], 1, 0, &a, &b, &c));
		assert_false(address_parts(modes[i], 2147483647, 2147483646, &a, &b, &c));
		assert_false(address_parts(modes[i], 0, 2147483648, &a, &b, &c));
		assert_false(address_parts(modes[i], 0, UINT32_MAX, &a, &b, &c));
	}
	assert_int_equal(a * 100 + b * 10 + c, 123);
}

static void no_port_between_machines_is_privileged(void **state)
{
	(void)state;
	assert_true(port_of(MACHINES, 0, 5, CID_LOCAL, 0) >= 1024);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(domain_0_is_the_host),
	cmocka_unit_test(every_other_domain_is_its_cid),
	cmocka_unit_test(readme_examples_are_right),
	cmocka_unit_test(port_does_not_depend_on_the_server_between_machines),
	cmocka_unit_test(port_base_is_added),
	cmocka_unit_test(largest_addresses_between_machines_are_accepted),
	cmocka_unit_test(addresses_out_of_range_between_machines_are_erange),
	cmocka_unit_test(loopback_maps_server_client_and_port),
	cmocka_unit_test(addresses_out_of_range_on_loopback_are_erange),
	cmocka_unit_test(every_address_has_a_port_of_its_own),
	cmocka_unit_test(parts_of_every_port_are_its_address),
	cmocka_unit_test(ports_outside_of_the_mapping_have_no_parts),
	cmocka_unit_test(no_port_between_machines_is_privileged),
};

UNIT_MAIN(tests)
