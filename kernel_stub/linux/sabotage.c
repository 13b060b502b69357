// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Fault injection: do one thing wrong, once, to prove that the backend's
 * checks see it.  Armed by an ioctl; nothing here runs otherwise.
 */
#include "vdxgk.h"

/* Arming again, or with VDXGK_SABOTAGE_NONE, mends what an earlier one left. */
int vdxgk_sabotage_arm(struct vdxgk_device *dev, u32 kind, u32 page)
{
	if (kind > VDXGK_SABOTAGE_LEAVE)
		return -EINVAL;
	if (!dev->domain.domain && kind != VDXGK_SABOTAGE_NONE)
		return -EOPNOTSUPP;
	vdxgk_sabotage_mend(dev);
	dev->sabotage.kind = kind;
	dev->sabotage.page = page;
	return 0;
}

void vdxgk_sabotage_mend(struct vdxgk_device *dev)
{
	struct vdxgk_sabotage *s = &dev->sabotage;

	s->kind = VDXGK_SABOTAGE_NONE;
	if (!s->left_adl.adl)
		return;
	vdxgk_domain_unmap(dev, s->left, PAGE_SIZE);
	/* The list was not released, since a page stayed mapped. */
	vdxgk_call_simple(dev, VDXGK_OP_RELEASE_ADL, &s->left_adl,
			  sizeof(s->left_adl));
	s->left_adl.adl = 0;
}

/* Whether a list's pages [first_page, first_page + pages) are to be mapped
 * by vdxgk_sabotage_map(). */
bool vdxgk_sabotage_hits(struct vdxgk_device *dev, u64 first_page, u64 pages)
{
	const struct vdxgk_sabotage *s = &dev->sabotage;

	switch (s->kind) {
	case VDXGK_SABOTAGE_SKIP:
	case VDXGK_SABOTAGE_WRONG:
	case VDXGK_SABOTAGE_READ_ONLY:
		return s->page >= first_page && s->page - first_page < pages;
	default:
		return false;
	}
}

static int map_page(struct vdxgk_device *dev, u32 kind, u64 logical,
		    u64 physical, u64 *hole)
{
	switch (kind) {
	case VDXGK_SABOTAGE_SKIP:
		*hole = logical;
		return 0;
	case VDXGK_SABOTAGE_WRONG:
		physical = vdxgk_memory_free_page(dev);
		if (physical == VDXGK_NO_ADDRESS)
			return -ENOSPC;
		return vdxgk_domain_map(dev, logical, physical, PAGE_SIZE,
					true);
	default:
		return vdxgk_domain_map(dev, logical, physical, PAGE_SIZE,
					false);
	}
}

/*
 * Map all of `mapping`, whose first page is page first_page of the list, but
 * the armed page wrongly. On failure nothing of it is mapped.
 */
int vdxgk_sabotage_map(struct vdxgk_device *dev,
		       const struct vdxgk_mapping *mapping, u64 first_page,
		       u64 *hole)
{
	u64 head = (dev->sabotage.page - first_page) << PAGE_SHIFT;
	u64 tail = head + PAGE_SIZE;
	u32 kind = dev->sabotage.kind;
	int ret;

	dev->sabotage.kind = VDXGK_SABOTAGE_NONE;
	ret = vdxgk_domain_map(dev, mapping->logical, mapping->physical, head,
			       true);
	if (ret)
		return ret;
	ret = map_page(dev, kind, mapping->logical + head,
		       mapping->physical + head, hole);
	if (ret)
		goto unmap_head;
	ret = vdxgk_domain_map(dev, mapping->logical + tail,
			       mapping->physical + tail, mapping->size - tail,
			       true);
	if (!ret)
		return 0;
	if (kind != VDXGK_SABOTAGE_SKIP)
		vdxgk_domain_unmap(dev, mapping->logical + head, PAGE_SIZE);
	*hole = VDXGK_NO_ADDRESS;
unmap_head:
	vdxgk_domain_unmap(dev, mapping->logical, head);
	return ret;
}

/*
 * A freed list has been unmapped: map the armed page once more, as if it had
 * been forgotten.  (Part of a large leaf can't be left alone: unmapping takes
 * whole leaves.)
 */
void vdxgk_sabotage_leave(struct vdxgk_device *dev, const struct vdxgk_adl *adl)
{
	struct vdxgk_sabotage *s = &dev->sabotage;
	u64 into;
	u32 i;

	if (s->kind != VDXGK_SABOTAGE_LEAVE)
		return;
	into = (u64)s->page << PAGE_SHIFT;
	for (i = 0; i < adl->mapping_count; i++) {
		const struct vdxgk_mapping *m = &adl->mappings[i];

		if (into >= m->size) {
			into -= m->size;
			continue;
		}
		s->kind = VDXGK_SABOTAGE_NONE;
		if (vdxgk_domain_map(dev, m->logical + into, m->physical + into,
				     PAGE_SIZE, true))
			return;
		s->left = m->logical + into;
		s->left_adl.adapter_object = adl->adapter_object;
		s->left_adl.adl = adl->handle;
		return;
	}
}
