// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * What the device costs a guest: nanoseconds for each repetition, in JSON.
 *
 *	guest_cost objects N		through the driver: create, destroy
 *	guest_cost list N MIB		through the driver: a list over so much,
 *					allocated and freed
 *	guest_cost channel N PCI	the channel by hand, where no driver is bound
 *
 * The callbacks are synchronous, so batches cannot be seen through the driver:
 * the channel is driven by hand for them.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <linux/ioctl.h>

#include "vdxgk_channel.h"
#include "vdxgk_escape.h"
#include "vdxgk_ioctl.h"

#define PAGE 4096ul
#define BATCH VDXGK_RING_ENTRIES
#define SINGLES 32 /* in one repetition */
#define BAR_SIZE (4ul << 20)
#define SHARED 0x10000
#define REPETITIONS_MAX 64

static void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_RAW, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void put(const char *name, const double *values, int count)
{
	static const char *separator = "{";
	int i;

	printf("%s\"%s\":[", separator, name);
	for (i = 0; i < count; i++)
		printf("%s%.0f", i ? "," : "", values[i]);
	putchar(']');
	separator = ",";
}

/* ---- Through the driver -------------------------------------------------- */

static int device = -1;

static void escape(struct vdxgk_escape *what, unsigned int command)
{
	struct vdxgk_ioctl_escape request = {
		.data = (uintptr_t)what,
		.size = sizeof(*what),
	};

	what->command = command;
	what->flags = VDXGK_ESCAPE_OWN_ADAPTER;
	if (ioctl(device, VDXGK_IOCTL_ESCAPE, &request))
		die("the escape failed: %m");
	if (request.status || request.callback_status)
		die("command %u: NTSTATUS %#x, %#x", command, request.status,
		    request.callback_status);
}

static DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT wanted(uint64_t size)
{
	DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT args = {
		.Size = size,
		.Type = DXGK_PHYSICAL_MEMORY_TYPE_CONTIGUOUS_MEMORY,
		.CacheType = 1, /* cached */
	};

	args.ContiguousMemory.HighestAcceptableAddress.QuadPart = -1;
	return args;
}

static struct vdxgk_escape create(uint64_t size)
{
	struct vdxgk_escape made = { .u.create = wanted(size) };

	escape(&made, VDXGK_ESCAPE_CREATE);
	return made;
}

static void destroy(const struct vdxgk_escape *made)
{
	struct vdxgk_escape gone = {
		.u.destroy.hPhysicalMemoryObject =
			made->u.create.hPhysicalMemoryObject,
		.u.destroy.hAdapterMemoryObject =
			made->u.create.hAdapterMemoryObject,
	};

	escape(&gone, VDXGK_ESCAPE_DESTROY);
}

static void open_driver(void)
{
	device = open("/dev/vdxgk0", O_RDWR);
	if (device < 0)
		die("/dev/vdxgk0: %m");
}

static void objects(int repetitions)
{
	static double creates[REPETITIONS_MAX], destroys[REPETITIONS_MAX];
	struct vdxgk_escape made[SINGLES];
	int i, k;

	open_driver();
	for (i = -1; i < repetitions; i++) { /* the first does not count */
		double began = now(), between;

		for (k = 0; k < SINGLES; k++)
			made[k] = create(PAGE);
		between = now();
		for (k = 0; k < SINGLES; k++)
			destroy(&made[k]);
		if (i < 0)
			continue;
		creates[i] = (between - began) / SINGLES;
		destroys[i] = (now() - between) / SINGLES;
	}
	put("create", creates, repetitions);
	put("destroy", destroys, repetitions);
}

static void lists(uint64_t size, int repetitions)
{
	static double times[REPETITIONS_MAX];
	struct vdxgk_escape large;
	int i;

	open_driver();
	large = create(size);
	for (i = 0; i < repetitions; i++) {
		struct vdxgk_escape list = {
			.u.allocate_adl.args = {
				.hAdapterMemoryObject =
					large.u.create.hAdapterMemoryObject,
				.Size = size,
			},
		};
		struct vdxgk_escape gone = { 0 };
		double began = now();

		escape(&list, VDXGK_ESCAPE_ALLOCATE_ADL);
		gone.u.free_adl.id = list.u.allocate_adl.id;
		escape(&gone, VDXGK_ESCAPE_FREE_ADL);
		times[i] = now() - began;
	}
	destroy(&large);
	put("list", times, repetitions);
}

/* ---- The channel by hand ------------------------------------------------- */

static volatile uint8_t *bar;

static volatile uint32_t *reg(unsigned int offset)
{
	return (volatile uint32_t *)(bar + offset);
}

static volatile struct vdxgk_ring *ring(int number)
{
	return (volatile struct vdxgk_ring *)(bar + SHARED) + number;
}

/* Put `count` requests into the ring, ring once, and take their answers. */
static void exchange(struct vdxgk_request *requests,
		     struct vdxgk_completion *answers, unsigned int count)
{
	volatile struct vdxgk_ring *in = ring(VDXGK_RING_REQUESTS);
	volatile struct vdxgk_ring *out = ring(VDXGK_RING_COMPLETIONS);
	uint32_t first = in->producer, taken = out->consumer, i;
	double limit = now() + 60e9;

	for (i = 0; i < count; i++)
		memcpy((void *)(bar + SHARED + VDXGK_SHARED_REQUESTS +
				(first + i) % BATCH * sizeof(*requests)),
		       &requests[i], sizeof(*requests));
	__sync_synchronize();
	in->producer = first + count;
	__sync_synchronize();
	if (in->notify)
		*reg(VDXGK_REG_CHANNEL_DOORBELL) = 1;
	for (i = 0; i < count; i++) {
		while (out->producer == taken)
			if (now() > limit)
				die("no answer within a minute");
		__sync_synchronize();
		memcpy(&answers[i],
		       (void *)(bar + SHARED + VDXGK_SHARED_COMPLETIONS +
				taken % BATCH * sizeof(*answers)),
		       sizeof(*answers));
		out->consumer = ++taken;
		if (answers[i].status)
			die("op %u: NTSTATUS %#x", requests[i].op,
			    answers[i].status);
	}
}

static uint64_t physical(void *address)
{
	int file = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(file, &entry, 8, (uintptr_t)address / PAGE * 8) != 8 ||
	    !(entry >> 63))
		die("no page frame number: %m");
	close(file);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static uint64_t start_adapter(uint8_t *page)
{
	struct vdxgk_request request = { .op = VDXGK_OP_START_ADAPTER };
	struct vdxgk_start_args args = {
		.highest_visible = ~0ull,
		.highest_ram = 1,
		.probe_gpa = physical(page),
		.probe_value = 0x123456789abcdef,
		.mode = VDXGK_MODE_PHYSICAL,
	};
	struct vdxgk_start_result result;
	struct vdxgk_completion answer;

	memcpy(page, &args.probe_value, 8);
	memcpy(request.args, &args, sizeof(args));
	exchange(&request, &answer, 1);
	memcpy(&result, answer.result, sizeof(result));
	return result.adapter;
}

static void donate(uint8_t *pages, unsigned int count)
{
	struct vdxgk_range *bulk =
		(void *)(bar + SHARED + VDXGK_SHARED_BULK);
	struct vdxgk_request request = {
		.op = VDXGK_OP_DONATE,
		.data_size = count * sizeof(*bulk),
	};
	struct vdxgk_completion answer;
	unsigned int i;

	for (i = 0; i < count; i++) {
		bulk[i].base = physical(pages + i * PAGE);
		bulk[i].size = PAGE;
	}
	exchange(&request, &answer, 1);
}

static void channel(const char *pci, int repetitions)
{
	static double traps[REPETITIONS_MAX], creates[REPETITIONS_MAX];
	static double destroys[REPETITIONS_MAX];
	static struct vdxgk_request requests[BATCH];
	static struct vdxgk_completion answers[BATCH];
	const unsigned int pages = 2 * BATCH;
	uint64_t adapter;
	uint8_t *memory;
	char path[256];
	int file, i, k;

	snprintf(path, sizeof(path), "%s/enable", pci);
	file = open(path, O_WRONLY);
	if (file < 0 || write(file, "1", 1) != 1)
		die("%s: %m", path);
	snprintf(path, sizeof(path), "%s/resource4", pci);
	file = open(path, O_RDWR);
	bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (file < 0 || bar == MAP_FAILED)
		die("%s: %m", path);
	if (*reg(VDXGK_REG_MAGIC) != VDXGK_MAGIC)
		die("%s: not the channel", path);
	*reg(VDXGK_REG_CONTROL) = VDXGK_CONTROL_RESET;
	while (!(*reg(VDXGK_REG_STATUS) & VDXGK_STATUS_READY))
		;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	if (memory == MAP_FAILED)
		die("memory: %m");
	memset(memory, 1, pages * PAGE);
	adapter = start_adapter(memory);
	donate(memory, pages);

	for (i = -1; i < repetitions; i++) {
		double began = now(), after_traps, after_creates;

		for (k = 0; k < BATCH; k++)
			(void)*reg(VDXGK_REG_MAGIC);
		after_traps = now();
		for (k = 0; k < BATCH; k++) {
			DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT args =
				wanted(PAGE);

			args.hAdapter = (HANDLE)(uintptr_t)adapter;
			requests[k] = (struct vdxgk_request){
				.op = VDXGK_OP_CREATE_OBJECT,
				.cookie = k + 1,
				.data_offset = k * sizeof(struct vdxgk_range),
				.data_size = sizeof(struct vdxgk_range),
			};
			memcpy(requests[k].args, &args, sizeof(args));
		}
		exchange(requests, answers, BATCH);
		after_creates = now();
		for (k = 0; k < BATCH; k++) {
			struct vdxgk_create_result made;
			DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT args;

			memcpy(&made, answers[k].result, sizeof(made));
			args.hPhysicalMemoryObject =
				(HANDLE)(uintptr_t)made.object;
			args.hAdapterMemoryObject =
				(HANDLE)(uintptr_t)made.adapter_object;
			requests[k] = (struct vdxgk_request){
				.op = VDXGK_OP_DESTROY_OBJECT,
				.cookie = k + 1,
			};
			memcpy(requests[k].args, &args, sizeof(args));
		}
		exchange(requests, answers, BATCH);
		if (i >= 0) {
			traps[i] = (after_traps - began) / BATCH;
			creates[i] = (after_creates - after_traps) / BATCH;
			destroys[i] = (now() - after_creates) / BATCH;
		}
	}
	put("trap", traps, repetitions);
	put("batch_create", creates, repetitions);
	put("batch_destroy", destroys, repetitions);
	/* Nothing of this process may be the adapter's when it goes. */
	*reg(VDXGK_REG_CONTROL) = VDXGK_CONTROL_RESET;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[1] : "";
	int repetitions = argc > 2 ? atoi(argv[2]) : 0;

	if (repetitions < 1 || repetitions > REPETITIONS_MAX)
		die("from 1 to %d repetitions", REPETITIONS_MAX);
	if (!strcmp(mode, "objects"))
		objects(repetitions);
	else if (!strcmp(mode, "list") && argc == 4)
		lists((uint64_t)atoi(argv[3]) << 20, repetitions);
	else if (!strcmp(mode, "channel") && argc == 4)
		channel(argv[3], repetitions);
	else
		die("usage: guest_cost objects N | list N MIB | channel N PCI");
	puts("}");
	return 0;
}
