// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * /dev/vdxgkN: the escape's carrier, and the shim's own services.
 *
 * A file may outlive its device; then every ioctl answers -ENODEV.  Objects
 * belong to the adapter, not to the file.
 */
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vdxgk.h"

#define WAIT_MAX_MS 60000

static DEFINE_IDA(ids);

static int vdxgk_open(struct inode *inode, struct file *file)
{
	struct vdxgk_device *dev =
		container_of(file->private_data, struct vdxgk_device, misc);

	kref_get(&dev->ref);
	file->private_data = dev;
	return nonseekable_open(inode, file);
}

static int vdxgk_release(struct inode *inode, struct file *file)
{
	vdxgk_device_put(file->private_data);
	return 0;
}

/* Called with the adapter's lock held. */
static void escape(struct vdxgk_device *dev, struct file *file, void *data,
		   struct vdxgk_ioctl_escape *request)
{
	DXGKARG_ESCAPE args = {
		.pPrivateDriverData = data,
		.PrivateDriverDataSize = request->size,
	};

	vdxgk_view_reap(dev->lead);
	dev->lead->callback_status = STATUS_SUCCESS;
	dev->lead->ddi_file = file;
	vdxgk_ddi_enter(dev);
	request->status =
		vdxgk_miniport.DxgkDdiEscape((HANDLE)dev->miniport, &args);
	vdxgk_ddi_leave(dev);
	dev->lead->ddi_file = NULL;
	request->callback_status = dev->lead->callback_status;
}

static long ioctl_escape(struct vdxgk_device *dev, struct file *file,
			 void __user *user)
{
	struct vdxgk_ioctl_escape request;
	void __user *user_data;
	void *data;
	long ret;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (request.size < sizeof(struct vdxgk_escape) ||
	    request.size > sizeof(struct vdxgk_escape) + VDXGK_ESCAPE_MAX_DATA)
		return -EINVAL;
	user_data = u64_to_user_ptr((u64)request.data);
	data = kvmalloc(request.size, GFP_KERNEL);
	if (!data)
		return -ENOMEM;
	ret = -EFAULT;
	if (copy_from_user(data, user_data, request.size))
		goto free;
	ret = vdxgk_link_lock(dev);
	if (ret)
		goto free;
	escape(dev, file, data, &request);
	vdxgk_link_unlock(dev);
	if (copy_to_user(user_data, data, request.size) ||
	    copy_to_user(user, &request, sizeof(request)))
		ret = -EFAULT;
free:
	kvfree(data);
	return ret;
}

static long ioctl_interrupt_wait(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_interrupt_wait wait;
	const atomic64_t *count;
	long ret;

	if (copy_from_user(&wait, user, sizeof(wait)))
		return -EFAULT;
	if (wait.vector == VDXGK_VECTOR_ENGINE)
		count = &dev->engine_interrupts;
	else if (wait.vector == VDXGK_VECTOR_SCANOUT)
		count = &dev->scanout_interrupts;
	else
		return -EINVAL;
	ret = wait_event_interruptible_timeout(
		dev->interrupt_wait,
		READ_ONCE(dev->gone) || atomic64_read(count) != wait.seen,
		msecs_to_jiffies(min_t(u32, wait.timeout_ms, WAIT_MAX_MS)));
	if (ret < 0)
		return ret;
	if (READ_ONCE(dev->gone))
		return -ENODEV;
	wait.seen = atomic64_read(count);
	return copy_to_user(user, &wait, sizeof(wait)) ? -EFAULT : 0;
}

/* The rest is called with dev->lock held, and the device there. */

static long ioctl_object_runs(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_object_runs request;
	const struct vdxgk_object *object;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	object = vdxgk_object_find(dev, request.object);
	if (!object) {
		request.total = request.count = request.size = 0;
		goto answer;
	}
	request.total = object->run_count;
	request.size = object->size;
	request.first = min(request.first, object->run_count);
	request.count = min(request.count, object->run_count - request.first);
	if (copy_to_user(u64_to_user_ptr((u64)request.runs),
			 object->runs + request.first,
			 request.count * sizeof(*object->runs)))
		return -EFAULT;
answer:
	return copy_to_user(user, &request, sizeof(request)) ? -EFAULT : 0;
}

static long ioctl_canary(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_canary report;

	vdxgk_memory_scan(dev, &report);
	return copy_to_user(user, &report, sizeof(report)) ? -EFAULT : 0;
}

static long ioctl_sabotage(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_sabotage request;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	return vdxgk_sabotage_arm(dev, request.kind, request.page);
}

static u32 list_length(const struct list_head *list)
{
	const struct list_head *at;
	u32 length = 0;

	list_for_each(at, list)
		length++;
	return length;
}

/* Of the adapter, but for what each function has of its own. */
static long ioctl_status(struct vdxgk_device *function, void __user *user)
{
	struct vdxgk_device *dev = function->lead;
	struct vdxgk_memory *memory = &dev->memory;
	struct vdxgk_ioctl_status status = {
		.adapter = dev->start.adapter,
		.highest_visible = dev->highest_visible,
		.highest_ram = dev->highest_ram,
		.logical_start = dev->start.logical_start,
		.logical_end = dev->start.logical_end,
		.donated = memory->donated << PAGE_SHIFT,
		.free = (memory->donated - memory->used) << PAGE_SHIFT,
		.faults = vdxgk_register_read(function, VDXGK_REG_FAULT_COUNT),
		.events = READ_ONCE(function->events.total),
		.engine_interrupts =
			atomic64_read(&function->engine_interrupts),
		.channel_interrupts = READ_ONCE(dev->channel.interrupts),
		.requests = READ_ONCE(dev->channel.requests),
		.doorbells = READ_ONCE(dev->channel.doorbells),
		.mode = dev->start.mode,
		.iommu = dev->domain.domain ? VDXGK_IOMMU_TRANSLATED :
					      VDXGK_IOMMU_NONE,
		.iommu_caps = dev->iommu_caps.Value,
		.dma_bits = function->cap.dma_bits,
		.objects = list_length(&dev->objects),
		.adls = list_length(&dev->adls),
		.views = list_length(&dev->views),
		.dead = READ_ONCE(dev->channel.dead),
	};

	return copy_to_user(user, &status, sizeof(status)) ? -EFAULT : 0;
}

static long ioctl_events(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_events *events;
	long ret;

	events = kzalloc(sizeof(*events), GFP_KERNEL);
	if (!events)
		return -ENOMEM;
	vdxgk_events_read(dev, events);
	ret = copy_to_user(user, events, sizeof(*events)) ? -EFAULT : 0;
	kfree(events);
	return ret;
}

/* Of all that this process can mean. */
static long ioctl_view(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_view request;
	struct vdxgk_view *view;
	bool writable;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	view = vdxgk_view_find(dev, request.object,
			       (void *)(uintptr_t)request.base);
	if (!view || (view->mm && view->mm != current->mm))
		return -ENOENT;
	request.attributes = vdxgk_attributes_of(view, &writable);
	request.writable = writable;
	return copy_to_user(user, &request, sizeof(request)) ? -EFAULT : 0;
}

static long ioctl_frames(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_frames request;
	const struct vdxgk_view *view;
	u64 __user *frames;
	u64 pages;
	u32 i;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	view = vdxgk_view_find(dev, request.object,
			       (void *)(uintptr_t)request.base);
	if (!view || view->mm)
		return -ENOENT;
	pages = view->size >> PAGE_SHIFT;
	request.first = min_t(u64, request.first, pages);
	request.count = min_t(u64, request.count, pages - request.first);
	frames = u64_to_user_ptr((u64)request.frames);
	for (i = 0; i < request.count; i++)
		if (put_user(vdxgk_frame_of(view, ((u64)request.first + i)
							  << PAGE_SHIFT),
			     frames + i))
			return -EFAULT;
	return copy_to_user(user, &request, sizeof(request)) ? -EFAULT : 0;
}

static long ioctl_exclusive(struct vdxgk_device *dev, void __user *user)
{
	struct vdxgk_ioctl_exclusive request;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	vdxgk_exclusive(dev, &request);
	return copy_to_user(user, &request, sizeof(request)) ? -EFAULT : 0;
}

static long locked_ioctl(struct vdxgk_device *function, unsigned int command,
			 void __user *user)
{
	struct vdxgk_device *dev = function->lead;

	vdxgk_view_reap(dev);
	switch (command) {
	case VDXGK_IOCTL_OBJECT_RUNS:
		return ioctl_object_runs(dev, user);
	case VDXGK_IOCTL_CANARY:
		return ioctl_canary(dev, user);
	case VDXGK_IOCTL_SABOTAGE:
		return ioctl_sabotage(dev, user);
	case VDXGK_IOCTL_STATUS:
		return ioctl_status(function, user);
	case VDXGK_IOCTL_EVENTS:
		return ioctl_events(function, user);
	case VDXGK_IOCTL_VIEW:
		return ioctl_view(dev, user);
	case VDXGK_IOCTL_FRAMES:
		return ioctl_frames(dev, user);
	case VDXGK_IOCTL_EXCLUSIVE:
		return ioctl_exclusive(dev, user);
	default:
		return -ENOTTY;
	}
}

static long vdxgk_ioctl(struct file *file, unsigned int command,
			unsigned long argument)
{
	struct vdxgk_device *dev = file->private_data;
	void __user *user = (void __user *)argument;
	long ret;

	if (command == VDXGK_IOCTL_ESCAPE)
		return ioctl_escape(dev, file, user);
	if (command == VDXGK_IOCTL_INTERRUPT_WAIT)
		return ioctl_interrupt_wait(dev, user);
	ret = vdxgk_link_lock(dev);
	if (ret)
		return ret;
	ret = locked_ioctl(dev, command, user);
	vdxgk_link_unlock(dev);
	return ret;
}

static const struct file_operations vdxgk_file_operations = {
	.owner = THIS_MODULE,
	.open = vdxgk_open,
	.release = vdxgk_release,
	.unlocked_ioctl = vdxgk_ioctl,
	.mmap = vdxgk_view_mmap,
};

int vdxgk_chardev_add(struct vdxgk_device *dev)
{
	int ret = ida_alloc(&ids, GFP_KERNEL);

	if (ret < 0)
		return ret;
	dev->id = ret;
	snprintf(dev->name, sizeof(dev->name), "vdxgk%d", dev->id);
	dev->misc.minor = MISC_DYNAMIC_MINOR;
	dev->misc.name = dev->name;
	dev->misc.mode = 0600;
	dev->misc.parent = &dev->pdev->dev;
	dev->misc.fops = &vdxgk_file_operations;
	ret = misc_register(&dev->misc);
	if (ret) {
		ida_free(&ids, dev->id);
		dev->id = -1;
	}
	return ret;
}

void vdxgk_chardev_remove(struct vdxgk_device *dev)
{
	if (dev->id < 0)
		return;
	misc_deregister(&dev->misc);
	ida_free(&ids, dev->id);
	dev->id = -1;
}
