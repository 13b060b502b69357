// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Donated memory: blocks of guest RAM that the backend allocates objects
 * from, how they are handed over and how they come back.
 */
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "vdxgk.h"

/* How many blocks outside of the bounds one donation may hold meanwhile. */
#define ASIDE_BLOCKS 64
/* How often one request may ask for more memory. */
#define DONATIONS_MAX 16
/* What a donation leaves to the guest. */
#define GUEST_RESERVE (32ull << 20)

void vdxgk_memory_init(struct vdxgk_memory *memory)
{
	memory->blocks = RB_ROOT;
	memory->damage.first = VDXGK_NO_ADDRESS;
}

static void insert(struct vdxgk_memory *memory, struct vdxgk_block *block)
{
	struct rb_node **at = &memory->blocks.rb_node, *parent = NULL;

	while (*at) {
		parent = *at;
		if (block->base < rb_entry(parent, struct vdxgk_block, node)->base)
			at = &parent->rb_left;
		else
			at = &parent->rb_right;
	}
	rb_link_node(&block->node, parent, at);
	rb_insert_color(&block->node, &memory->blocks);
	memory->donated += block->pages;
}

static void drop(struct vdxgk_memory *memory, struct vdxgk_block *block)
{
	rb_erase(&block->node, &memory->blocks);
	memory->donated -= block->pages;
	vdxgk_free_block(block);
}

/* The block that holds `gpa`, or NULL. */
struct vdxgk_block *vdxgk_memory_find(struct vdxgk_memory *memory, u64 gpa)
{
	struct rb_node *at = memory->blocks.rb_node;

	while (at) {
		struct vdxgk_block *block =
			rb_entry(at, struct vdxgk_block, node);

		if (gpa < block->base)
			at = at->rb_left;
		else if (gpa >= vdxgk_block_end(block))
			at = at->rb_right;
		else
			return block;
	}
	return NULL;
}

static int highest_end(struct resource *resource, void *data)
{
	u64 *highest = data;

	*highest = max_t(u64, *highest, resource->end);
	return 0;
}

/* The last byte of RAM. */
u64 vdxgk_highest_ram(void)
{
	u64 highest = 0;

	walk_iomem_res_desc(IORES_DESC_NONE,
			    IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0, -1,
			    &highest, highest_end);
	return highest;
}

/* ---- Donating ------------------------------------------------------------ */

struct donation {
	struct vdxgk_device *dev;
	struct vdxgk_range *ranges;
	struct vdxgk_block **blocks;
	u32 count;
	u32 room;
};

static NTSTATUS donation_flush(struct donation *donation)
{
	struct vdxgk_call call = {
		.op = VDXGK_OP_DONATE,
		.list_in = donation->ranges,
		.list_in_size = donation->count * sizeof(*donation->ranges),
	};
	NTSTATUS status;
	u32 i;

	if (!donation->count)
		return STATUS_SUCCESS;
	status = vdxgk_call(donation->dev, &call);
	for (i = 0; i < donation->count; i++) {
		if (NT_SUCCESS(status))
			insert(&donation->dev->memory, donation->blocks[i]);
		else
			vdxgk_free_block(donation->blocks[i]);
	}
	donation->count = 0;
	return status;
}

static NTSTATUS donation_add(struct donation *donation,
			     struct vdxgk_block *block)
{
	vdxgk_canary_write(block->base, block->pages);
	donation->blocks[donation->count] = block;
	donation->ranges[donation->count].base = block->base;
	donation->ranges[donation->count].size =
		(u64)block->pages << PAGE_SHIFT;
	if (++donation->count == donation->room)
		return donation_flush(donation);
	return STATUS_SUCCESS;
}

static unsigned int first_order(const struct vdxgk_memory_wanted *wanted)
{
	u64 largest = (u64)PAGE_SIZE << VDXGK_MAX_ORDER;

	/* Large blocks lie in a row more often than small ones. */
	if (wanted->size >= largest)
		return VDXGK_MAX_ORDER;
	return get_order(clamp_t(u64, wanted->alignment, PAGE_SIZE, largest));
}

static NTSTATUS gather(struct donation *donation,
		       const struct vdxgk_memory_wanted *wanted, bool in_a_row)
{
	unsigned int aside_left = ASIDE_BLOCKS;
	int order = first_order(wanted);
	NTSTATUS status = STATUS_SUCCESS;
	LIST_HEAD(aside);
	u64 got = 0;

	if (in_a_row) {
		struct vdxgk_block *block = vdxgk_alloc_range(
			wanted, wanted->size >> PAGE_SHIFT,
			max_t(u64, wanted->alignment >> PAGE_SHIFT, 1),
			donation->dev->highest_ram);

		if (block)
			return donation_add(donation, block);
	}
	while (got < wanted->size && NT_SUCCESS(status)) {
		struct vdxgk_block *block = vdxgk_alloc_block(
			wanted, order, &aside, &aside_left);

		if (!block && !aside_left)
			block = vdxgk_alloc_range(wanted, 1ul << order,
						  1ul << order,
						  donation->dev->highest_ram);
		if (block) {
			got += (u64)block->pages << PAGE_SHIFT;
			status = donation_add(donation, block);
		} else if (order) {
			order--;
			/* Smaller blocks lie elsewhere: look again. */
			aside_left = max(aside_left, ASIDE_BLOCKS / 8u);
		} else {
			status = STATUS_NO_MEMORY;
		}
	}
	vdxgk_free_aside(&aside);
	return status;
}

/*
 * Give the backend at least what it wants.  in_a_row: it has asked before, so
 * try for one long run.
 *
 * STATUS_NO_MEMORY if the guest can't spare it; what was found until then is
 * donated all the same, for the caller to reclaim.
 */
NTSTATUS vdxgk_memory_donate(struct vdxgk_device *dev,
			     const struct vdxgk_memory_wanted *wanted,
			     bool in_a_row)
{
	u32 room = vdxgk_list_room(sizeof(struct vdxgk_range));
	struct donation donation = { .dev = dev, .room = room };
	u64 available = (u64)si_mem_available() << PAGE_SHIFT;
	NTSTATUS status, flushed;

	if (!wanted->size || !IS_ALIGNED(wanted->size, PAGE_SIZE) ||
	    wanted->lowest > wanted->highest)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	if (available < GUEST_RESERVE ||
	    wanted->size > available - GUEST_RESERVE)
		return STATUS_NO_MEMORY;

	donation.ranges = kvmalloc_array(room, sizeof(*donation.ranges),
					 GFP_KERNEL);
	donation.blocks = kvmalloc_array(room, sizeof(*donation.blocks),
					 GFP_KERNEL);
	if (donation.ranges && donation.blocks) {
		status = gather(&donation, wanted, in_a_row);
		flushed = donation_flush(&donation);
		if (NT_SUCCESS(status))
			status = flushed;
	} else {
		status = STATUS_NO_MEMORY;
	}
	kvfree(donation.blocks);
	kvfree(donation.ranges);
	return status;
}

/* ---- Taking back --------------------------------------------------------- */

static bool take_back(struct vdxgk_device *dev, const struct vdxgk_range *range)
{
	struct vdxgk_block *block = vdxgk_memory_find(&dev->memory, range->base);

	if (!block || block->base != range->base || block->used_count ||
	    (u64)block->pages << PAGE_SHIFT != range->size) {
		dev_err(&dev->pdev->dev,
			"the backend gives back %#llx+%#llx, which is no free block\n",
			(u64)range->base, (u64)range->size);
		return false;
	}
	vdxgk_canary_check(block->base, block->pages, &dev->memory.damage);
	drop(&dev->memory, block);
	return true;
}

/* all: everything that no object uses; else what exceeds the reserve. */
NTSTATUS vdxgk_memory_reclaim(struct vdxgk_device *dev, bool all)
{
	u32 room = vdxgk_list_room(sizeof(struct vdxgk_range));
	struct vdxgk_reclaim_args args = { .all = all };
	struct vdxgk_range *ranges;
	NTSTATUS status;
	u32 i;

	ranges = kvmalloc_array(room, sizeof(*ranges), GFP_KERNEL);
	if (!ranges)
		return STATUS_NO_MEMORY;
	for (;;) {
		struct vdxgk_call call = {
			.op = VDXGK_OP_RECLAIM,
			.args = &args,
			.args_size = sizeof(args),
			.list_out = ranges,
			.list_out_size = room * sizeof(*ranges),
			.entry_size = sizeof(*ranges),
		};

		status = vdxgk_call(dev, &call);
		if (!NT_SUCCESS(status) || !call.data_count)
			break;
		/* Each block goes once, so this ends. */
		for (i = 0; i < call.data_count; i++)
			if (!take_back(dev, &ranges[i]))
				status = STATUS_DEVICE_PROTOCOL_ERROR;
		if (!NT_SUCCESS(status))
			break;
	}
	kvfree(ranges);
	return status;
}

/* A request that may need memory: donate what the backend asks for, repeat. */
NTSTATUS vdxgk_memory_call(struct vdxgk_device *dev, struct vdxgk_call *call)
{
	struct vdxgk_memory_wanted wanted;
	unsigned int donations;
	NTSTATUS status;

	for (donations = 0;; donations++) {
		status = vdxgk_call(dev, call);
		if (status != STATUS_MORE_PROCESSING_REQUIRED)
			break;
		if (donations == DONATIONS_MAX) {
			status = STATUS_NO_MEMORY;
			break;
		}
		memcpy(&wanted, call->result, sizeof(wanted));
		status = vdxgk_memory_donate(dev, &wanted, donations > 0);
		if (!NT_SUCCESS(status))
			break;
	}
	/* What didn't help goes back. */
	if (donations > 1 || (donations && !NT_SUCCESS(status)))
		vdxgk_memory_reclaim(dev, false);
	return status;
}

/* The backend is stopped: whatever is left is the guest's again. */
void vdxgk_memory_free_all(struct vdxgk_device *dev)
{
	struct vdxgk_memory *memory = &dev->memory;
	struct rb_node *first;

	while ((first = rb_first(&memory->blocks)))
		drop(memory, rb_entry(first, struct vdxgk_block, node));
	memory->used = 0;
}
