// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Linked adapters: the functions of a chain are one logical adapter, which
 * starts when the last of them is there, and stops when the first goes.
 */
#include "vdxgk.h"

static LIST_HEAD(waiting); /* functions whose chain isn't whole */
static DEFINE_MUTEX(chains); /* all that starts and stops adapters */

/* The chain of `dev`, if all of it waits. Called with `chains` held. */
static bool collect(const struct vdxgk_device *dev,
		    struct vdxgk_device *links[VDXGK_LINKS_MAX])
{
	struct vdxgk_device *other;
	unsigned int i;

	list_for_each_entry(other, &waiting, waiting)
		if (other->cap.chain == dev->cap.chain &&
		    other->cap.link_count == dev->cap.link_count)
			links[other->cap.link_index] = other;
	for (i = 0; i < dev->cap.link_count; i++)
		if (!links[i])
			return false;
	return true;
}

static int start(struct vdxgk_device *lead)
{
	struct vdxgk_device *function;
	unsigned int i;
	int ret;

	vdxgk_for_each_link(function, lead, i) {
		function->lead = lead;
		function->gone = false;
		function->closed_ignored = false;
		pci_set_master(function->pdev);
	}
	ret = vdxgk_domain_attach(lead);
	if (!ret)
		ret = vdxgk_adapter_start(lead);
	for (i = 0; !ret && i < lead->cap.link_count; i++)
		ret = vdxgk_chardev_add(lead->links[i]);
	return ret;
}

/* The other way round, and however far that came. */
static void stop(struct vdxgk_device *lead)
{
	struct vdxgk_device *function;
	unsigned int i;

	vdxgk_for_each_link(function, lead, i) {
		vdxgk_chardev_remove(function);
		mutex_lock(&function->lock);
		WRITE_ONCE(function->gone, true);
		mutex_unlock(&function->lock);
		wake_up_all(&function->interrupt_wait);
	}
	vdxgk_adapter_stop(lead);
	vdxgk_for_each_link(function, lead, i) {
		cancel_work_sync(&function->surplus);
		spin_lock(&function->closed_lock);
		function->closed_ignored = true;
		spin_unlock(&function->closed_lock);
		cancel_work_sync(&function->closed);
		pci_clear_master(function->pdev);
	}
	vdxgk_domain_detach(lead);
	/* From here on no function can reach memory, whatever it thinks. */
	vdxgk_memory_free_all(lead);
}

/* Called with `chains` held. */
static void leave(struct vdxgk_device *dev)
{
	struct vdxgk_device *function, *lead = dev->lead;
	unsigned int i;

	list_del_init(&dev->waiting);
	if (!lead)
		return;
	stop(lead);
	vdxgk_for_each_link(function, lead, i) {
		function->lead = NULL;
		if (function != dev)
			list_add_tail(&function->waiting, &waiting);
	}
}

/*
 * A function is ready. If it is the last of its chain the adapter starts; if
 * that fails, the others go on waiting.
 */
int vdxgk_link_join(struct vdxgk_device *dev)
{
	struct vdxgk_device *links[VDXGK_LINKS_MAX] = {};
	unsigned int i;
	int ret = 0;

	mutex_lock(&chains);
	list_add_tail(&dev->waiting, &waiting);
	if (collect(dev, links)) {
		for (i = 0; i < dev->cap.link_count; i++)
			list_del_init(&links[i]->waiting);
		memcpy(links[0]->links, links, sizeof(links));
		ret = start(links[0]);
		if (ret)
			leave(dev);
	} else {
		dev_info(&dev->pdev->dev,
			 "physical adapter %u of %u, waiting for the others\n",
			 dev->cap.link_index, dev->cap.link_count);
	}
	mutex_unlock(&chains);
	return ret;
}

/* A function goes, and so does the adapter; the others wait again. */
void vdxgk_link_leave(struct vdxgk_device *dev)
{
	mutex_lock(&chains);
	leave(dev);
	mutex_unlock(&chains);
}

/* 0: the adapter is there and stays, and its lock is held. */
int vdxgk_link_lock(struct vdxgk_device *dev)
{
	int ret = mutex_lock_killable(&dev->lock);

	if (ret)
		return ret;
	if (dev->gone) {
		mutex_unlock(&dev->lock);
		return -ENODEV;
	}
	if (dev->lead != dev)
		mutex_lock_nested(&dev->lead->lock, SINGLE_DEPTH_NESTING);
	return 0;
}

void vdxgk_link_unlock(struct vdxgk_device *dev)
{
	if (dev->lead != dev)
		mutex_unlock(&dev->lead->lock);
	mutex_unlock(&dev->lock);
}
