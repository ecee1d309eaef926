/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vchan/log.c: one line per event, silent unless asked, errno kept. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "vchan/log.h"

static const struct log loud = { LOG_DEBUG, "libvchan_server_init(7, 512)" };

static void line_names_the_library_and_the_subject(void **state)
{
	struct capture capture;

	(void)state;
	capture_start(&capture);
	log_error(&loud, "%d of %s", 3, "these");
	assert_string_equal(capture_end(&capture),
			    "vchan-vsock: libvchan_server_init(7, 512): 3 of these\n");
}

static void errno_survives_every_line(void **state)
{
	static const struct log silent = { LOG_NONE, "" };
	struct capture capture;

	(void)state;
	capture_start(&capture);
	errno = EADDRINUSE;
	log_error(&loud, "error");
	log_info(&loud, "info");
	log_debug(&silent, "debug");
	capture_end(&capture);
	assert_int_equal(errno, EADDRINUSE);
}

static void errno_survives_a_closed_stderr(void **state)
{
	int kept = dup(STDERR_FILENO);

	(void)state;
	close(STDERR_FILENO);
	errno = EADDRINUSE;
	log_error(&loud, "nobody hears this");
	int err = errno;
	dup2(kept, STDERR_FILENO);
	close(kept);
	assert_int_equal(err, EADDRINUSE);
}

static void level_says_what_is_said(void **state)
{
	static const char *const said[] = {
		[LOG_NONE] = "",
		[LOG_ERROR] = "vchan-vsock: x: e\n",
		[LOG_INFO] = "vchan-vsock: x: e\nvchan-vsock: x: i\n",
		[LOG_DEBUG] = "vchan-vsock: x: e\nvchan-vsock: x: i\nvchan-vsock: x: d\n",
	};

	(void)state;
	for (size_t level = 0; level < ARRAY_SIZE(said); level++) {
		struct log log = { (enum log_level)level, "x" };
		struct capture capture;

		capture_start(&capture);
		log_error(&log, "e");
		log_info(&log, "i");
		log_debug(&log, "d");
		assert_string_equal(capture_end(&capture), said[level]);
	}
}

static void long_message_is_still_one_line(void **state)
{
	static char text[10000];
	struct capture capture;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	capture_start(&capture);
	log_error(&loud, "%s", text);
	assert_one_line(capture_end(&capture));
}

static void usual_causes_come_with_advice(void **state)
{
	static const struct {
		int err;
		const char *advice;
	} cases[] = {
		{ EAFNOSUPPORT, "modprobe" },
		{ ENODEV, "guest-cid" },
		{ EACCES, "/dev/vsock" },
		{ EADDRINUSE, "another" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct reason reason = log_reason(cases[i].err);

		assert_contains(reason.text, strerror(cases[i].err));
		assert_contains(reason.text, cases[i].advice);
		assert_null(strchr(reason.text, '\n'));
	}
}

static void every_errno_is_put_in_words(void **state)
{
	(void)state;
	for (int err = 1; err < 200; err++) {
		struct reason reason = log_reason(err);
		const char *words = strerror(err);

		assert_int_equal(strncmp(reason.text, words, strlen(words)), 0);
		assert_true(strlen(reason.text) < sizeof(reason.text) - 1);
	}
}

static void broken_stderr_is_not_fatal(void **state)
{
	struct log log = { .level = LOG_ERROR, .name = "test" };
	struct sigaction kept;
	int ends[2], saved = dup(STDERR_FILENO);

	(void)state;
	assert_int_equal(pipe(ends), 0);
	close(ends[0]);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_DFL }, &kept);
	errno = ERANGE;
	log_error(&log, "nobody reads this");
	assert_int_equal(errno, ERANGE);
	sigaction(SIGPIPE, &kept, NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
}

static void full_stderr_does_not_block(void **state)
{
	struct log log = { .level = LOG_ERROR, .name = "test" };
	int ends[2], saved = dup(STDERR_FILENO);

	(void)state;
	assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
	while (write(ends[1], "0123456789abcdef", 16) > 0)
		;
	fcntl(ends[1], F_SETFL, 0);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	log_error(&log, "there is no room for this");
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(ends[0]);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(line_names_the_library_and_the_subject),
	cmocka_unit_test(errno_survives_every_line),
	cmocka_unit_test(errno_survives_a_closed_stderr),
	cmocka_unit_test(broken_stderr_is_not_fatal),
	cmocka_unit_test(full_stderr_does_not_block),
	cmocka_unit_test(level_says_what_is_said),
	cmocka_unit_test(long_message_is_still_one_line),
	cmocka_unit_test(usual_causes_come_with_advice),
	cmocka_unit_test(every_errno_is_put_in_words),
};

UNIT_MAIN(tests)
