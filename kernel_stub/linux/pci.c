// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The PCI driver: finds the channel, sets it up, starts the adapter.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "vdxgk.h"

static char *mode = "auto";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "how memory is addressed: auto, physical or logical");

static u32 wanted_mode; /* VDXGK_MODE_*, from `mode` */

static int parse_mode(void)
{
	static const char *const names[] = {
		[VDXGK_MODE_AUTO] = "auto",
		[VDXGK_MODE_PHYSICAL] = "physical",
		[VDXGK_MODE_LOGICAL] = "logical",
	};
	u32 i;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(names[i], mode)) {
			wanted_mode = i;
			return 0;
		}
	}
	pr_err("vdxgk: mode=%s is none of auto, physical, logical\n", mode);
	return -EINVAL;
}

static void release_device(struct kref *ref)
{
	struct vdxgk_device *dev = container_of(ref, struct vdxgk_device, ref);

	pci_dev_put(dev->pdev);
	kfree(dev);
}

void vdxgk_device_put(struct vdxgk_device *dev)
{
	kref_put(&dev->ref, release_device);
}

/* -ENODEV without a word: another device with these IDs, for its own driver. */
static int find_capability(struct pci_dev *pdev, struct vdxgk_pci_cap *cap)
{
	int at = pci_find_capability(pdev, VDXGK_PCI_CAP_ID);
	unsigned int left;

	/* Bounded: the list may run in a circle. */
	for (left = 48; at && left; left--) {
		u32 words[sizeof(*cap) / sizeof(u32)];
		unsigned int i;

		for (i = 0; i < ARRAY_SIZE(words); i++)
			if (pci_read_config_dword(pdev, at + 4 * i, &words[i]))
				return -ENODEV;
		memcpy(cap, words, sizeof(*cap));
		if (cap->magic == VDXGK_MAGIC &&
		    cap->cap_length >= sizeof(*cap))
			return 0;
		at = pci_find_next_capability(pdev, at, VDXGK_PCI_CAP_ID);
	}
	return -ENODEV;
}

static int check_capability(struct vdxgk_device *dev)
{
	const struct vdxgk_pci_cap *cap = &dev->cap;
	struct pci_dev *pdev = dev->pdev;
	u64 length;

	if (cap->version != VDXGK_PCI_CAP_VERSION ||
	    cap->bar >= PCI_STD_NUM_BARS ||
	    !(pci_resource_flags(pdev, cap->bar) & IORESOURCE_MEM) ||
	    !cap->link_count || cap->link_count > VDXGK_LINKS_MAX ||
	    cap->link_index >= cap->link_count)
		goto bad;
	length = pci_resource_len(pdev, cap->bar);
	if (!PAGE_ALIGNED(cap->registers_offset | cap->shared_offset) ||
	    (u64)cap->registers_offset + VDXGK_REG_PAGE_SIZE > length ||
	    (u64)cap->shared_offset + cap->shared_size > length ||
	    cap->shared_size < VDXGK_SHARED_BULK + VDXGK_BULK_SLICE)
		goto bad;
	return 0;
bad:
	dev_err(&pdev->dev, "the vendor capability makes no sense\n");
	return -ENODEV;
}

static int map_bar(struct vdxgk_device *dev)
{
	resource_size_t start = pci_resource_start(dev->pdev, dev->cap.bar);
	u32 magic, version;

	dev->registers =
		ioremap(start + dev->cap.registers_offset, VDXGK_REG_PAGE_SIZE);
	if (!dev->registers)
		return -ENOMEM;
	magic = vdxgk_register_read(dev, VDXGK_REG_MAGIC);
	version = vdxgk_register_read(dev, VDXGK_REG_VERSION);
	if (magic != VDXGK_MAGIC || version != VDXGK_VERSION) {
		dev_err(&dev->pdev->dev,
			"unknown registers: magic %#x, version %u\n", magic,
			version);
		return -ENODEV;
	}
	/* The shared memory is the host's memory behind a BAR: coherent. */
	dev->shared = memremap(start + dev->cap.shared_offset,
			       dev->cap.shared_size, MEMREMAP_WB);
	if (!dev->shared)
		return -ENOMEM;
	dev->rings = dev->shared;
	dev->bulk_size = dev->cap.shared_size - VDXGK_SHARED_BULK;
	return 0;
}

static void unmap_bar(struct vdxgk_device *dev)
{
	if (dev->shared)
		memunmap(dev->shared);
	if (dev->registers)
		iounmap(dev->registers);
	dev->shared = NULL;
	dev->registers = NULL;
}

static irqreturn_t engine_interrupt(int irq, void *data)
{
	struct vdxgk_device *dev = data;

	atomic64_inc(&dev->engine_interrupts);
	wake_up_all(&dev->interrupt_wait);
	return IRQ_HANDLED;
}

static irqreturn_t scanout_interrupt(int irq, void *data)
{
	struct vdxgk_device *dev = data;

	atomic64_inc(&dev->scanout_interrupts);
	wake_up_all(&dev->interrupt_wait);
	return IRQ_HANDLED;
}

static void free_interrupts(struct vdxgk_device *dev)
{
	int vector;

	for (vector = 0; vector < VDXGK_VECTORS; vector++)
		if (dev->interrupts[vector])
			free_irq(pci_irq_vector(dev->pdev, vector), dev);
	memset(dev->interrupts, 0, sizeof(dev->interrupts));
	pci_free_irq_vectors(dev->pdev);
}

static int request_interrupts(struct vdxgk_device *dev)
{
	static const struct {
		irq_handler_t handler;
		irq_handler_t thread;
		unsigned long flags;
		const char *name;
	} vectors[VDXGK_VECTORS] = {
		[VDXGK_VECTOR_CHANNEL] = { vdxgk_channel_interrupt, NULL, 0,
					   "vdxgk-channel" },
		[VDXGK_VECTOR_EVENT] = { NULL, vdxgk_events_interrupt,
					 IRQF_ONESHOT, "vdxgk-event" },
		[VDXGK_VECTOR_ENGINE] = { engine_interrupt, NULL, 0,
					  "vdxgk-engine" },
		[VDXGK_VECTOR_SCANOUT] = { scanout_interrupt, NULL, 0,
					   "vdxgk-scanout" },
	};
	int ret, vector;

	ret = pci_alloc_irq_vectors(dev->pdev, VDXGK_VECTORS, VDXGK_VECTORS,
				    PCI_IRQ_MSIX | PCI_IRQ_MSI);
	if (ret < 0)
		return ret;
	for (vector = 0; vector < VDXGK_VECTORS; vector++) {
		ret = request_threaded_irq(pci_irq_vector(dev->pdev, vector),
					   vectors[vector].handler,
					   vectors[vector].thread,
					   vectors[vector].flags,
					   vectors[vector].name, dev);
		if (ret) {
			free_interrupts(dev);
			return ret;
		}
		dev->interrupts[vector] = true;
	}
	return 0;
}

static void reclaim_surplus(struct work_struct *work)
{
	struct vdxgk_device *dev =
		container_of(work, struct vdxgk_device, surplus);

	if (vdxgk_link_lock(dev))
		return;
	vdxgk_memory_reclaim(dev->lead, false);
	vdxgk_link_unlock(dev);
}

static void reap_views(struct work_struct *work)
{
	struct vdxgk_device *dev =
		container_of(work, struct vdxgk_device, closed);

	if (vdxgk_link_lock(dev))
		return;
	vdxgk_view_reap(dev->lead);
	vdxgk_link_unlock(dev);
}

static struct vdxgk_device *new_device(struct pci_dev *pdev)
{
	struct vdxgk_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	kref_init(&dev->ref);
	dev->pdev = pci_dev_get(pdev);
	dev->id = -1;
	dev->gone = true;
	INIT_LIST_HEAD(&dev->waiting);
	mutex_init(&dev->lock);
	mutex_init(&dev->events.lock);
	init_waitqueue_head(&dev->interrupt_wait);
	INIT_WORK(&dev->surplus, reclaim_surplus);
	INIT_WORK(&dev->closed, reap_views);
	spin_lock_init(&dev->closed_lock);
	INIT_LIST_HEAD(&dev->objects);
	INIT_LIST_HEAD(&dev->adls);
	INIT_LIST_HEAD(&dev->views);
	vdxgk_memory_init(&dev->memory);
	return dev;
}

/* The other way round than start(), and however far that came. */
static void stop(struct vdxgk_device *dev)
{
	vdxgk_link_leave(dev);
	vdxgk_channel_kill(dev);
	free_interrupts(dev);
	cancel_work_sync(&dev->surplus); /* an event may have come late */
	pci_clear_master(dev->pdev);
}

static int start(struct vdxgk_device *dev)
{
	int ret;

	pci_set_master(dev->pdev);
	ret = vdxgk_channel_start(dev);
	if (ret)
		return ret;
	ret = request_interrupts(dev);
	if (ret) {
		dev_err(&dev->pdev->dev, "no interrupts: %pe\n", ERR_PTR(ret));
		return ret;
	}
	vdxgk_events_start(dev);
	return vdxgk_link_join(dev);
}

static int vdxgk_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vdxgk_device *dev;
	struct vdxgk_pci_cap cap;
	int ret;

	ret = find_capability(pdev, &cap);
	if (ret)
		return ret;
	dev = new_device(pdev);
	if (!dev)
		return -ENOMEM;
	dev->cap = cap;
	dev->wanted_mode = wanted_mode;
	ret = pci_enable_device_mem(pdev);
	if (ret)
		goto put;
	ret = check_capability(dev);
	if (ret)
		goto disable;
	ret = pci_request_region(pdev, dev->cap.bar, "vdxgk");
	if (ret)
		goto disable;
	ret = map_bar(dev);
	if (ret)
		goto unmap;
	ret = start(dev);
	if (ret)
		goto stop;
	pci_set_drvdata(pdev, dev);
	return 0;

stop:
	stop(dev);
unmap:
	unmap_bar(dev);
	pci_release_region(pdev, dev->cap.bar);
disable:
	pci_disable_device(pdev);
put:
	vdxgk_device_put(dev);
	return ret;
}

static void vdxgk_remove(struct pci_dev *pdev)
{
	struct vdxgk_device *dev = pci_get_drvdata(pdev);

	stop(dev);
	unmap_bar(dev);
	pci_release_region(pdev, dev->cap.bar);
	pci_disable_device(pdev);
	vdxgk_device_put(dev);
}

static const struct pci_device_id vdxgk_ids[] = {
	{ PCI_DEVICE(0x1234, 0x1111) },
	{}
};
MODULE_DEVICE_TABLE(pci, vdxgk_ids);

static struct pci_driver vdxgk_driver = {
	.name = "vdxgk",
	.id_table = vdxgk_ids,
	.probe = vdxgk_probe,
	.remove = vdxgk_remove,
};

static int __init vdxgk_init(void)
{
	int ret = parse_mode();

	if (!ret)
		ret = vdxgk_interface_check();
	if (ret)
		return ret;
	if (!NT_SUCCESS(DriverEntry(NULL, NULL)))
		return -EINVAL;
	return pci_register_driver(&vdxgk_driver);
}
module_init(vdxgk_init);

static void __exit vdxgk_exit(void)
{
	pci_unregister_driver(&vdxgk_driver);
}
module_exit(vdxgk_exit);

MODULE_DESCRIPTION("vdxgk: the guest's half of a virtual GPU's memory manager");
MODULE_LICENSE("Dual MIT/GPL");
