// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Which donated page belongs to an object.  The shim keeps its own account, so
 * that a backend that errs can't make it touch a page that isn't donated, or
 * is another object's.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>

#include "vdxgk.h"

/*
 * Mark the pages of a run as used or free.  All of them must be the opposite:
 * returns the number of pages done before the first that isn't.
 */
static u64 mark(struct vdxgk_memory *memory, const struct vdxgk_range *run,
		bool used)
{
	u64 at = run->base, end = run->base + run->size, done = 0;

	while (at < end) {
		struct vdxgk_block *block = vdxgk_memory_find(memory, at);
		unsigned long first, count, odd;

		if (!block)
			return done;
		first = (at - block->base) >> PAGE_SHIFT;
		count = (min(end, vdxgk_block_end(block)) - at) >> PAGE_SHIFT;
		odd = used ? find_next_bit(block->used, first + count, first) :
			     find_next_zero_bit(block->used, first + count,
						first);
		odd = min(odd, first + count) - first;
		if (used) {
			bitmap_set(block->used, first, odd);
			block->used_count += odd;
			memory->used += odd;
		} else {
			bitmap_clear(block->used, first, odd);
			block->used_count -= odd;
			memory->used -= odd;
		}
		done += odd;
		if (odd < count)
			return done;
		at += (u64)count << PAGE_SHIFT;
	}
	return done;
}

/*
 * Take the pages of a new object out of the canaries' care.
 * -EINVAL if any isn't a free donated page; then nothing has changed.
 */
int vdxgk_memory_claim(struct vdxgk_device *dev, const struct vdxgk_range *runs,
		       u32 count)
{
	struct vdxgk_memory *memory = &dev->memory;
	struct vdxgk_range part;
	u32 i;

	for (i = 0; i < count; i++) {
		const struct vdxgk_range *run = &runs[i];
		u64 end, done = 0;

		if (IS_ALIGNED(run->base | run->size, PAGE_SIZE) && run->size &&
		    !check_add_overflow((u64)run->base, (u64)run->size, &end))
			done = mark(memory, run, true) << PAGE_SHIFT;
		if (done && done == run->size)
			continue;
		dev_err(&dev->pdev->dev,
			"the backend allocated %#llx+%#llx, which isn't free donated memory\n",
			(u64)run->base, (u64)run->size);
		part.base = run->base;
		part.size = done;
		mark(memory, &part, false);
		while (i--)
			mark(memory, &runs[i], false);
		return -EINVAL;
	}
	for (i = 0; i < count; i++)
		vdxgk_canary_check(runs[i].base, runs[i].size >> PAGE_SHIFT,
				   &memory->damage);
	return 0;
}

/* The object is gone; its pages get their canaries back. */
void vdxgk_memory_release(struct vdxgk_device *dev,
			  const struct vdxgk_range *runs, u32 count)
{
	u32 i;

	for (i = 0; i < count; i++) {
		vdxgk_canary_write(runs[i].base, runs[i].size >> PAGE_SHIFT);
		mark(&dev->memory, &runs[i], false);
	}
}

/* GPA of a donated page that no object owns, or VDXGK_NO_ADDRESS. */
u64 vdxgk_memory_free_page(struct vdxgk_device *dev)
{
	struct rb_node *at;

	for (at = rb_first(&dev->memory.blocks); at; at = rb_next(at)) {
		struct vdxgk_block *block =
			rb_entry(at, struct vdxgk_block, node);
		unsigned long page;

		page = find_first_zero_bit(block->used, block->pages);
		if (page < block->pages)
			return block->base + ((u64)page << PAGE_SHIFT);
	}
	return VDXGK_NO_ADDRESS;
}

/* Look at every donated page that no object owns. */
void vdxgk_memory_scan(struct vdxgk_device *dev,
		       struct vdxgk_ioctl_canary *report)
{
	struct vdxgk_damage damage = { .first = VDXGK_NO_ADDRESS };
	struct vdxgk_memory *memory = &dev->memory;
	struct rb_node *at;

	memset(report, 0, sizeof(*report));
	for (at = rb_first(&memory->blocks); at; at = rb_next(at)) {
		struct vdxgk_block *block =
			rb_entry(at, struct vdxgk_block, node);
		unsigned long first, end;

		for_each_clear_bitrange(first, end, block->used, block->pages) {
			vdxgk_canary_check(block->base +
						   ((u64)first << PAGE_SHIFT),
					   end - first, &damage);
			report->checked += end - first;
		}
	}
	report->damaged = damage.pages;
	report->first = damage.first;
	report->expected = damage.expected;
	report->found = damage.found;
	report->damaged_before = memory->damage.pages;
	report->first_before = memory->damage.first;
}
