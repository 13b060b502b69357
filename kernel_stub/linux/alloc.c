// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Pages for a donation: naturally aligned blocks of the page allocator, or
 * exact ranges of pages that can be moved away.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "vdxgk.h"

#define RANGE_ATTEMPTS 64

struct aside {
	struct list_head link;
	struct vdxgk_block *block;
};

static struct vdxgk_block *new_block(unsigned long pages)
{
	struct vdxgk_block *block;

	block = kvzalloc(struct_size(block, used, BITS_TO_LONGS(pages)),
			 GFP_KERNEL);
	if (block)
		block->pages = pages;
	return block;
}

void vdxgk_free_block(struct vdxgk_block *block)
{
	unsigned long pfn = block->base >> PAGE_SHIFT;

	if (block->contig)
		free_contig_range(pfn, block->pages);
	else
		__free_pages(pfn_to_page(pfn), block->order);
	kvfree(block);
}

void vdxgk_free_aside(struct list_head *list)
{
	struct aside *aside, *next;

	list_for_each_entry_safe(aside, next, list, link) {
		list_del(&aside->link);
		vdxgk_free_block(aside->block);
		kfree(aside);
	}
}

static bool put_aside(struct vdxgk_block *block, struct list_head *list)
{
	struct aside *aside = kmalloc(sizeof(*aside), GFP_KERNEL);

	if (!aside)
		return false;
	aside->block = block;
	list_add(&aside->link, list);
	return true;
}

static gfp_t zone_of(u64 highest)
{
	if (highest < DMA_BIT_MASK(24))
		return GFP_DMA;
	if (highest < DMA_BIT_MASK(32))
		return GFP_DMA32;
	return 0;
}

static bool within(const struct vdxgk_block *block,
		   const struct vdxgk_memory_wanted *wanted)
{
	u64 last = block->base + (block->pages << PAGE_SHIFT) - 1;

	return block->base >= wanted->lowest && last <= wanted->highest;
}

static struct vdxgk_block *take_range(unsigned long first, unsigned long pages)
{
	unsigned long last = first + pages - 1;
	struct vdxgk_block *block;

	if (!pfn_valid(first) || !pfn_valid(last) ||
	    page_zone(pfn_to_page(first)) != page_zone(pfn_to_page(last)))
		return NULL;
	block = new_block(pages);
	if (!block)
		return NULL;
	if (vdxgk_compat_take_range(first, last)) {
		kvfree(block);
		return NULL;
	}
	block->base = (u64)first << PAGE_SHIFT;
	block->contig = true;
	return block;
}

/*
 * One block of `pages` pages in a row at a multiple of `alignment` pages, from
 * the top of the bounds down.
 */
struct vdxgk_block *
vdxgk_alloc_range(const struct vdxgk_memory_wanted *wanted,
		  unsigned long pages, unsigned long alignment, u64 highest_ram)
{
	u64 highest = min_t(u64, wanted->highest, highest_ram);
	u64 end = highest >> PAGE_SHIFT; /* exclusive, but for its last page */
	u64 lowest = DIV_ROUND_UP_ULL(wanted->lowest, PAGE_SIZE);
	unsigned int attempt;
	u64 first, step;

	if ((highest & ~PAGE_MASK) == ~PAGE_MASK)
		end++;
	if (end < pages || end - pages < lowest)
		return NULL;
	first = ALIGN_DOWN(end - pages, alignment);
	/* Spread the attempts over the whole window. */
	step = max_t(u64, alignment,
		     ALIGN((end - lowest) / RANGE_ATTEMPTS, alignment));
	for (attempt = 0; attempt < 2 * RANGE_ATTEMPTS; attempt++) {
		struct vdxgk_block *block;

		if (first < lowest)
			break;
		block = take_range(first, pages);
		if (block)
			return block;
		if (first < step)
			break;
		first -= step;
	}
	return NULL;
}

/*
 * One block of 2^order pages within the bounds, or NULL.  What the page
 * allocator gives outside of them is put aside, so that it isn't given again,
 * as long as *aside_left lasts.
 */
struct vdxgk_block *vdxgk_alloc_block(const struct vdxgk_memory_wanted *wanted,
				      unsigned int order,
				      struct list_head *aside,
				      unsigned int *aside_left)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY |
		    zone_of(wanted->highest);

	for (;;) {
		struct vdxgk_block *block = new_block(1ul << order);
		struct page *page;

		if (!block)
			return NULL;
		page = alloc_pages(gfp, order);
		if (!page) {
			kvfree(block);
			return NULL;
		}
		block->base = page_to_phys(page);
		block->order = order;
		if (within(block, wanted))
			return block;
		if (!*aside_left || !put_aside(block, aside)) {
			vdxgk_free_block(block);
			return NULL;
		}
		--*aside_left;
	}
}
