// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * An IOMMU domain of the adapter's own, which the guest's kernel programs
 * and the hypervisor walks.
 */
#include <linux/iommu.h>
#include <linux/slab.h>

#include "compat.h"
#include "vdxgk.h"

static struct iommu_domain *new_domain(struct vdxgk_device *dev)
{
	struct iommu_domain *domain = vdxgk_compat_domain_alloc(&dev->pdev->dev);

	if (IS_ERR(domain))
		dev_err(&dev->pdev->dev, "no IOMMU domain: %pe\n", domain);
	return domain;
}

static void detach(struct vdxgk_device *dev, struct iommu_domain *domain,
		   unsigned int links)
{
	while (links--)
		iommu_detach_device(domain, &dev->links[links]->pdev->dev);
}

/* Before all functions, or before none. */
static int attach(struct vdxgk_device *dev, struct iommu_domain *domain)
{
	struct vdxgk_device *function;
	unsigned int i;
	int ret;

	vdxgk_for_each_link(function, dev, i) {
		ret = iommu_attach_device(domain, &function->pdev->dev);
		if (!ret)
			continue;
		dev_err(&function->pdev->dev,
			"can't attach an IOMMU domain: %pe (is the device alone in its IOMMU group?)\n",
			ERR_PTR(ret));
		detach(dev, domain, i);
		return ret;
	}
	return 0;
}

/* Without an IOMMU before the device there is nothing to do. */
int vdxgk_domain_attach(struct vdxgk_device *dev)
{
	struct vdxgk_domain *d = &dev->domain;
	struct iommu_domain *domain;
	int ret;

	if (!device_iommu_mapped(&dev->pdev->dev))
		return 0;
	domain = new_domain(dev);
	if (IS_ERR(domain))
		return PTR_ERR(domain);
	ret = attach(dev, domain);
	if (ret) {
		iommu_domain_free(domain);
		return ret;
	}
	d->domain = domain;
	d->aperture_start = domain->geometry.aperture_start;
	d->aperture_end = domain->geometry.aperture_end;
	return 0;
}

/*
 * Attach another domain, with the lists mapped in it as in the old one. On
 * failure the old one is attached again.
 */
int vdxgk_domain_switch(struct vdxgk_device *dev)
{
	struct vdxgk_domain *d = &dev->domain;
	struct iommu_domain *old = d->domain, *new = new_domain(dev);
	int ret;

	if (IS_ERR(new))
		return PTR_ERR(new);
	detach(dev, old, dev->cap.link_count);
	d->domain = new;
	ret = attach(dev, new);
	if (!ret) {
		/* Not earlier: virtio-iommu maps in attached domains only. */
		ret = vdxgk_adl_map_all(dev);
		if (ret)
			detach(dev, new, dev->cap.link_count);
	}
	if (ret) {
		d->domain = old;
		if (attach(dev, old))
			dev_err(&dev->pdev->dev, "no domain is attached\n");
	}
	iommu_domain_free(ret ? new : old);
	return ret;
}

void vdxgk_domain_detach(struct vdxgk_device *dev)
{
	struct vdxgk_domain *d = &dev->domain;

	if (!d->domain)
		return;
	detach(dev, d->domain, dev->cap.link_count);
	iommu_domain_free(d->domain);
	d->domain = NULL;
}

/*
 * Logical addresses that the platform keeps for itself, as whole pages.
 * Returns how many ranges; -E2BIG beyond `room`.
 */
static int reserved_of(struct vdxgk_device *dev, struct vdxgk_range *ranges,
		       u32 room)
{
	struct iommu_resv_region *region, *next;
	struct iommu_group *group;
	LIST_HEAD(regions);
	u32 count = 0;
	int ret;

	group = iommu_group_get(&dev->pdev->dev);
	if (!group)
		return -ENODEV;
	ret = iommu_get_group_resv_regions(group, &regions);
	iommu_group_put(group);
	list_for_each_entry_safe(region, next, &regions, list) {
		u64 start = ALIGN_DOWN(region->start, PAGE_SIZE);
		u64 end = ALIGN(region->start + region->length, PAGE_SIZE);

		if (!ret && end > start) {
			if (count < room) {
				ranges[count].base = start;
				ranges[count].size = end - start;
				count++;
			} else {
				ret = -E2BIG;
			}
		}
		/* The group's list is made of copies. */
		list_del(&region->list);
		kfree(region);
	}
	return ret ? ret : count;
}

int vdxgk_domain_reserved(struct vdxgk_device *dev, struct vdxgk_range *ranges,
			  u32 room)
{
	struct vdxgk_device *function;
	unsigned int i;
	u32 count = 0;

	if (!dev->domain.domain)
		return 0;
	vdxgk_for_each_link(function, dev, i) {
		int ret = reserved_of(function, ranges + count, room - count);

		if (ret < 0)
			return ret;
		count += ret;
	}
	return count;
}

int vdxgk_domain_map(struct vdxgk_device *dev, u64 logical, u64 physical,
		     u64 size, bool writable)
{
	int prot = IOMMU_READ | (writable ? IOMMU_WRITE : 0);

	if (!size)
		return 0;
	return vdxgk_compat_iommu_map(dev->domain.domain, logical, physical,
				      size, prot);
}

void vdxgk_domain_unmap(struct vdxgk_device *dev, u64 logical, u64 size)
{
	size_t done;

	if (!size)
		return;
	done = iommu_unmap(dev->domain.domain, logical, size);
	if (done != size)
		dev_err(&dev->pdev->dev,
			"unmapped %#zx bytes of %#llx at logical %#llx\n",
			done, size, logical);
}
