// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Views for user mode: memory mappings of /dev/vdxgkN in the process that
 * called, which go with it.
 *
 * The memory manager closes a mapping under its own lock, inside of which ours
 * can't be taken: it only leaves a note, and whoever takes our lock next, a
 * worker if nobody else, tidies up.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "vdxgk.h"

static void release_view(struct kref *ref)
{
	struct vdxgk_view *view = container_of(ref, struct vdxgk_view, ref);

	if (view->mm)
		mmdrop(view->mm);
	if (view->mapping)
		iput(view->mapping->host);
	kfree(view);
}

void vdxgk_view_put(struct vdxgk_view *view)
{
	kref_put(&view->ref, release_view);
}

static void area_open(struct vm_area_struct *vma)
{
	struct vdxgk_view *view = vma->vm_private_data;

	kref_get(&view->ref);
	atomic_inc(&view->areas);
}

static void area_close(struct vm_area_struct *vma)
{
	struct vdxgk_device *dev = vma->vm_file->private_data;
	struct vdxgk_view *view = vma->vm_private_data;

	if (atomic_dec_and_test(&view->areas)) {
		spin_lock(&dev->closed_lock);
		/* A device that has gone has no views to tidy up. */
		if (!dev->closed_ignored)
			schedule_work(&dev->closed);
		spin_unlock(&dev->closed_lock);
	}
	vdxgk_view_put(view);
}

/* A view is one piece, at the place that MapPhysicalMemory told. */
static int area_may_split(struct vm_area_struct *vma, unsigned long address)
{
	return -EINVAL;
}

static int area_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static const struct vm_operations_struct area_operations = {
	.open = area_open,
	.close = area_close,
	.may_split = area_may_split,
	.mremap = area_mremap,
};

static int insert_pages(struct vm_area_struct *vma,
			const struct vdxgk_view *view)
{
	const struct vdxgk_object *object = view->object;
	u64 offset = view->offset, left = view->size;
	unsigned long at = vma->vm_start;
	u32 i;

	for (i = 0; i < object->run_count && left; i++) {
		const struct vdxgk_range *run = &object->runs[i];
		u64 part;
		int ret;

		if (offset >= run->size) {
			offset -= run->size;
			continue;
		}
		part = min(left, run->size - offset);
		ret = remap_pfn_range(vma, at,
				      (run->base + offset) >> PAGE_SHIFT, part,
				      vma->vm_page_prot);
		if (ret)
			return ret;
		at += part;
		left -= part;
		offset = 0;
	}
	return left ? -EINVAL : 0;
}

/*
 * mmap(2), but only from within MapPhysicalMemory: a process that calls it by
 * itself asks for nothing that there is.
 */
int vdxgk_view_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vdxgk_device *dev = file->private_data;
	struct vdxgk_view *view;
	int ret;

	if (vdxgk_ddi_device() != dev)
		return -EPERM;
	view = dev->lead->view_to_map; /* this thread holds its lock */
	if (!view || vma->vm_pgoff != view->first_page ||
	    vma->vm_end - vma->vm_start != view->size ||
	    !vdxgk_attributes_apply(view->object->cache_type,
				    &vma->vm_page_prot))
		return -EINVAL;
	vdxgk_compat_vm_flags(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP,
			      view->writable ? 0 : VM_MAYWRITE);
	ret = insert_pages(vma, view);
	if (ret)
		return ret;
	vma->vm_private_data = view;
	vma->vm_ops = &area_operations;
	area_open(vma);
	return 0;
}

/* Map a view, whose object, offset and size are set, into this process. */
NTSTATUS vdxgk_user_view_map(struct vdxgk_device *dev, struct vdxgk_view *view)
{
	unsigned long prot = PROT_READ | (view->writable ? PROT_WRITE : 0);
	unsigned long address;

	if (!dev->ddi_file || !current->mm)
		return STATUS_INVALID_DEVICE_STATE;
	view->mm = current->mm;
	mmgrab(view->mm);
	view->mapping = dev->ddi_file->f_mapping;
	ihold(view->mapping->host);
	/* Each view has offsets of its own, by which it can be revoked. */
	view->first_page = dev->next_page;
	dev->next_page += view->size >> PAGE_SHIFT;

	dev->view_to_map = view;
	address = vm_mmap(dev->ddi_file, 0, view->size, prot, MAP_SHARED,
			  view->first_page << PAGE_SHIFT);
	dev->view_to_map = NULL;
	if (IS_ERR_VALUE(address))
		return address == (unsigned long)-EACCES ?
			       STATUS_ACCESS_DENIED :
			       STATUS_INSUFFICIENT_RESOURCES;
	view->base = (void *)address;
	return STATUS_SUCCESS;
}

/* In the process that has the view. */
void vdxgk_user_view_unmap(struct vdxgk_view *view)
{
	if (atomic_read(&view->areas))
		vm_munmap((unsigned long)view->base, view->size);
}

/* From anywhere: the process keeps the addresses, and faults there. */
void vdxgk_user_view_revoke(struct vdxgk_view *view)
{
	unmap_mapping_range(view->mapping, (loff_t)view->first_page << PAGE_SHIFT,
			    view->size, 1);
}
