// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * An IOMMU domain of the adapter's own, which the guest's kernel programs
 * and the hypervisor walks.
 */
#include <linux/iommu.h>
#include <linux/slab.h>

#include "compat.h"
#include "vdxgk.h"

/* Without an IOMMU before the device there is nothing to do. */
int vdxgk_domain_attach(struct vdxgk_device *dev)
{
	struct device *device = &dev->pdev->dev;
	struct vdxgk_domain *d = &dev->domain;
	struct iommu_domain *domain;
	int ret;

	if (!device_iommu_mapped(device))
		return 0;
	domain = vdxgk_compat_domain_alloc(device);
	if (IS_ERR(domain)) {
		ret = PTR_ERR(domain);
		dev_err(device, "no IOMMU domain: %pe\n", ERR_PTR(ret));
		return ret;
	}
	ret = iommu_attach_device(domain, device);
	if (ret) {
		dev_err(device,
			"can't attach an IOMMU domain: %pe (is the device alone in its IOMMU group?)\n",
			ERR_PTR(ret));
		iommu_domain_free(domain);
		return ret;
	}
	d->domain = domain;
	d->aperture_start = domain->geometry.aperture_start;
	d->aperture_end = domain->geometry.aperture_end;
	return 0;
}

void vdxgk_domain_detach(struct vdxgk_device *dev)
{
	struct vdxgk_domain *d = &dev->domain;

	if (!d->domain)
		return;
	iommu_detach_device(d->domain, &dev->pdev->dev);
	iommu_domain_free(d->domain);
	d->domain = NULL;
}

/*
 * Logical addresses that the platform keeps for itself, as whole pages.
 * Returns how many ranges; -E2BIG beyond `room`.
 */
int vdxgk_domain_reserved(struct vdxgk_device *dev, struct vdxgk_range *ranges,
			  u32 room)
{
	struct iommu_resv_region *region, *next;
	struct iommu_group *group;
	LIST_HEAD(regions);
	u32 count = 0;
	int ret;

	if (!dev->domain.domain)
		return 0;
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
