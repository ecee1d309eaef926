/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vchan/ring.c, alone and against a model: byte number n is byte_at(n). */
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include "vchan/ring.h"

static size_t page;

static char byte_at(uint64_t n)
{
	return (char)((n * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static int setup(void **state)
{
	static struct ring ring;

	page = (size_t)sysconf(_SC_PAGESIZE);
	*state = &ring;
	return ring_init(&ring, 1);
}

static int teardown(void **state)
{
	ring_free(*state);
	return 0;
}

/* As if so many bytes had gone through already. */
static void start_at(struct ring *r, uint64_t counter)
{
	atomic_store(&r->put, counter);
	atomic_store(&r->got, counter);
	atomic_store(&r->origin, counter);
}

static void put_bytes(struct ring *r, uint64_t first, size_t n)
{
	char *to = ring_room_at(r);

	for (size_t i = 0; i < n; i++)
		to[i] = byte_at(first + i);
	ring_added(r, n);
}

static bool bytes_are(const char *from, uint64_t first, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (from[i] != byte_at(first + i))
			return false;
	return true;
}

static void size_is_the_next_power_of_two_and_a_page_at_least(void **state)
{
	size_t p = (size_t)sysconf(_SC_PAGESIZE);
	const struct {
		size_t min, size;
	} cases[] = {
		{ 0, p },
		{ 1, p },
		{ p - 1, p },
		{ p, p },
		{ p + 1, 2 * p },
		{ 2 * p, 2 * p },
		{ 65543, 131072 },
		{ RING_MAX / 2 + 1, RING_MAX },
		{ RING_MAX, RING_MAX },
		{ 2 * RING_MAX + 1, 0 },
		{ SIZE_MAX / 4 * 3, 0 },
		{ SIZE_MAX, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(ring_size_for(cases[i].min), cases[i].size);
}

static void new_ring_is_empty(void **state)
{
	struct ring *r = *state;

	assert_int_equal(r->size, page);
	assert_int_equal(ring_fill(r), 0);
	assert_int_equal(ring_room(r), page);
}

static void ring_of_1_gib_is_made(void **state)
{
	struct ring r;

	(void)state;
	assert_int_equal(ring_init(&r, RING_MAX), 0);
	assert_int_equal(r.size, RING_MAX);
	/* The last byte before the wrap and the first after it. */
	start_at(&r, 0);
	ring_added(&r, RING_MAX - 1);
	ring_taken(&r, RING_MAX - 2);
	put_bytes(&r, 7, 2);
	assert_true(bytes_are(ring_fill_at(&r) + 1, 7, 2));
	ring_free(&r);
}

static void over_1_gib_is_einval(void **state)
{
	struct ring r;

	(void)state;
	assert_errno(ring_init(&r, 2 * RING_MAX + 1), -1, EINVAL);
	assert_errno(ring_init(&r, SIZE_MAX), -1, EINVAL);
	assert_null(r.base);
	ring_free(&r);
}

/* The framed wire's memory for the largest ring; twice that, where addresses have 32
 * bits, is 0. */
static void largest_memory_is_made_or_there_are_no_addresses_for_it(void **state)
{
	struct ring r;
	int result;

	(void)state;
	errno = 0;
	result = ring_init(&r, 2 * RING_MAX);
	if (sizeof(size_t) < sizeof(uint64_t)) {
		assert_int_equal(result, -1);
		assert_int_equal(errno, ENOMEM);
		assert_null(r.base);
	} else {
		assert_int_equal(result, 0);
		r.base[4 * RING_MAX - 1] = 7;
		assert_int_equal(r.base[2 * RING_MAX - 1], 7);
	}
	ring_free(&r);
}

static void memory_is_mapped_twice_in_a_row(void **state)
{
	struct ring *r = *state;

	for (size_t i = 0; i < r->size; i++)
		r->base[i] = byte_at(i);
	assert_memory_equal(r->base + r->size, r->base, r->size);
	for (size_t i = 0; i < r->size; i++)
		r->base[r->size + i] = byte_at(i + 1);
	assert_true(bytes_are(r->base, 1, r->size));
}

static void full_ring_is_one_piece_wherever_it_starts(void **state)
{
	struct ring *r = *state;

	for (size_t start = 0; start < r->size; start += 61) {
		start_at(r, 0);
		/* One byte stays, so that it cannot start again at base. */
		ring_added(r, start + 1);
		ring_taken(r, start);
		put_bytes(r, start + 1, ring_room(r));
		ring_taken(r, 1);
		put_bytes(r, start + r->size, 1);

		assert_int_equal(ring_fill(r), r->size);
		assert_int_equal(ring_room(r), 0);
		assert_true(bytes_are(ring_fill_at(r), start + 1, r->size));
		ring_taken(r, r->size);
		assert_int_equal(ring_fill(r), 0);
	}
}

static void empty_ring_starts_again_at_its_first_byte(void **state)
{
	struct ring *r = *state;

	for (int i = 0; i < 3; i++) {
		assert_ptr_equal(ring_room_at(r), r->base);
		put_bytes(r, 0, 100);
		ring_taken(r, 100);
	}
}

static void ring_that_is_not_empty_stays_where_it_is(void **state)
{
	struct ring *r = *state;

	put_bytes(r, 0, 100);
	ring_taken(r, 99);
	assert_ptr_equal(ring_room_at(r), r->base + 100);
	assert_ptr_equal(ring_fill_at(r), r->base + 99);
	assert_true(bytes_are(ring_fill_at(r), 99, 1));
}

static void put_and_get_copy(void **state)
{
	struct ring *r = *state;
	char out[6] = "";

	ring_put(r, "Hello", 6);
	assert_int_equal(ring_fill(r), 6);
	ring_get(r, out, 6);
	assert_string_equal(out, "Hello");
	assert_int_equal(ring_fill(r), 0);
}

static void nothing_can_be_put_and_got(void **state)
{
	struct ring *r = *state;

	ring_put(r, "", 0);
	ring_get(r, &(char){ 0 }, 0);
	assert_int_equal(ring_fill(r), 0);
	assert_int_equal(ring_room(r), r->size);
}

/* Random steps from a given counter; the model is two numbers. */
static void follow_the_model(struct ring *r, uint64_t start, int steps)
{
	struct random random = random_start();
	uint64_t put = start, got = start;

	start_at(r, start);
	for (int step = 0; step < steps; step++) {
		size_t fill = (size_t)(put - got);
		size_t n;

		assert_int_equal(ring_fill(r), fill);
		assert_int_equal(ring_room(r), r->size - fill);
		if (random_next(&random) & 1) {
			n = random_size(&random, r->size - fill);
			put_bytes(r, put, n);
			put += n;
		} else {
			n = random_size(&random, fill);
			if (!bytes_are(ring_fill_at(r), got, n))
				fail_msg("step %d: bytes %llu to %llu differ", step,
					 (unsigned long long)got,
					 (unsigned long long)(got + n));
			ring_taken(r, n);
			got += n;
		}
	}
}

static void random_steps_follow_the_model(void **state)
{
	follow_the_model(*state, 0, 100000);
}

static void counters_may_wrap_around(void **state)
{
	struct ring *r = *state;

	follow_the_model(r, UINT64_MAX - 3 * page, 2000);
	assert_true(atomic_load(&r->put) < UINT64_MAX / 2);
}

static void random_steps_follow_the_model_in_a_large_ring(void **state)
{
	struct ring r;

	(void)state;
	assert_int_equal(ring_init(&r, 1 << 20), 0);
	follow_the_model(&r, UINT64_MAX - 5, 300);
	ring_free(&r);
}

#define TRAFFIC ((uint64_t)16 << 20)

static void *produce(void *arg)
{
	struct ring *r = arg;
	struct random random = { 12345 };
	uint64_t put = 0;

	while (put < TRAFFIC) {
		size_t most = ring_room(r);
		size_t n = random_size(&random, most);

		if (n > TRAFFIC - put)
			n = (size_t)(TRAFFIC - put);
		if (n == 0)
			sched_yield();
		put_bytes(r, put, n);
		put += n;
	}
	return NULL;
}

static void producer_and_consumer_may_work_at_once(void **state)
{
	struct ring *r = *state;
	struct random random = { 67890 };
	uint64_t got = 0;
	pthread_t producer;

	assert_int_equal(pthread_create(&producer, NULL, produce, r), 0);
	while (got < TRAFFIC) {
		size_t most = ring_fill(r);
		size_t n = random_size(&random, most);

		assert_true(most <= r->size);
		if (n == 0) {
			sched_yield();
			continue;
		}
		if (!bytes_are(ring_fill_at(r), got, n))
			fail_msg("wrong byte after %llu", (unsigned long long)got);
		ring_taken(r, n);
		got += n;
	}
	pthread_join(producer, NULL);
	assert_int_equal(ring_fill(r), 0);
}

static void nothing_is_left_of_a_freed_ring(void **state)
{
	int fds = count_fds();
	int mappings = count_ring_mappings();
	struct ring r;

	(void)state;
	assert_int_equal(ring_init(&r, 1 << 20), 0);
	assert_int_equal(count_fds(), fds);
	/* Two halves; what lies before them may be a third. */
	assert_in_range(count_ring_mappings(), mappings + 2, mappings + 3);
	ring_free(&r);
	assert_int_equal(count_ring_mappings(), mappings);
}

static void ring_can_be_freed_twice_and_unmade(void **state)
{
	struct ring r;

	(void)state;
	memset(&r, 0, sizeof(r));
	ring_free(&r);
	assert_int_equal(ring_init(&r, 1), 0);
	ring_free(&r);
	assert_null(r.base);
	ring_free(&r);
}

static void no_fd_is_needed(void **state)
{
	struct rlimit kept, none;
	struct ring r;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &kept);
	none = kept;
	none.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &none);
	errno = 0;
	int result = ring_init(&r, 1);
	int err = errno;
	setrlimit(RLIMIT_NOFILE, &kept);

	if (result < 0) { /* where mremap cannot do it: valgrind */
		assert_int_equal(err, EMFILE);
		assert_null(r.base);
	}
	ring_free(&r);
}

#define RING_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static const struct CMUnitTest tests[] = {
	RING_TEST(size_is_the_next_power_of_two_and_a_page_at_least),
	RING_TEST(new_ring_is_empty),
	RING_TEST(ring_of_1_gib_is_made),
	RING_TEST(over_1_gib_is_einval),
	RING_TEST(largest_memory_is_made_or_there_are_no_addresses_for_it),
	RING_TEST(memory_is_mapped_twice_in_a_row),
	RING_TEST(full_ring_is_one_piece_wherever_it_starts),
	RING_TEST(empty_ring_starts_again_at_its_first_byte),
	RING_TEST(ring_that_is_not_empty_stays_where_it_is),
	RING_TEST(put_and_get_copy),
	RING_TEST(nothing_can_be_put_and_got),
	RING_TEST(random_steps_follow_the_model),
	RING_TEST(counters_may_wrap_around),
	RING_TEST(random_steps_follow_the_model_in_a_large_ring),
	RING_TEST(producer_and_consumer_may_work_at_once),
	RING_TEST(nothing_is_left_of_a_freed_ring),
	RING_TEST(ring_can_be_freed_twice_and_unmade),
	RING_TEST(no_fd_is_needed),
};

UNIT_MAIN(tests)
