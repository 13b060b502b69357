// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that torments the adapter, from user space and with no driver:
 *
 *	fuzzing_guest SEED STEPS PCI
 *
 * maps the BARs of the function at PCI (a folder of sysfs) and does STEPS things to its
 * registers, rings, shared memory and configuration space, most of them nearly right.
 * What it did is told in JSON.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vdxgk_channel.h"

#define PAGE 4096ul
#define SHARED 0x10000
#define BAR0_SIZE (16ul << 20)
#define BAR2_SIZE PAGE
#define BAR4_SIZE (4ul << 20)
#define KINDS 5		/* of handles, by their top byte, from 0xa1 on */
#define KEPT 16		/* handles of a kind */
#define MSIX_TABLE 0x1000
#define REPORT 100000

static volatile uint8_t *bar0, *bar2, *bar4, *shared;
static int config;
static uint64_t state, page_address;
static uint8_t *page;
static uint64_t handles[KINDS][KEPT];
static unsigned long entries, accesses, good, resets, broken;

static const uint64_t edges[] = {
	0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 257, 0xfff, PAGE, PAGE + 1, 3 * PAGE,
	1 << 16, 1 << 21, 0x7fffffff, 0x80000000, 0xfffff000, 0xffffffff, 1ull << 32,
	1ull << 47, ~0ull >> 1, 1ull << 63, ~0ull - PAGE + 1, ~0ull,
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dull >> 8;
}

static int chance(unsigned int of_256)
{
	return (any() & 255) < of_256;
}

static uint64_t handle(void)
{
	return handles[any() % KINDS][any() % KEPT];
}

static uint64_t number(void)
{
	switch (any() & 7) {
	case 0:
	case 1:
		return handle();
	case 2:
	case 3:
		return edges[any() % (sizeof(edges) / sizeof(*edges))];
	case 4:
	case 5:
		return (any() & 255) * PAGE;
	case 6:
		return any() & 3;
	default:
		return any() << 8 ^ any();
	}
}

/* ---- Accesses that QEMU traps --------------------------------------------- */

static uint32_t get(unsigned int reg)
{
	accesses++;
	return *(volatile uint32_t *)(bar4 + reg);
}

static void put(unsigned int reg, uint32_t value)
{
	accesses++;
	*(volatile uint32_t *)(bar4 + reg) = value;
}

static void access_bar(volatile uint8_t *bar, unsigned long offset, int size, int write)
{
	volatile void *at = bar + offset;
	uint64_t value = number();

	accesses++;
	switch (size) {
	case 1:
		write ? (void)(*(volatile uint8_t *)at = value) :
			(void)*(volatile uint8_t *)at;
		break;
	case 2:
		write ? (void)(*(volatile uint16_t *)at = value) :
			(void)*(volatile uint16_t *)at;
		break;
	case 4:
		write ? (void)(*(volatile uint32_t *)at = value) :
			(void)*(volatile uint32_t *)at;
		break;
	default:
		write ? (void)(*(volatile uint64_t *)at = value) :
			(void)*(volatile uint64_t *)at;
	}
}

static void config_write(unsigned int offset, const void *data, int size)
{
	accesses++;
	if (pwrite(config, data, size, offset) != size)
		die("configuration space");
}

static void master(void)
{
	static const uint16_t command = 6; /* memory, bus master */

	config_write(4, &command, 2);
}

static void touch_register(void)
{
	/* A reset ends all that was made, so it is seldom, and not here. */
	unsigned long offset = chance(0xc0) ? any() & 0x7c : any() % (PAGE - 8);
	int size = 1 << (chance(0x80) ? 2 : any() & 3);
	int write = chance(0x80);

	if (chance(0x30)) {
		access_bar(bar2, offset & ~7ul, size, write);
		return;
	}
	if (write && (offset & ~3ul) == VDXGK_REG_CONTROL)
		write = 0;
	access_bar(bar4, offset & ~(size - 1ul), size, write);
}

static void touch_config(void)
{
	static const uint32_t ones = ~0u;
	uint32_t value = number(), old;
	unsigned int offset = any() & 0xfc;

	accesses++;
	if (pread(config, &old, 4, offset) != 4)
		die("configuration space");
	if (offset >= 0x10 && offset < 0x34) {
		/* A BAR elsewhere would hide memory: it is sized, and put back. */
		config_write(offset, &ones, 4);
		config_write(offset, &old, 4);
	} else if (offset != 4) {
		config_write(offset, &value, 1 << (any() % 3));
		config_write(offset, &old, 4);
	} else {
		config_write(4, &value, 1);
	}
	master();
}

/* ---- Rings ------------------------------------------------------------------ */

static volatile struct vdxgk_ring *ring(int number)
{
	return (volatile void *)(shared + number * sizeof(struct vdxgk_ring));
}

static void reset(void)
{
	resets++;
	put(VDXGK_REG_CONTROL, VDXGK_CONTROL_RESET);
	while (!(get(VDXGK_REG_STATUS) & VDXGK_STATUS_READY))
		;
	memset(handles, 0, sizeof(handles));
}

static void learn(void)
{
	volatile struct vdxgk_ring *from = ring(VDXGK_RING_COMPLETIONS);
	int left = VDXGK_RING_ENTRIES;

	while (from->consumer != from->producer && left--) {
		struct vdxgk_completion done;
		uint64_t words[2];
		int i;

		memcpy(&done, (void *)(shared + VDXGK_SHARED_COMPLETIONS +
				       from->consumer % VDXGK_RING_ENTRIES * sizeof(done)),
		       sizeof(done));
		from->consumer++;
		if (done.status)
			continue;
		good++;
		memcpy(words, done.result, sizeof(words));
		for (i = 0; i < 2; i++) {
			unsigned int kind = (words[i] >> 56) - 0xa1;

			if (kind < KINDS)
				handles[kind][any() % KEPT] = words[i];
		}
	}
	if (chance(0xf0)) {
		ring(VDXGK_RING_EVENTS)->consumer = ring(VDXGK_RING_EVENTS)->producer;
		ring(VDXGK_RING_COMMAND_COMPLETIONS)->consumer =
			ring(VDXGK_RING_COMMAND_COMPLETIONS)->producer;
	}
}

static void produce(int number, unsigned long base, const void *entry, unsigned long size)
{
	volatile struct vdxgk_ring *to = ring(number);
	int patience = 20000;

	/* What is taken in is room again; one in a hundred does not wait. */
	while (to->producer - to->consumer >= VDXGK_RING_ENTRIES && patience--)
		if (!(patience % 1000)) {
			learn();
			put(number ? VDXGK_REG_ENGINE_DOORBELL : VDXGK_REG_CHANNEL_DOORBELL, 1);
		}
	if (to->producer - to->consumer >= VDXGK_RING_ENTRIES && !chance(2))
		return;
	memcpy((void *)(shared + base + to->producer % VDXGK_RING_ENTRIES * size), entry, size);
	__sync_synchronize();
	to->producer++;
	entries++;
}

static void request(void)
{
	static const uint8_t often[] = { 1, 2, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10, 11, 11,
					 11, 12, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 };
	struct vdxgk_request request = {
		.op = chance(0xf0) ? often[any() % sizeof(often)] : any() & 255,
		.flags = chance(4) ? any() & 3 : 0,
		.cookie = any(),
		.data_offset = chance(0x20) ? number() : any() % 64 * 48,
		.data_size = chance(0x20) ? number() : any() % 32 * 48,
	};
	uint64_t args[13];
	int i;

	for (i = 0; i < 13; i++)
		args[i] = number();
	switch (chance(0xe0) ? request.op : 0) {
	case VDXGK_OP_START_ADAPTER: {
		struct vdxgk_start_args start = {
			.highest_visible = 0xffffffff,
			.iommu_caps = 4,
			.iommu = VDXGK_IOMMU_TRANSLATED,
			.highest_ram = (8ull << 30) - 1,
			.aperture_end = (1ull << 48) - 1,
			.probe_gpa = page_address,
			.probe_value = any(),
		};

		memcpy(page, &start.probe_value, 8);
		memcpy(args, &start, sizeof(start));
		request.data_size = 0;
		break;
	}
	case VDXGK_OP_DONATE:
		for (i = 0; i < 4; i++) {
			struct vdxgk_range range = { (any() & 0x3fff) * PAGE,
						     (1 + (any() & 15)) * PAGE };

			memcpy((void *)(shared + VDXGK_SHARED_BULK + i * sizeof(range)), &range,
			       sizeof(range));
		}
		request.data_offset = 0;
		request.data_size = sizeof(struct vdxgk_range) * (any() & 3);
		break;
	case VDXGK_OP_CREATE_OBJECT: /* hAdapter, Size, Type and CacheType */
		args[0] = handles[0][any() % KEPT];
		args[1] = (1 + (any() & 31)) * PAGE;
		args[2] = any() % 4 | 1ull << 32;
		args[4] = ~0ull;
		break;
	default: /* nearly all begin with handles */
		args[0] = handle();
		args[1] = chance(0x80) ? handle() : args[1];
	}
	memcpy(request.args, args, sizeof(request.args));
	produce(VDXGK_RING_REQUESTS, VDXGK_SHARED_REQUESTS, &request, sizeof(request));
}

static void command(void)
{
	struct vdxgk_engine_command command = {
		.op = any() % 5,
		.flags = any() % 3,
		.fence = any(),
		.source = chance(0xc0) ? (any() & 0xff) * PAGE : number(),
		.destination = chance(0xc0) ? (any() & 0xff) * PAGE : number(),
		.size = chance(0xe0) ? any() % 0x4000 : number(),
		.value = any(),
		.step = 1,
	};

	produce(VDXGK_RING_COMMANDS, VDXGK_SHARED_COMMANDS, &command, sizeof(command));
}

/* Surfaces and cursors over what may be mapped. */
static void show(void)
{
	int slot = any() & 1, i;
	struct vdxgk_surface surface = {
		.format = 1 + any() % 3,
		.width = chance(0xf0) ? 1 + (any() & 0x3ff) : number(),
		.height = chance(0xf0) ? 1 + (any() & 0x3ff) : number(),
		.pitch = chance(0xf0) ? 4096 + (any() & 7) : number(),
		.flags = any() & 1,
		.run_count = chance(0xf0) ? 1 + (any() & 63) : number(),
		.offset = chance(0xf0) ? any() & 0xfff : number(),
		.sequence = any(),
	};
	struct vdxgk_cursor cursor = {
		.flags = any() & 7,
		.hot_x = any() & 0x4f,
		.hot_y = any() & 0x4f,
	};

	for (i = 0; i < 64; i++) {
		struct vdxgk_range run = { (any() & 0xff) * PAGE, (1 + (any() & 31)) * PAGE };

		memcpy((void *)(shared + VDXGK_SHARED_SURFACE_RUNS +
				(slot * VDXGK_SURFACE_MAX_RUNS + i) * sizeof(run)),
		       &run, sizeof(run));
	}
	for (i = 0; i < 4; i++)
		cursor.pages[i] = (any() & 0xff) * PAGE;
	memcpy((void *)(shared + VDXGK_SHARED_SCANOUT + slot * sizeof(surface)), &surface,
	       sizeof(surface));
	memcpy((void *)(shared + VDXGK_SHARED_SCANOUT + 2 * sizeof(surface)), &cursor,
	       sizeof(cursor));
	put(VDXGK_REG_SCANOUT_CONTROL,
	    chance(0xe0) ? (any() & 7) | VDXGK_SCANOUT_ENABLE : any());
	put(VDXGK_REG_SCANOUT_FLIP, slot);
	put(VDXGK_REG_SCANOUT_CURSOR, 1);
	put(VDXGK_REG_SCANOUT_CURSOR_POSITION, any());
}

/* Entries, indices and lists change while the backend reads them. */
static void race(void)
{
	int count = 256 + (any() & 0x3ff);
	unsigned long around = any() % (VDXGK_SHARED_BULK + 0x1000);

	put(VDXGK_REG_CHANNEL_DOORBELL, 1);
	put(VDXGK_REG_ENGINE_DOORBELL, 1);
	while (count--) {
		unsigned long at = chance(0x80) ? around : VDXGK_SHARED_REQUESTS;

		*(volatile uint64_t *)(shared + at / 8 * 8 + (any() & 0x3f8)) = number();
	}
}

static void scribble(void)
{
	volatile struct vdxgk_ring *one = ring(any() % VDXGK_RINGS);
	uint32_t value = number(), delta = (any() & 255) - 128;

	/* A broken ring ends all that was made, so it is seldom. */
	switch (chance(0x20) ? any() % 3 : 3) {
	case 0:
		one->producer = chance(0x80) ? value : one->producer + delta;
		break;
	case 1:
		one->consumer = chance(0x80) ? value : one->consumer + delta;
		break;
	case 2:
		one->notify = value;
		break;
	default:
		*(volatile uint64_t *)(shared + any() % (BAR4_SIZE - SHARED - 8) / 8 * 8) =
			number();
		*(volatile uint64_t *)(bar0 + any() % (BAR0_SIZE - 8) / 8 * 8) = number();
	}
}

static void storm(void)
{
	int count = any() & 63;

	while (count--)
		put(chance(0x80) ? VDXGK_REG_CHANNEL_DOORBELL : VDXGK_REG_ENGINE_DOORBELL, any());
}

/* Interrupts that nobody takes, at addresses that the IOMMU knows nothing of. */
static void interrupts(unsigned int capability, int on)
{
	uint16_t control = on ? 0x8000 : 0;
	int i;

	for (i = 0; i < VDXGK_VECTORS * 4; i++)
		*(volatile uint32_t *)(bar4 + MSIX_TABLE + 4 * i) = 0;
	if (capability)
		config_write(capability + 2, &control, 2);
}

static void *map(const char *pci, int bar, unsigned long size)
{
	char path[256];
	void *at;
	int file;

	snprintf(path, sizeof(path), "%s/resource%d", pci, bar);
	file = open(path, O_RDWR);
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (file < 0 || at == MAP_FAILED)
		die(path);
	return at;
}

static unsigned int find_msix(void)
{
	uint8_t at = 0, id = 0;

	if (pread(config, &at, 1, 0x34) != 1)
		die("configuration space");
	while (at && pread(config, &id, 1, at) == 1 && id != 0x11)
		if (pread(config, &at, 1, at + 1) != 1)
			die("configuration space");
	return at;
}

int main(int argc, char **argv)
{
	unsigned long steps, step;
	unsigned int msix;
	uint64_t entry = 0;
	char path[256];
	int file;

	if (argc != 4)
		return 2;
	state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ull | 1;
	steps = strtoul(argv[2], NULL, 0);
	snprintf(path, sizeof(path), "%s/enable", argv[3]);
	file = open(path, O_WRONLY);
	if (file < 0 || write(file, "1", 1) != 1)
		die(path);
	snprintf(path, sizeof(path), "%s/config", argv[3]);
	config = open(path, O_RDWR);
	if (config < 0)
		die(path);
	bar0 = map(argv[3], 0, BAR0_SIZE);
	bar2 = map(argv[3], 2, BAR2_SIZE);
	bar4 = map(argv[3], 4, BAR4_SIZE);
	shared = bar4 + SHARED;
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	file = open("/proc/self/pagemap", O_RDONLY);
	if (pread(file, &entry, 8, (uintptr_t)page / PAGE * 8) != 8)
		die("pagemap");
	page_address = (entry & ((1ull << 55) - 1)) * PAGE;
	msix = find_msix();
	master();
	reset();
	for (step = 0; step < steps; step++) {
		unsigned int kind = any() & 255;

		if (kind < 0x70)
			request();
		else if (kind < 0x90)
			command();
		else if (kind < 0xde)
			touch_register();
		else if (kind < 0xe0)
			show();
		else if (kind < 0xe8)
			scribble();
		else if (kind < 0xec)
			race();
		else if (kind < 0xee)
			storm();
		else if (kind < 0xf0)
			touch_config();
		else if (kind < 0xf1)
			interrupts(msix, any() & 1);
		else if (chance(2))
			reset();
		else
			put(VDXGK_REG_CHANNEL_DOORBELL, 1);
		if (!(step & 15)) {
			put(VDXGK_REG_CHANNEL_DOORBELL, 1);
			put(VDXGK_REG_ENGINE_DOORBELL, 1);
			learn();
			if (!(get(VDXGK_REG_STATUS) & VDXGK_STATUS_READY)) {
				broken++;
				reset();
			}
		}
		if (step % REPORT == REPORT - 1)
			fprintf(stderr, "%lu steps, %lu entries, %lu accesses\n", step + 1,
				entries, accesses);
	}
	interrupts(msix, 0);
	master();
	reset();
	printf("{\"entries\": %lu, \"accesses\": %lu, \"good\": %lu, "
	       "\"resets\": %lu, \"broken\": %lu}\n",
	       entries, accesses, good, resets, broken);
	return 0;
}
