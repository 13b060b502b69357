// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for the incrementer, by the ordinary DMA API.
 *
 * Writing to the device's "selftest" attribute runs three jobs on the same
 * streaming mappings and compares what comes back.  The parameter "bug" makes
 * one classic mistake, and "scattered" maps the destination as a scatter list,
 * for the tests of this example.
 */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

enum mistake {
	NO_MISTAKE,
	MISTAKE_USE_AFTER_UNMAP,	/* the second job uses a mapping that is gone */
	MISTAKE_WRONG_DIRECTION,	/* the device shall write where it may read */
	MISTAKE_SHORT_MAPPING,	/* less is mapped than the device is told of */
	MISTAKE_MISSING_SYNC,	/* the CPU takes no ownership between jobs */
	MISTAKE_FORGOTTEN_MASK,	/* the kernel is not told of 28 address lines */
	MISTAKE_KEPT,		/* the CPU takes ownership, and does not return it */
};

static int bug;
module_param(bug, int, 0644);
MODULE_PARM_DESC(bug, "1 use after unmap, 2 wrong direction, 3 short mapping, 4 missing sync, 5 forgotten mask, 6 kept");

static int scattered;
module_param(scattered, int, 0644);
MODULE_PARM_DESC(scattered, "pieces of the destination's scatter list, up to 3; 0 is none");

#define REG_SOURCE	0x00
#define REG_DESTINATION	0x08
#define REG_RECORD	0x10
#define REG_LENGTH	0x18
#define REG_START	0x1c

#define RECORD_DONE	1

#define ADDRESS_BITS	28
#define JOBS		3
#define PIECES		3
#define LENGTH		(3 * PAGE_SIZE - 8)
#define TIMEOUT		(120 * HZ)	/* emulated processors are slow */

struct record {
	__le32 job;
	__le32 status;
};

struct incrementer {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct record *record;
	dma_addr_t record_dma;
	struct completion done;
	u32 job;
	/* One self-test's buffers. */
	u8 *source, *destination;
	dma_addr_t source_dma, destination_dma;
	struct scatterlist pieces[PIECES];
};

static irqreturn_t incrementer_interrupt(int irq, void *data)
{
	struct incrementer *inc = data;

	complete(&inc->done);
	return IRQ_HANDLED;
}

static void write_address(struct incrementer *inc, int reg, dma_addr_t address)
{
	writel(lower_32_bits(address), inc->regs + reg);
	writel(upper_32_bits(address), inc->regs + reg + 4);
}

static int run_job(struct incrementer *inc)
{
	reinit_completion(&inc->done);
	inc->record->status = 0;
	dma_wmb();
	write_address(inc, REG_SOURCE, inc->source_dma);
	write_address(inc, REG_DESTINATION, inc->destination_dma);
	write_address(inc, REG_RECORD, inc->record_dma);
	writel(LENGTH, inc->regs + REG_LENGTH);
	writel(++inc->job, inc->regs + REG_START);
	if (!wait_for_completion_timeout(&inc->done, TIMEOUT))
		return -ETIMEDOUT;
	dma_rmb();
	if (le32_to_cpu(inc->record->job) != inc->job)
		return -EPROTO;
	return le32_to_cpu(inc->record->status) == RECORD_DONE ? 0 : -EFAULT;
}

static void fill(struct incrementer *inc, u8 seed)
{
	unsigned int i;

	for (i = 0; i < LENGTH; i++)
		inc->source[i] = seed + i * 7;
}

static int compare(struct incrementer *inc)
{
	unsigned int i;

	for (i = 0; i < LENGTH; i++)
		if (inc->destination[i] != (u8)(inc->source[i] + 1))
			return -EBADMSG;
	return 0;
}

static enum dma_data_direction destination_direction(void)
{
	return bug == MISTAKE_WRONG_DIRECTION ? DMA_TO_DEVICE : DMA_FROM_DEVICE;
}

static size_t destination_length(void)
{
	return bug == MISTAKE_SHORT_MAPPING ? PAGE_SIZE : LENGTH;
}

/* The device takes one address, so the pieces must become one range of it. */
static int map_pieces(struct incrementer *inc)
{
	struct device *dev = &inc->pdev->dev;
	size_t left = destination_length(), size;
	int i, count = min(scattered, PIECES);

	sg_init_table(inc->pieces, count);
	for (i = 0; i < count; i++) {
		size = i == count - 1 ? left : min_t(size_t, left, PAGE_SIZE);
		sg_set_buf(&inc->pieces[i], inc->destination + i * PAGE_SIZE, size);
		left -= size;
	}
	i = dma_map_sg(dev, inc->pieces, count, destination_direction());
	if (i > 1)
		dma_unmap_sg(dev, inc->pieces, count, destination_direction());
	if (i != 1)
		return -ENOMEM;
	inc->destination_dma = sg_dma_address(inc->pieces);
	return 0;
}

static int map_destination(struct incrementer *inc)
{
	struct device *dev = &inc->pdev->dev;

	if (scattered)
		return map_pieces(inc);
	inc->destination_dma = dma_map_single(dev, inc->destination, destination_length(),
					      destination_direction());
	return dma_mapping_error(dev, inc->destination_dma) ? -ENOMEM : 0;
}

static void unmap_destination(struct incrementer *inc)
{
	struct device *dev = &inc->pdev->dev;

	if (scattered)
		dma_unmap_sg(dev, inc->pieces, min(scattered, PIECES), destination_direction());
	else
		dma_unmap_single(dev, inc->destination_dma, destination_length(),
				 destination_direction());
}

static int map_buffers(struct incrementer *inc)
{
	struct device *dev = &inc->pdev->dev;
	int err;

	inc->source_dma = dma_map_single(dev, inc->source, LENGTH, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, inc->source_dma))
		return -ENOMEM;
	err = map_destination(inc);
	if (err)
		dma_unmap_single(dev, inc->source_dma, LENGTH, DMA_TO_DEVICE);
	return err;
}

/* A job is done: the buffers are the CPU's. */
static void take(struct incrementer *inc, bool destination)
{
	struct device *dev = &inc->pdev->dev;

	if (bug == MISTAKE_MISSING_SYNC)
		return;
	dma_sync_single_for_cpu(dev, inc->source_dma, LENGTH, DMA_TO_DEVICE);
	if (!destination)
		return;
	if (scattered)
		dma_sync_sg_for_cpu(dev, inc->pieces, min(scattered, PIECES), DMA_FROM_DEVICE);
	else
		dma_sync_single_for_cpu(dev, inc->destination_dma, LENGTH, DMA_FROM_DEVICE);
}

/* The next one begins: they are the device's. */
static void give(struct incrementer *inc, bool destination)
{
	struct device *dev = &inc->pdev->dev;

	if (bug == MISTAKE_MISSING_SYNC || bug == MISTAKE_KEPT)
		return;
	dma_sync_single_for_device(dev, inc->source_dma, LENGTH, DMA_TO_DEVICE);
	if (!destination)
		return;
	if (scattered)
		dma_sync_sg_for_device(dev, inc->pieces, min(scattered, PIECES), DMA_FROM_DEVICE);
	else
		dma_sync_single_for_device(dev, inc->destination_dma, LENGTH, DMA_FROM_DEVICE);
}

static int run_jobs(struct incrementer *inc)
{
	bool mapped = true;
	int err, wrong = 0, job;

	for (job = 1;; job++) {
		err = run_job(inc);
		if (err)
			return err;
		if (job == JOBS)
			return wrong;
		if (bug == MISTAKE_USE_AFTER_UNMAP && mapped) {
			unmap_destination(inc);
			mapped = false;
		}
		take(inc, mapped);
		/* Most drivers believe what they find, and go on. */
		err = compare(inc);
		if (!wrong)
			wrong = err;
		fill(inc, job + 1);
		give(inc, mapped);
	}
}

static int selftest(struct incrementer *inc)
{
	int err;

	inc->source = kmalloc(LENGTH, GFP_KERNEL);
	inc->destination = kzalloc(LENGTH, GFP_KERNEL);
	err = inc->source && inc->destination ? 0 : -ENOMEM;
	if (!err) {
		fill(inc, 1);
		err = map_buffers(inc);
	}
	if (!err) {
		err = run_jobs(inc);
		dma_unmap_single(&inc->pdev->dev, inc->source_dma, LENGTH, DMA_TO_DEVICE);
		if (bug != MISTAKE_USE_AFTER_UNMAP)
			unmap_destination(inc);
		if (!err)
			err = compare(inc);
	}
	kfree(inc->source);
	kfree(inc->destination);
	return err;
}

static ssize_t selftest_store(struct device *dev, struct device_attribute *attr,
			      const char *buf, size_t count)
{
	int err = selftest(dev_get_drvdata(dev));

	return err ?: count;
}
static DEVICE_ATTR_WO(selftest);

static struct attribute *incrementer_attrs[] = { &dev_attr_selftest.attr, NULL };
ATTRIBUTE_GROUPS(incrementer);

static int incrementer_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct incrementer *inc;
	int err;

	inc = devm_kzalloc(&pdev->dev, sizeof(*inc), GFP_KERNEL);
	if (!inc)
		return -ENOMEM;
	inc->pdev = pdev;
	init_completion(&inc->done);
	pci_set_drvdata(pdev, inc);

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	inc->regs = pcim_iomap(pdev, 0, 0);
	if (!inc->regs)
		return -ENODEV;
	if (bug != MISTAKE_FORGOTTEN_MASK) {
		err = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(ADDRESS_BITS));
		if (err)
			return err;
	}
	pci_set_master(pdev);
	err = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (err < 0)
		return err;
	inc->record = dmam_alloc_coherent(&pdev->dev, sizeof(*inc->record),
					  &inc->record_dma, GFP_KERNEL);
	if (!inc->record)
		return -ENOMEM;
	return devm_request_irq(&pdev->dev, pci_irq_vector(pdev, 0),
				incrementer_interrupt, 0, "incrementer", inc);
}

static const struct pci_device_id incrementer_ids[] = {
	{ PCI_DEVICE(0x1234, 0x1acc) },
	{ }
};
MODULE_DEVICE_TABLE(pci, incrementer_ids);

static struct pci_driver incrementer_driver = {
	.name = "incrementer",
	.id_table = incrementer_ids,
	.probe = incrementer_probe,
	.dev_groups = incrementer_groups,
};
module_pci_driver(incrementer_driver);

MODULE_DESCRIPTION("Adds one to every byte, by DMA");
MODULE_LICENSE("GPL");
