// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * DMA engine commands: submit one and wait for its completion.
 */
#include <string.h>
#include <time.h>

#include "dxgkctl.h"
#include "ntstatus.h"

static const struct {
	const char *name;
	uint32_t op;
} operations[] = {
	{ "nop", VDXGK_ENGINE_NOP },
	{ "copy", VDXGK_ENGINE_COPY },
	{ "fill", VDXGK_ENGINE_FILL },
	{ "crc32", VDXGK_ENGINE_CRC32 },
};

static int parse_operation(const struct options *options, uint32_t *op)
{
	const char *name;
	uint64_t number;
	size_t i;

	if (!options->positional_count)
		return output_error(EXIT_USAGE,
				    "nop, copy, fill or crc32 is missing");
	name = options->positional[0];
	for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (!strcmp(operations[i].name, name)) {
			*op = operations[i].op;
			return EXIT_OK;
		}
	}
	if (!parse_number(name, &number) || number > UINT32_MAX)
		return output_error(EXIT_USAGE, "%s is no DMA operation", name);
	*op = number;
	return EXIT_OK;
}

uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

/* As long as one wait may be; 0: the time is over. */
uint32_t milliseconds_until(uint64_t deadline)
{
	uint64_t now = milliseconds();

	if (now >= deadline)
		return 0;
	return deadline - now < 60000 ? deadline - now : 60000;
}

static int poll_fence(uint64_t fence, struct vdxgk_engine_completion *to,
		      uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_POLL);
	int ret;

	escape->u.poll.completion.fence = fence;
	ret = escape_call(0, status);
	*to = escape->u.poll.completion;
	return ret;
}

/* The count of interrupts is taken before each look, so that none is missed. */
static int wait_fence(uint64_t fence, uint64_t timeout_ms, uint64_t seen,
		      struct vdxgk_engine_completion *to, uint32_t *status)
{
	uint64_t deadline = milliseconds() + timeout_ms;

	for (;;) {
		struct vdxgk_ioctl_interrupt_wait wait = {
			.seen = seen,
			.vector = VDXGK_VECTOR_ENGINE,
		};
		int ret = poll_fence(fence, to, status);

		if (ret || *status != (uint32_t)STATUS_PENDING)
			return ret;
		wait.timeout_ms = milliseconds_until(deadline);
		if (!wait.timeout_ms) {
			*status = STATUS_IO_TIMEOUT;
			return EXIT_OK;
		}
		ret = device_ioctl(VDXGK_IOCTL_INTERRUPT_WAIT, &wait);
		if (ret)
			return ret;
		seen = wait.seen;
	}
}

static void print_fault(const struct vdxgk_engine_completion *completion)
{
	if (!(completion->fault & VDXGK_FAULT_VALID))
		return;
	output_string("fault_access", completion->fault & VDXGK_FAULT_WRITE ?
					      "write" :
					      "read");
	output_number("fault_reason",
		      completion->fault & VDXGK_FAULT_REASON_MASK);
	output_hex("fault_address", completion->fault_address);
}

int command_dma(const struct options *options)
{
	struct vdxgk_ioctl_interrupt_wait before = {
		.vector = VDXGK_VECTOR_ENGINE,
	};
	struct vdxgk_engine_completion completion;
	struct vdxgk_engine_command *command;
	struct vdxgk_escape *escape;
	uint32_t op = 0, status;
	int ret = parse_operation(options, &op);

	if (!ret)
		ret = device_ioctl(VDXGK_IOCTL_INTERRUPT_WAIT, &before);
	if (ret)
		return ret;
	escape = escape_new(VDXGK_ESCAPE_SUBMIT);
	command = &escape->u.submit.command;
	command->op = op;
	command->flags = options->flags;
	if (options->messages)
		command->flags |= VDXGK_ENGINE_MESSAGES;
	command->source = options->source;
	command->destination = options->destination;
	command->size = options->size;
	command->value = options->value;
	command->step = options->step;
	ret = escape_call(0, &status);
	if (ret)
		return ret;
	if ((int32_t)status < 0)
		return output_status(status);
	ret = wait_fence(command->fence, options->timeout * 1000, before.seen,
			 &completion, &status);
	if (ret)
		return ret;
	if ((int32_t)status < 0)
		return output_status(status);
	ret = output_status(completion.status);
	output_number("done", completion.done);
	output_bool("fault", completion.fault & VDXGK_FAULT_VALID);
	print_fault(&completion);
	if (op == VDXGK_ENGINE_CRC32)
		output_hex("crc32", completion.result);
	return ret;
}
