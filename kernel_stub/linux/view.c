// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Views: mappings of an object for the CPU, with its cache type.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "vdxgk.h"

static void *map_pages(const struct vdxgk_view *view)
{
	struct page **pages = vdxgk_object_pages(view->object, view->offset,
						 view->size);
	pgprot_t prot = PAGE_KERNEL;
	void *base = NULL;

	if (pages && vdxgk_attributes_apply(view->object->cache_type, &prot))
		base = vmap(pages, view->size >> PAGE_SHIFT, VM_MAP, prot);
	kvfree(pages);
	return base;
}

static NTSTATUS map_kernel(struct vdxgk_view *view)
{
	const struct vdxgk_object *object = view->object;

	if (object->owns_memory)
		view->base = map_pages(view);
	else
		view->base = vdxgk_bar_map(object->runs[0].base + view->offset,
					   view->size, object->cache_type);
	return view->base ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

static NTSTATUS make_mapping(struct vdxgk_device *dev, struct vdxgk_view *view,
			     bool user)
{
	NTSTATUS status;

	if (user && !view->object->owns_memory)
		return STATUS_INVALID_PARAMETER;
	if (vdxgk_attributes_get(view->object))
		return STATUS_INSUFFICIENT_RESOURCES;
	status = user ? vdxgk_user_view_map(dev, view) : map_kernel(view);
	if (!NT_SUCCESS(status))
		vdxgk_attributes_put(view->object);
	return status;
}

static NTSTATUS make_view(struct vdxgk_device *dev,
			  DXGKARGCB_MAP_PHYSICAL_MEMORY *args,
			  const struct vdxgk_map_result *result)
{
	struct vdxgk_object *object = vdxgk_object_find(
		dev, (uintptr_t)args->hPhysicalMemoryObject);
	struct vdxgk_view *view;
	NTSTATUS status;

	if (!object || !result->size ||
	    !IS_ALIGNED(result->offset | result->size, PAGE_SIZE) ||
	    result->offset > args->Offset || result->size > object->size ||
	    result->offset > object->size - result->size ||
	    args->Offset - result->offset > result->size ||
	    args->Size > result->size - (args->Offset - result->offset) ||
	    result->cache_type != object->cache_type)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	status = vdxgk_object_back(dev, object, result->run_count);
	if (!NT_SUCCESS(status))
		return status;

	view = kzalloc(sizeof(*view), GFP_KERNEL);
	if (!view)
		return STATUS_INSUFFICIENT_RESOURCES;
	kref_init(&view->ref);
	view->object = object;
	view->token = result->token;
	view->offset = result->offset;
	view->size = result->size;
	view->writable = result->writable;
	status = make_mapping(dev, view,
			      args->AccessMode == DXGK_ACCESS_MODE_USER_MODE);
	if (!NT_SUCCESS(status)) {
		vdxgk_view_put(view);
		return status;
	}
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

/* Whether the process that mapped has unmapped by itself, or is gone. */
static bool closed(const struct vdxgk_view *view)
{
	return view->mm && !atomic_read(&view->areas);
}

static void free_view(struct vdxgk_view *view)
{
	list_del_init(&view->link);
	if (view->mm)
		vdxgk_user_view_revoke(view);
	else if (view->object->owns_memory)
		vunmap(view->base);
	else
		vdxgk_bar_unmap(view->base);
	vdxgk_attributes_put(view->object);
	vdxgk_view_put(view);
}

/*
 * The view that this caller can mean by an object and an address: two
 * processes may have the same address.
 */
struct vdxgk_view *vdxgk_view_find(struct vdxgk_device *dev, u64 object,
				   const void *base)
{
	struct vdxgk_view *view, *other = NULL;

	list_for_each_entry(view, &dev->views, link) {
		if (view->base != base || view->object->handle != object)
			continue;
		if (!view->mm || view->mm == current->mm || closed(view))
			return view;
		other = view;
	}
	return other;
}

NTSTATUS vdxgk_view_unmap(struct vdxgk_device *dev,
			  const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *args)
{
	struct vdxgk_view *view =
		vdxgk_view_find(dev, (uintptr_t)args->hPhysicalMemoryObject,
				args->pBaseAddress);
	u64 token;

	if (!view || view->size != args->Size)
		return STATUS_INVALID_PARAMETER;
	if (view->mm && !closed(view)) {
		if (view->mm == current->mm)
			vdxgk_user_view_unmap(view);
		else if (!dev->gone) /* else it is revoked */
			return STATUS_ACCESS_DENIED;
	}
	token = view->token;
	free_view(view);
	return forget(dev, token);
}

static void tell_miniport(struct vdxgk_device *dev,
			  const struct vdxgk_view *view)
{
	struct vdxgk_escape escape = {
		.command = VDXGK_ESCAPE_UNMAP,
		.u.unmap.args = {
			.hPhysicalMemoryObject =
				(HANDLE)(uintptr_t)view->object->handle,
			.pBaseAddress = view->base,
			.Size = view->size,
		},
	};
	DXGKARG_ESCAPE args = {
		.pPrivateDriverData = &escape,
		.PrivateDriverDataSize = sizeof(escape),
	};

	vdxgk_ddi_enter(dev);
	vdxgk_miniport.DxgkDdiEscape((HANDLE)dev->miniport, &args);
	vdxgk_ddi_leave(dev);
}

/*
 * What processes left behind: the miniport unmaps it, as the user mode driver
 * would have asked it to. Called with dev->lock held, outside of a DDI.
 */
void vdxgk_view_reap(struct vdxgk_device *dev)
{
	struct vdxgk_view *view, *next;
	LIST_HEAD(found);

	list_for_each_entry_safe(view, next, &dev->views, link)
		if (closed(view))
			list_move_tail(&view->link, &found);
	while (!list_empty(&found)) {
		u64 token;

		view = list_first_entry(&found, struct vdxgk_view, link);
		token = view->token;
		kref_get(&view->ref);
		list_move(&view->link, &dev->views);
		if (dev->miniport_started)
			tell_miniport(dev, view);
		/* One that the miniport knows nothing of is still there. */
		if (!list_empty(&view->link)) {
			free_view(view);
			forget(dev, token);
		}
		vdxgk_view_put(view);
	}
}

/* Views that outlive their object, or the adapter. */
void vdxgk_view_drop_of(struct vdxgk_device *dev, struct vdxgk_object *object)
{
	struct vdxgk_view *view, *next;

	list_for_each_entry_safe(view, next, &dev->views, link)
		if (view->object == object)
			free_view(view);
}
