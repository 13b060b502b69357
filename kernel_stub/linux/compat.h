/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * Differences between the kernels that the module builds for (6.1 on).
 */
#ifndef VDXGK_COMPAT_H
#define VDXGK_COMPAT_H

#include <linux/gfp.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/pci.h>
#include <linux/version.h>

/* The largest order of the page allocator, inclusive. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
#define VDXGK_MAX_ORDER MAX_PAGE_ORDER
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
#define VDXGK_MAX_ORDER MAX_ORDER
#else
#define VDXGK_MAX_ORDER (MAX_ORDER - 1)
#endif

static inline int vdxgk_compat_iommu_map(struct iommu_domain *domain,
					 unsigned long iova, phys_addr_t paddr,
					 size_t size, int prot)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	return iommu_map(domain, iova, paddr, size, prot, GFP_KERNEL);
#else
	return iommu_map(domain, iova, paddr, size, prot);
#endif
}

/* A paging domain, or an ERR_PTR(). */
static inline struct iommu_domain *vdxgk_compat_domain_alloc(struct device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	return iommu_paging_domain_alloc(dev);
#else
	struct iommu_domain *domain = iommu_domain_alloc(dev->bus);

	return domain ? domain : ERR_PTR(-ENOMEM);
#endif
}

static inline void vdxgk_compat_vm_flags(struct vm_area_struct *vma,
					 unsigned long set, unsigned long clear)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_mod(vma, set, clear);
#else
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#endif
}

/* The pages [first, last] exactly, taken from whatever may be moved away. */
static inline int vdxgk_compat_take_range(unsigned long first,
					  unsigned long last)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
	return alloc_contig_range(first, last + 1, ACR_FLAGS_NONE, gfp);
#else
	return alloc_contig_range(first, last + 1, MIGRATE_MOVABLE, gfp);
#endif
}

#endif
