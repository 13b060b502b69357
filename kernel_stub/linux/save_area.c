// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The frame buffer's save area: the backend's own section, which the miniport
 * pins while it saves or restores, and gets a list of.
 */
#include <linux/slab.h>

#include "vdxgk.h"

static struct vdxgk_save_area *find(struct vdxgk_device *dev, UINT index)
{
	return index < VDXGK_SAVE_AREAS ? &dev->save_areas[index] : NULL;
}

/* What the miniport says that it needs; none is an answer too. */
NTSTATUS vdxgk_save_area_reserve(struct vdxgk_device *dev, u32 index, u64 size)
{
	struct vdxgk_save_area_args args = {
		.adapter = dev->start.adapter,
		.size = size,
		.physical_adapter = index,
	};

	if (!size)
		return STATUS_SUCCESS;
	return vdxgk_call_simple(dev, VDXGK_OP_RESERVE_SAVE_AREA, &args,
				 sizeof(args));
}

/* The section gets its pages with the first list and keeps them. */
static struct vdxgk_object *object_of(struct vdxgk_save_area *area,
				      const struct vdxgk_pin_result *result)
{
	struct vdxgk_object *object = area->object;

	if (object)
		return object->handle == result->object &&
				       object->size == result->object_size ?
			       object :
			       NULL;
	object = vdxgk_object_new(result->object, result->object_size);
	if (object)
		object->adapter_object = result->adapter_object;
	area->object = object;
	return object;
}

NTSTATUS vdxgk_save_area_pin(struct vdxgk_device *dev, u64 adapter,
			     DXGKARGCB_PINFRAMEBUFFERFORSAVE2 *args)
{
	struct vdxgk_save_area *area = find(dev, args->PhysicalAdapterIndex);
	struct vdxgk_save_area_args wire = {
		.adapter = adapter,
		.size = args->CommitSize,
		.physical_adapter = args->PhysicalAdapterIndex,
		.flags = args->Flags.Value,
	};
	struct vdxgk_call call = {
		.op = VDXGK_OP_PIN_SAVE_AREA,
		.args = &wire,
		.args_size = sizeof(wire),
	};
	struct vdxgk_pin_result result;
	struct vdxgk_object *object;
	struct vdxgk_adl *adl;
	NTSTATUS status;

	args->pAdl = NULL;
	status = vdxgk_adl_call(dev, &call);
	if (NT_SUCCESS(status)) {
		memcpy(&result, call.result, sizeof(result));
		/* Without an area of ours there is no object, and no list. */
		object = area ? object_of(area, &result) : NULL;
		status = vdxgk_adl_make(dev, &call, &result.list, object,
					result.adapter_object, 0,
					args->CommitSize, &adl);
	}
	kvfree(call.list_out);
	if (!NT_SUCCESS(status))
		return status;
	area->pinned = adl;
	args->pAdl = &adl->ddi;
	return status;
}

NTSTATUS vdxgk_save_area_unpin(struct vdxgk_device *dev, u64 adapter,
			       UINT index)
{
	struct vdxgk_save_area *area = find(dev, index);
	struct vdxgk_save_area_args wire = {
		.adapter = adapter,
		.physical_adapter = index,
	};
	NTSTATUS status;

	status = vdxgk_call_simple(dev, VDXGK_OP_UNPIN_SAVE_AREA, &wire,
				   sizeof(wire));
	if (!NT_SUCCESS(status) || !area || !area->pinned)
		return status;
	status = vdxgk_adl_release(dev, area->pinned);
	area->pinned = NULL;
	return status;
}

/* The adapter has stopped. */
void vdxgk_save_area_drop_all(struct vdxgk_device *dev)
{
	unsigned int i;

	for (i = 0; i < VDXGK_SAVE_AREAS; i++) {
		struct vdxgk_save_area *area = &dev->save_areas[i];

		if (area->object)
			vdxgk_object_drop(dev, area->object);
		area->object = NULL;
		area->pinned = NULL;
	}
}
