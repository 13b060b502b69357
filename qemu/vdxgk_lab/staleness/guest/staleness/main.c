// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Maps a page, lets the device watch it, unmaps it, and waits until the device
 * is refused: again and again, by the kernel's DMA API or by a domain of the
 * stub's own.  The device keeps the times.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "vdxgk.h"

#define REG_ADDRESS 0x00
#define REG_COMMAND 0x08
#define REG_STATE 0x0c

#define COMMAND_UNMAPPING 3
#define COMMAND_UNMAPPED 4

#define STATE_WATCHING 1
#define STATE_REFUSED 2

#define POLL_US 500
#define POLLS 120000 /* a minute */

static unsigned int samples = 100;
module_param(samples, uint, 0444);
static unsigned int path = 1;
module_param(path, uint, 0444);
MODULE_PARM_DESC(path, "how the device reads: 1 by descriptors, 2 by messages");
static bool own_domain;
module_param(own_domain, bool, 0444);
MODULE_PARM_DESC(own_domain, "map by the stub's own domain, not by the DMA API");
static unsigned int traffic_us;
module_param(traffic_us, uint, 0444);
MODULE_PARM_DESC(traffic_us, "only map, for so many microseconds, and unmap: in bursts");

#define BURST 8 /* pages mapped at once, of traffic */
#define IDLE 5 /* times as long as they are mapped */

/* Where the stub's domain has the page: far from its physical address. */
#define OWN_ADDRESS 0x40000000ull

struct watch {
	struct vdxgk_device stub; /* of it, what its domain.c looks at */
	void __iomem *registers;
	struct page *page;
	u64 address;
};

/* What domain.c does to the lists when it changes domains; here are none. */
int vdxgk_adl_map_all(struct vdxgk_device *dev)
{
	return 0;
}

static int wait_for(struct watch *w, u32 state)
{
	unsigned int left;

	for (left = POLLS; left; left--) {
		if (readl(w->registers + REG_STATE) == state)
			return 0;
		usleep_range(POLL_US, 2 * POLL_US);
	}
	dev_err(&w->stub.pdev->dev, "no state %u of the device\n", state);
	return -ETIMEDOUT;
}

static int map(struct watch *w)
{
	struct device *dev = &w->stub.pdev->dev;

	if (own_domain) {
		w->address = OWN_ADDRESS;
		return vdxgk_domain_map(&w->stub, w->address,
					page_to_phys(w->page), PAGE_SIZE, true);
	}
	w->address = dma_map_page(dev, w->page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL);
	return dma_mapping_error(dev, w->address);
}

static void unmap(struct watch *w)
{
	if (own_domain)
		vdxgk_domain_unmap(&w->stub, w->address, PAGE_SIZE);
	else
		dma_unmap_page(&w->stub.pdev->dev, w->address, PAGE_SIZE,
			       DMA_BIDIRECTIONAL);
}

static int sample(struct watch *w)
{
	u64 *word = page_address(w->page);
	int ret = map(w);

	if (ret)
		return ret;
	WRITE_ONCE(*word, w->address);
	writeq(w->address, w->registers + REG_ADDRESS);
	writel(path, w->registers + REG_COMMAND);
	ret = wait_for(w, STATE_WATCHING);
	writel(COMMAND_UNMAPPING, w->registers + REG_COMMAND);
	unmap(w);
	writel(COMMAND_UNMAPPED, w->registers + REG_COMMAND);
	/* The page is the CPU's again: whoever reads this reads too late. */
	WRITE_ONCE(*word, ~w->address);
	return ret ?: wait_for(w, STATE_REFUSED);
}

/* Every other page is for the device to read only. */
static enum dma_data_direction direction(unsigned int i)
{
	return i % 2 ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
}

static int burst(struct device *dev, struct page **pages)
{
	dma_addr_t addresses[BURST];
	unsigned int mapped;
	int ret = 0;

	for (mapped = 0; mapped < BURST; mapped++) {
		addresses[mapped] = dma_map_page(dev, pages[mapped], 0,
						 PAGE_SIZE, direction(mapped));
		ret = dma_mapping_error(dev, addresses[mapped]);
		if (ret)
			break;
	}
	usleep_range(traffic_us, traffic_us + 50);
	while (mapped--)
		dma_unmap_page(dev, addresses[mapped], PAGE_SIZE,
			       direction(mapped));
	return ret;
}

static int traffic(struct device *dev)
{
	struct page *pages[BURST] = {};
	unsigned int i;
	int ret = 0;

	for (i = 0; i < BURST; i++) {
		pages[i] = alloc_page(GFP_KERNEL);
		if (!pages[i])
			ret = -ENOMEM;
	}
	for (i = 0; i < samples && !ret; i++) {
		ret = burst(dev, pages);
		usleep_range(IDLE * traffic_us, IDLE * traffic_us + 50);
	}
	for (i = 0; i < BURST; i++)
		if (pages[i])
			__free_page(pages[i]);
	return ret;
}

static int run(struct watch *w)
{
	unsigned int i;
	int ret = 0;

	if (traffic_us)
		return traffic(&w->stub.pdev->dev);
	for (i = 0; i < samples && !ret; i++)
		ret = sample(w);
	return ret;
}

static int staleness_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct watch *w;
	int ret;

	w = devm_kzalloc(&pdev->dev, sizeof(*w), GFP_KERNEL);
	if (!w)
		return -ENOMEM;
	w->stub.pdev = pdev;
	w->stub.cap.link_count = 1;
	w->stub.links[0] = &w->stub;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	w->registers = pcim_iomap(pdev, 0, 0);
	if (!w->registers)
		return -ENOMEM;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	w->page = alloc_page(GFP_KERNEL);
	if (!w->page)
		return -ENOMEM;
	pci_set_master(pdev);
	if (own_domain)
		ret = vdxgk_domain_attach(&w->stub);
	if (!ret)
		ret = run(w);
	if (own_domain)
		vdxgk_domain_detach(&w->stub);
	pci_clear_master(pdev);
	__free_page(w->page);
	if (!ret)
		dev_info(&pdev->dev, "%u samples\n", samples);
	return ret;
}

static const struct pci_device_id staleness_ids[] = {
	{ PCI_DEVICE(0x1234, 0x57a1) },
	{}
};
MODULE_DEVICE_TABLE(pci, staleness_ids);

static struct pci_driver staleness_driver = {
	.name = "staleness",
	.id_table = staleness_ids,
	.probe = staleness_probe,
};
module_pci_driver(staleness_driver);

MODULE_DESCRIPTION("how long a device reaches a page that was unmapped");
MODULE_LICENSE("Dual MIT/GPL");
