/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_options.h"

#include <stddef.h>
#include <string.h>

#include "tool.h"
#include "vchan/clock.h"

#define LINGER_S 5
#define LINGER_MOST (UINT64_C(366) * 86400)
#define NOT_SAID (-1)

void stream_preset(struct stream_plan *plan)
{
	memset(plan, 0, sizeof *plan);
	plan->linger = NOT_SAID;
}

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

int stream_take_option(int option, struct stream_plan *plan)
{
	bool good = true;

	switch (option) {
	case 'e':
		plan->exec = optarg;
		break;
	case 'q':
		good = take_linger(plan);
		break;
	case OPTION_SEND_ONLY:
		plan->send_only = true;
		break;
	case OPTION_RECV_ONLY:
		plan->recv_only = true;
		break;
	case OPTION_PROGRESS:
		good = take_progress(plan);
		break;
	case OPTION_SIZE:
		good = take_size(plan);
		break;
	default:
		return 0;
	}
	return good ? 1 : -1;
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

bool stream_take_arguments(int argc, char **argv, struct stream_plan *plan,
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
