// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Address descriptor lists: the backend says what to map where, the shim maps
 * it in the IOMMU domain, the backend checks what the hypervisor announced.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "vdxgk.h"

static struct vdxgk_adl_args adl_args(const struct vdxgk_adl *adl)
{
	struct vdxgk_adl_args args = {
		.adapter_object = adl->adapter_object,
		.adl = adl->handle,
	};

	return args;
}

static NTSTATUS tell(struct vdxgk_device *dev, u32 op,
		     const struct vdxgk_adl_args *args)
{
	return vdxgk_call_simple(dev, op, args, sizeof(*args));
}

static void free_adl(struct vdxgk_adl *adl)
{
	kvfree(adl->pages);
	kvfree(adl->mappings);
	kfree(adl);
}

/* Unmap all of a range but a page that isn't mapped, which may lie outside. */
static void unmap_around(struct vdxgk_device *dev, u64 start, u64 end, u64 page)
{
	if (page < start || page >= end) {
		vdxgk_domain_unmap(dev, start, end - start);
		return;
	}
	vdxgk_domain_unmap(dev, start, page - start);
	vdxgk_domain_unmap(dev, page + PAGE_SIZE, end - page - PAGE_SIZE);
}

/* Neighbours in one go: an IOMMU is flushed once for each. */
static void unmap(struct vdxgk_device *dev, struct vdxgk_adl *adl)
{
	u32 i = 0;

	while (i < adl->mapped) {
		u64 start = adl->mappings[i].logical;
		u64 end = start;

		for (; i < adl->mapped && adl->mappings[i].logical == end; i++)
			end += adl->mappings[i].size;
		unmap_around(dev, start, end, adl->hole);
	}
	adl->mapped = 0;
}

static int map(struct vdxgk_device *dev, struct vdxgk_adl *adl)
{
	u64 page = 0;
	int ret;

	for (; adl->mapped < adl->mapping_count; adl->mapped++) {
		const struct vdxgk_mapping *m = &adl->mappings[adl->mapped];
		u64 pages = m->size >> PAGE_SHIFT;

		if (vdxgk_sabotage_hits(dev, page, pages))
			ret = vdxgk_sabotage_map(dev, m, page, &adl->hole);
		else
			ret = vdxgk_domain_map(dev, m->logical, m->physical,
					       m->size, true);
		if (ret)
			return ret;
		page += pages;
	}
	return 0;
}

/* In a new domain, where nothing is mapped yet. */
int vdxgk_adl_map_all(struct vdxgk_device *dev)
{
	struct vdxgk_adl *adl;
	int ret;

	list_for_each_entry(adl, &dev->adls, link) {
		adl->mapped = 0;
		adl->hole = VDXGK_NO_ADDRESS;
		ret = map(dev, adl);
		/* If it fails, all of it is still mapped in the old one. */
		adl->mapped = adl->mapping_count;
		if (ret)
			return ret;
	}
	return 0;
}

/* What the backend wants mapped must be whole pages, and as many as asked for;
 * where it wants them is its business. */
static bool plausible(const struct vdxgk_adl *adl, u64 page_count)
{
	u64 pages = 0;
	u32 i;

	for (i = 0; i < adl->mapping_count; i++) {
		const struct vdxgk_mapping *m = &adl->mappings[i];
		u64 end;

		if (!m->size ||
		    !IS_ALIGNED(m->logical | m->physical | m->size, PAGE_SIZE) ||
		    check_add_overflow((u64)m->logical, (u64)m->size, &end) ||
		    check_add_overflow((u64)m->physical, (u64)m->size, &end) ||
		    m->size >> PAGE_SHIFT > page_count - pages)
			return false;
		pages += m->size >> PAGE_SHIFT;
	}
	return pages == page_count;
}

/* The mappings must lead to the object's own pages, in order, from byte
 * `offset` of it on: an error of the backend must not expose others. */
static bool leads_to_object(const struct vdxgk_adl *adl, u64 offset)
{
	const struct vdxgk_object *object = adl->object;
	u32 i, run = 0;

	while (run < object->run_count && offset >= object->runs[run].size)
		offset -= object->runs[run++].size;
	for (i = 0; i < adl->mapping_count; i++) {
		u64 physical = adl->mappings[i].physical;
		u64 left = adl->mappings[i].size;

		while (left) {
			u64 part;

			if (run == object->run_count ||
			    physical != object->runs[run].base + offset)
				return false;
			part = min_t(u64, left, object->runs[run].size - offset);
			physical += part;
			left -= part;
			offset += part;
			if (offset == object->runs[run].size) {
				offset = 0;
				run++;
			}
		}
	}
	return true;
}

static bool in_a_row(const struct vdxgk_adl *adl)
{
	u32 i;

	for (i = 1; i < adl->mapping_count; i++)
		if (adl->mappings[i].logical != adl->mappings[i - 1].logical +
							adl->mappings[i - 1].size)
			return false;
	return true;
}

/* What the miniport sees. */
static NTSTATUS describe(struct vdxgk_adl *adl,
			 const struct vdxgk_allocate_adl_result *result)
{
	u32 i, page = 0;
	u64 at;

	adl->ddi.PageCount = result->page_count;
	if (result->contiguous) {
		if (!in_a_row(adl))
			return STATUS_DEVICE_PROTOCOL_ERROR;
		adl->ddi.Flags.Bits.Contiguous = 1;
		adl->ddi.BasePageNumber =
			adl->mappings[0].logical >> PAGE_SHIFT;
		return STATUS_SUCCESS;
	}
	adl->pages = kvmalloc_array(result->page_count, sizeof(*adl->pages),
				    GFP_KERNEL);
	if (!adl->pages)
		return STATUS_INSUFFICIENT_RESOURCES;
	for (i = 0; i < adl->mapping_count; i++)
		for (at = 0; at < adl->mappings[i].size; at += PAGE_SIZE)
			adl->pages[page++] = (adl->mappings[i].logical + at) >>
					     PAGE_SHIFT;
	adl->ddi.Pages = adl->pages;
	return STATUS_SUCCESS;
}

/* The backend has the list; map it and make it live. */
static NTSTATUS make_live(struct vdxgk_device *dev, struct vdxgk_adl *adl,
			  const struct vdxgk_allocate_adl_result *result,
			  const struct vdxgk_mapping *list, u32 have,
			  u64 offset, u64 page_count)
{
	struct vdxgk_adl_args args = adl_args(adl);
	NTSTATUS status = STATUS_DEVICE_PROTOCOL_ERROR;
	bool committing = false;

	if (!adl->object || page_count > adl->object->size >> PAGE_SHIFT ||
	    !result->mapping_count || result->mapping_count > page_count ||
	    result->page_count != page_count)
		goto give_up;
	status = vdxgk_object_back(dev, adl->object, result->run_count);
	if (!NT_SUCCESS(status))
		goto give_up;
	adl->mappings = kvcalloc(result->mapping_count, sizeof(*adl->mappings),
				 GFP_KERNEL);
	status = STATUS_INSUFFICIENT_RESOURCES;
	if (!adl->mappings)
		goto give_up;
	adl->mapping_count = result->mapping_count;
	have = min(have, adl->mapping_count);
	memcpy(adl->mappings, list, have * sizeof(*list));
	status = vdxgk_read_list(dev, adl->handle, adl->mappings,
				 sizeof(*adl->mappings), have,
				 adl->mapping_count);
	if (!NT_SUCCESS(status))
		goto give_up;
	status = STATUS_DEVICE_PROTOCOL_ERROR;
	if (!plausible(adl, page_count) || !leads_to_object(adl, offset) ||
	    (result->map_needed && !dev->domain.domain))
		goto give_up;
	status = describe(adl, result);
	if (!NT_SUCCESS(status))
		goto give_up;
	status = STATUS_INSUFFICIENT_RESOURCES;
	if (result->map_needed && map(dev, adl))
		goto give_up;

	committing = true;
	status = tell(dev, VDXGK_OP_COMMIT_ADL, &args);
	if (NT_SUCCESS(status))
		return status;

give_up:
	if (!committing || status != STATUS_UNSUCCESSFUL)
		tell(dev, VDXGK_OP_FREE_ADL, &args);
	unmap(dev, adl);
	tell(dev, VDXGK_OP_RELEASE_ADL, &args);
	return status;
}

/* Ask the backend for a list. The caller frees call->list_out. */
NTSTATUS vdxgk_adl_call(struct vdxgk_device *dev, struct vdxgk_call *call)
{
	size_t room = vdxgk_list_room(sizeof(struct vdxgk_mapping));

	call->entry_size = sizeof(struct vdxgk_mapping);
	call->list_out_size = room * sizeof(struct vdxgk_mapping);
	call->list_out = kvmalloc(call->list_out_size, GFP_KERNEL);
	if (!call->list_out)
		return STATUS_INSUFFICIENT_RESOURCES;
	return vdxgk_memory_call(dev, call);
}

/* The backend has answered with a list of `object`, from byte `offset` of it
 * on: map it and make it live, or give it up. */
NTSTATUS vdxgk_adl_make(struct vdxgk_device *dev, const struct vdxgk_call *call,
			const struct vdxgk_allocate_adl_result *result,
			struct vdxgk_object *object, u64 adapter_object,
			u64 offset, u64 size, struct vdxgk_adl **made)
{
	struct vdxgk_adl_args args = {
		.adapter_object = adapter_object,
		.adl = result->adl,
	};
	struct vdxgk_adl *adl = kzalloc(sizeof(*adl), GFP_KERNEL);
	NTSTATUS status;

	if (!adl) {
		tell(dev, VDXGK_OP_FREE_ADL, &args);
		tell(dev, VDXGK_OP_RELEASE_ADL, &args);
		return STATUS_INSUFFICIENT_RESOURCES;
	}
	adl->handle = result->adl;
	adl->adapter_object = adapter_object;
	adl->object = object;
	adl->hole = VDXGK_NO_ADDRESS;
	status = make_live(dev, adl, result, call->list_out, call->data_count,
			   offset, size >> PAGE_SHIFT);
	if (!NT_SUCCESS(status)) {
		free_adl(adl);
		return status;
	}
	list_add_tail(&adl->link, &dev->adls);
	*made = adl;
	return status;
}

NTSTATUS vdxgk_adl_allocate(struct vdxgk_device *dev,
			    DXGKARGCB_ALLOCATE_ADL *args)
{
	u64 adapter_object = (uintptr_t)args->hAdapterMemoryObject;
	struct vdxgk_call call = {
		.op = VDXGK_OP_ALLOCATE_ADL,
		.args = args,
		.args_size = sizeof(*args),
	};
	struct vdxgk_allocate_adl_result result;
	struct vdxgk_adl *adl;
	NTSTATUS status;

	args->pAdl = NULL;
	status = vdxgk_adl_call(dev, &call);
	if (NT_SUCCESS(status)) {
		memcpy(&result, call.result, sizeof(result));
		status = vdxgk_adl_make(
			dev, &call, &result,
			vdxgk_object_find_opened(dev, adapter_object),
			adapter_object, args->Offset, args->Size, &adl);
	}
	kvfree(call.list_out);
	if (NT_SUCCESS(status))
		args->pAdl = &adl->ddi;
	return status;
}

static struct vdxgk_adl *find(struct vdxgk_device *dev, const DXGK_ADL *ddi)
{
	struct vdxgk_adl *adl;

	list_for_each_entry(adl, &dev->adls, link)
		if (&adl->ddi == ddi)
			return adl;
	return NULL;
}

NTSTATUS vdxgk_adl_free(struct vdxgk_device *dev,
			const DXGKARGCB_FREE_ADL *args)
{
	struct vdxgk_adl *adl = find(dev, args->pAdl);
	struct vdxgk_adl_args wire = {
		.adapter_object = (uintptr_t)args->hAdapterMemoryObject,
		/* Unknown ones go through: the backend refuses them. */
		.adl = adl ? adl->handle : (uintptr_t)args->pAdl,
	};
	NTSTATUS status = tell(dev, VDXGK_OP_FREE_ADL, &wire);

	if (!NT_SUCCESS(status) || !adl)
		return status;
	return vdxgk_adl_release(dev, adl);
}

/* The backend knows that a list is dead: unmap it and let it check. */
NTSTATUS vdxgk_adl_release(struct vdxgk_device *dev, struct vdxgk_adl *adl)
{
	struct vdxgk_adl_args args = adl_args(adl);
	NTSTATUS status;

	list_del(&adl->link);
	unmap(dev, adl);
	vdxgk_sabotage_leave(dev, adl);
	status = tell(dev, VDXGK_OP_RELEASE_ADL, &args);
	free_adl(adl);
	return status;
}

/* Lists that outlive their object, or the adapter. */
void vdxgk_adl_drop_of(struct vdxgk_device *dev, struct vdxgk_object *object)
{
	struct vdxgk_adl *adl, *next;

	list_for_each_entry_safe(adl, next, &dev->adls, link) {
		if (adl->object != object)
			continue;
		list_del(&adl->link);
		unmap(dev, adl);
		free_adl(adl);
	}
}
