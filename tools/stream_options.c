/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_options.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "stream_stop.h"
#include "tool.h"
#include "vchan/clock.h"

#define LINGER_S 5
#define LINGER_MOST (UINT64_C(366) * 86400)
#define NOT_SAID (-1)

static bool take_linger(struct stream_plan *plan)
{
	uint64_t seconds;

	if (strcmp(optarg, "forever") == 0) {
		plan->linger = CLOCK_NEVER;
		return true;
	}
	if (!tool_number("--linger", optarg, 0, LINGER_MOST, &seconds))
		return false;
	plan->linger = (int64_t)seconds * CLOCK_S;
	return true;
}

static bool take_progress(struct stream_plan *plan)
{
	plan->progress = true;
	if (!optarg)
		return true;
	plan->progress_always = strcmp(optarg, "always") == 0;
	if (!plan->progress_always)
		tool_usage("--progress: \"%s\" is not \"always\"", optarg);
	return plan->progress_always;
}

static bool take_size(struct stream_plan *plan)
{
	plan->progress = true;
	return tool_size("--size", optarg, INT64_MAX, &plan->size);
}

bool stream_take_option(int option, struct stream_plan *plan)
{
	switch (option) {
	case 'e':
		plan->exec = optarg;
		return true;
	case 'q':
		return take_linger(plan);
	case OPTION_SEND_ONLY:
		plan->send_only = true;
		return true;
	case OPTION_RECV_ONLY:
		plan->recv_only = true;
		return true;
	case OPTION_PROGRESS:
		return take_progress(plan);
	case OPTION_SIZE:
		return take_size(plan);
	default:
		return false;
	}
}

static bool go_together(const struct stream_plan *plan)
{
	if (plan->send_only && plan->recv_only)
		tool_usage("--send-only and --recv-only leave nothing to do");
	else if (plan->exec && (plan->send_only || plan->recv_only))
		tool_usage("--exec has both directions: no --send-only, no --recv-only");
	else if (plan->exec && plan->linger != NOT_SAID)
		tool_usage("with --exec the command's end closes the channel: no --linger");
	else
		return true;
	return false;
}

/* After all options: do they go together, and are there DOMAIN and PORT? */
static bool take_arguments(int argc, char **argv, struct stream_plan *plan,
			   struct channel_address *address)
{
	if (!go_together(plan))
		return false;
	if (plan->linger == NOT_SAID)
		plan->linger = plan->send_only ? 0 : LINGER_S * CLOCK_S;
	if (argc - optind < 2) {
		tool_usage("DOMAIN and PORT are missing");
		return false;
	}
	if (argc - optind > 2) {
		tool_usage("one argument too many: %s", argv[optind + 2]);
		return false;
	}
	return tool_domain(argv[optind], &address->domain) &&
	       tool_port(argv[optind + 1], &address->port);
}

int stream_take_words(int argc, char **argv, const char *short_options,
		      const struct option *options, bool (*take)(void *wish, int option),
		      struct stream_wish *wish)
{
	int status;

	wish->plan.linger = NOT_SAID;
	status = tool_options(argc, argv, short_options, options, take, wish);
	if (status == TOOL_GO_ON && !take_arguments(argc, argv, &wish->plan, &wish->address))
		return TOOL_USAGE;
	return status;
}

int stream_begin(const struct stream_wish *wish, bool server, struct stream_input *input)
{
	int stop_fd;

	stream_open_input(input, &wish->plan);
	stop_fd = stop_begin();
	if (stop_fd < 0)
		tool_failed("eventfd: %s", strerror(errno));
	else if (channel_check(&wish->address, server))
		return stop_fd;
	return -1;
}
