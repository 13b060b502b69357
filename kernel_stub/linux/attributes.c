// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Page attributes.  All mappings of a page share one cache type, the kernel's
 * own included, so while an object that isn't cached has a view, its pages
 * have that type everywhere.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <asm/memtype.h>
#include <asm/set_memory.h>

#include "vdxgk.h"

/* The pages of a part of an object, or NULL. */
struct page **vdxgk_object_pages(const struct vdxgk_object *object, u64 offset,
				 u64 size)
{
	unsigned long count = size >> PAGE_SHIFT, done = 0;
	struct page **pages;
	u32 i;

	pages = kvmalloc_array(count, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return NULL;
	for (i = 0; i < object->run_count && done < count; i++) {
		const struct vdxgk_range *run = &object->runs[i];

		if (offset >= run->size) {
			offset -= run->size;
			continue;
		}
		for (; offset < run->size && done < count; offset += PAGE_SIZE)
			pages[done++] = pfn_to_page((run->base + offset) >>
						    PAGE_SHIFT);
		offset = 0;
	}
	if (done == count)
		return pages;
	kvfree(pages);
	return NULL;
}

/* `prot` with a cache type; false: there is no such type. */
bool vdxgk_attributes_apply(u32 cache_type, pgprot_t *prot)
{
	switch (cache_type) {
	case DXGK_MEMORY_CACHING_TYPE_NON_CACHED:
		*prot = pgprot_noncached(*prot);
		return true;
	case DXGK_MEMORY_CACHING_TYPE_CACHED:
		return true;
	case DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED:
		*prot = pgprot_writecombine(*prot);
		return true;
	default:
		return false;
	}
}

static bool has_own_attributes(const struct vdxgk_object *object)
{
	return object->owns_memory &&
	       object->cache_type != DXGK_MEMORY_CACHING_TYPE_CACHED;
}

/* A view is about to come. */
int vdxgk_attributes_get(struct vdxgk_object *object)
{
	unsigned long count = object->size >> PAGE_SHIFT;
	struct page **pages;
	int ret;

	if (!has_own_attributes(object) || object->attribute_users) {
		object->attribute_users++;
		return 0;
	}
	pages = vdxgk_object_pages(object, 0, object->size);
	if (!pages)
		return -ENOMEM;
	if (object->cache_type == DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED)
		ret = set_pages_array_wc(pages, count);
	else
		ret = set_pages_array_uc(pages, count);
	kvfree(pages);
	if (!ret)
		object->attribute_users++;
	return ret;
}

/* A view has gone. */
void vdxgk_attributes_put(struct vdxgk_object *object)
{
	u32 i;

	if (--object->attribute_users || !has_own_attributes(object))
		return;
	/* Without memory of our own: this must not fail. */
	for (i = 0; i < object->run_count; i++) {
		unsigned long pfn = object->runs[i].base >> PAGE_SHIFT;
		unsigned long pages = object->runs[i].size >> PAGE_SHIFT;

		for (; pages; pages--, pfn++) {
			struct page *page = pfn_to_page(pfn);

			set_pages_array_wb(&page, 1);
		}
	}
}

/* ---- What the page tables say -------------------------------------------- */

static pte_t *user_entry(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud))
		return NULL;
	pmd = pmd_offset(pud, address);
	if (pmd_none(*pmd))
		return NULL;
	return pte_offset_kernel(pmd, address);
}

static u32 attributes_at(struct mm_struct *mm, unsigned long address,
			 bool *writable)
{
	static const enum page_cache_mode modes[] = {
		[VDXGK_ATTRIBUTES_WRITE_BACK] = _PAGE_CACHE_MODE_WB,
		[VDXGK_ATTRIBUTES_WRITE_COMBINING] = _PAGE_CACHE_MODE_WC,
		[VDXGK_ATTRIBUTES_UNCACHED_MINUS] = _PAGE_CACHE_MODE_UC_MINUS,
		[VDXGK_ATTRIBUTES_UNCACHED] = _PAGE_CACHE_MODE_UC,
	};
	unsigned int level = PG_LEVEL_4K;
	pte_t *entry = mm ? user_entry(mm, address) :
			    lookup_address(address, &level);
	pgprot_t prot;
	u32 i;

	if (!entry || !pte_present(*entry))
		return VDXGK_ATTRIBUTES_UNKNOWN;
	prot = pte_pgprot(*entry);
	if (level != PG_LEVEL_4K)
		prot = pgprot_large_2_4k(prot);
	*writable &= !!pte_write(*entry);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		if ((pgprot_val(prot) & _PAGE_CACHE_MASK) ==
		    cachemode2protval(modes[i]))
			return i;
	return VDXGK_ATTRIBUTES_UNKNOWN;
}

/*
 * What all pages of a view have in common, from the page tables that the CPU
 * walks; VDXGK_ATTRIBUTES_UNKNOWN if they differ or aren't there.  A view of
 * user mode is asked for in its process.
 */
u32 vdxgk_attributes_of(const struct vdxgk_view *view, bool *writable)
{
	unsigned long base = (unsigned long)view->base;
	u32 found = VDXGK_ATTRIBUTES_UNKNOWN;
	u64 offset;

	*writable = true;
	if (view->mm)
		mmap_read_lock(view->mm);
	for (offset = 0; offset < view->size; offset += PAGE_SIZE) {
		u32 here = attributes_at(view->mm, base + offset, writable);

		if (offset && here != found)
			here = VDXGK_ATTRIBUTES_UNKNOWN;
		found = here;
		if (found == VDXGK_ATTRIBUTES_UNKNOWN)
			break;
	}
	if (view->mm)
		mmap_read_unlock(view->mm);
	return found;
}

/* The page that the byte at `offset` of a view lies in, by the page tables that
 * the CPU walks; 0: none. Views of the kernel mode only. */
u64 vdxgk_frame_of(const struct vdxgk_view *view, u64 offset)
{
	unsigned long address = (unsigned long)view->base + offset;
	unsigned int level = PG_LEVEL_4K;
	pte_t *entry = lookup_address(address, &level);

	if (!entry || !pte_present(*entry) || level != PG_LEVEL_4K)
		return 0;
	return pte_pfn(*entry);
}
