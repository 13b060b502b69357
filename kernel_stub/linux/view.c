// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Views: kernel mappings of an object, with its cache type.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "vdxgk.h"

static bool protection(u32 cache_type, pgprot_t *prot)
{
	switch (cache_type) {
	case DXGK_MEMORY_CACHING_TYPE_NON_CACHED:
		*prot = pgprot_noncached(PAGE_KERNEL);
		return true;
	case DXGK_MEMORY_CACHING_TYPE_CACHED:
		*prot = PAGE_KERNEL;
		return true;
	case DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED:
		*prot = pgprot_writecombine(PAGE_KERNEL);
		return true;
	default:
		return false;
	}
}

/* The pages of a part of an object, or NULL. */
static struct page **pages_of(const struct vdxgk_object *object, u64 offset,
			      u64 size)
{
	unsigned long count = size >> PAGE_SHIFT, done = 0;
	struct page **pages;
	u32 i;

	pages = kvmalloc_array(count, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return NULL;
	for (i = 0; i < object->run_count && done < count; i++) {
		const struct vdxgk_range *run = &object->runs[i];

		if (offset >= run->size) {
			offset -= run->size;
			continue;
		}
		for (; offset < run->size && done < count; offset += PAGE_SIZE)
			pages[done++] = pfn_to_page((run->base + offset) >>
						    PAGE_SHIFT);
		offset = 0;
	}
	if (done == count)
		return pages;
	kvfree(pages);
	return NULL;
}

static void *map_pages(const struct vdxgk_object *object, u64 offset, u64 size,
		       pgprot_t prot)
{
	struct page **pages = pages_of(object, offset, size);
	void *base;

	if (!pages)
		return NULL;
	base = vmap(pages, size >> PAGE_SHIFT, VM_MAP, prot);
	kvfree(pages);
	return base;
}

static NTSTATUS make_view(struct vdxgk_device *dev,
			  DXGKARGCB_MAP_PHYSICAL_MEMORY *args,
			  const struct vdxgk_map_result *result)
{
	struct vdxgk_object *object = vdxgk_object_find(
		dev, (uintptr_t)args->hPhysicalMemoryObject);
	struct vdxgk_view *view;
	NTSTATUS status;
	pgprot_t prot;

	if (!object || !result->size ||
	    !IS_ALIGNED(result->offset | result->size, PAGE_SIZE) ||
	    result->offset > args->Offset || result->size > object->size ||
	    result->offset > object->size - result->size ||
	    args->Offset - result->offset > result->size ||
	    args->Size > result->size - (args->Offset - result->offset) ||
	    !protection(result->cache_type, &prot))
		return STATUS_DEVICE_PROTOCOL_ERROR;
	/* Mappings for user mode aren't there yet. */
	if (args->AccessMode != DXGK_ACCESS_MODE_KERNEL_MODE)
		return STATUS_NOT_SUPPORTED;
	status = vdxgk_object_back(dev, object, result->run_count);
	if (!NT_SUCCESS(status))
		return status;

	view = kzalloc(sizeof(*view), GFP_KERNEL);
	if (!view)
		return STATUS_INSUFFICIENT_RESOURCES;
	if (object->owns_memory)
		view->base = map_pages(object, result->offset, result->size,
				       prot);
	else
		view->base = vdxgk_bar_map(object->runs[0].base +
						   result->offset,
					   result->size, result->cache_type);
	if (!view->base) {
		kfree(view);
		return STATUS_INSUFFICIENT_RESOURCES;
	}
	view->object = object;
	view->token = result->token;
	view->size = result->size;
	list_add_tail(&view->link, &dev->views);
	args->Offset -= result->offset;
	args->Size = result->size;
	args->pMappedAddress = view->base;
	return STATUS_SUCCESS;
}

static NTSTATUS forget(struct vdxgk_device *dev, u64 token)
{
	struct vdxgk_unmap_args args = { .token = token };

	return vdxgk_call_simple(dev, VDXGK_OP_UNMAP_OBJECT, &args,
				 sizeof(args));
}

NTSTATUS vdxgk_view_map(struct vdxgk_device *dev,
			DXGKARGCB_MAP_PHYSICAL_MEMORY *args)
{
	struct vdxgk_call call = {
		.op = VDXGK_OP_MAP_OBJECT,
		.args = args,
		.args_size = sizeof(*args),
	};
	struct vdxgk_map_result result;
	NTSTATUS status;

	args->pMappedAddress = NULL;
	status = vdxgk_memory_call(dev, &call);
	if (!NT_SUCCESS(status))
		return status;
	memcpy(&result, call.result, sizeof(result));
	status = make_view(dev, args, &result);
	if (!NT_SUCCESS(status))
		forget(dev, result.token);
	return status;
}

static void free_view(struct vdxgk_view *view)
{
	list_del(&view->link);
	if (view->object->owns_memory)
		vunmap(view->base);
	else
		vdxgk_bar_unmap(view->base);
	kfree(view);
}

NTSTATUS vdxgk_view_unmap(struct vdxgk_device *dev,
			  const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *args)
{
	struct vdxgk_view *view;
	u64 token;

	list_for_each_entry(view, &dev->views, link) {
		if (view->base != args->pBaseAddress ||
		    view->size != args->Size ||
		    view->object->handle !=
			    (uintptr_t)args->hPhysicalMemoryObject)
			continue;
		token = view->token;
		free_view(view);
		return forget(dev, token);
	}
	return STATUS_INVALID_PARAMETER;
}

/* Views that outlive their object, or the adapter. */
void vdxgk_view_drop_of(struct vdxgk_device *dev, struct vdxgk_object *object)
{
	struct vdxgk_view *view, *next;

	list_for_each_entry_safe(view, next, &dev->views, link)
		if (view->object == object)
			free_view(view);
}
