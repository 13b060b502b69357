// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Memory behind the device's BARs, for the CPU.
 */
#include <linux/io.h>

#include "vdxgk.h"

/* Whether one memory BAR that has all of `flags` holds all of the range. */
bool vdxgk_bar_holds(struct pci_dev *pdev, u64 start, u64 length,
		     unsigned long flags)
{
	unsigned int bar;

	flags |= IORESOURCE_MEM;
	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		u64 first = pci_resource_start(pdev, bar);
		u64 size = pci_resource_len(pdev, bar);

		if ((pci_resource_flags(pdev, bar) & flags) == flags &&
		    start >= first && start - first < size &&
		    length <= size - (start - first))
			return true;
	}
	return false;
}

/* NULL: no such cache type, or no room. MEMORY_CACHING_TYPE has the same
 * numbers as DXGK_MEMORY_CACHING_TYPE. */
void *vdxgk_bar_map(u64 start, u64 length, u32 cache_type)
{
	void __iomem *mapped;

	switch (cache_type) {
	case DXGK_MEMORY_CACHING_TYPE_NON_CACHED:
		mapped = ioremap(start, length);
		break;
	case DXGK_MEMORY_CACHING_TYPE_CACHED:
		mapped = ioremap_cache(start, length);
		break;
	case DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED:
		mapped = ioremap_wc(start, length);
		break;
	default:
		return NULL;
	}
	return (__force void *)mapped;
}

void vdxgk_bar_unmap(void *base)
{
	iounmap((__force void __iomem *)base);
}
