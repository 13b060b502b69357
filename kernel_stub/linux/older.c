// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The callbacks of WDDM 2.4: in the table, as under Windows, for the backend
 * to judge who may call them.
 */
#include "vdxgk.h"

static NTSTATUS called(HANDLE adapter, u32 callback)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();
	struct vdxgk_older_args args = {
		.adapter = (uintptr_t)adapter,
		.callback = callback,
	};

	if (!dev)
		return STATUS_INVALID_DEVICE_STATE;
	return vdxgk_call_simple(dev, VDXGK_OP_OLDER_CALLBACK, &args,
				 sizeof(args));
}

#define OLDER(name, callback)                                 \
	static NTSTATUS cb_##name(HANDLE adapter, void *args) \
	{                                                     \
		return called(adapter, VDXGK_OLDER_##callback); \
	}

OLDER(allocate_contiguous, ALLOCATE_CONTIGUOUS_MEMORY)
OLDER(free_contiguous, FREE_CONTIGUOUS_MEMORY)
OLDER(allocate_pages, ALLOCATE_PAGES_FOR_MDL)
OLDER(free_pages, FREE_PAGES_FROM_MDL)
OLDER(pin_frame_buffer, PIN_FRAME_BUFFER_FOR_SAVE)
OLDER(map_frame_buffer, MAP_FRAME_BUFFER_POINTER)
OLDER(unmap_frame_buffer, UNMAP_FRAME_BUFFER_POINTER)
OLDER(map_mdl, MAP_MDL_TO_IOMMU)

/* Has no way to say that it fails. */
static void cb_unmap_mdl(HANDLE adapter, void *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	if (dev)
		dev->callback_status =
			called(adapter, VDXGK_OLDER_UNMAP_MDL_FROM_IOMMU);
}

void vdxgk_older_fill(DXGKRNL_INTERFACE *interface)
{
	interface->DxgkCbAllocateContiguousMemory = cb_allocate_contiguous;
	interface->DxgkCbFreeContiguousMemory = cb_free_contiguous;
	interface->DxgkCbAllocatePagesForMdl = cb_allocate_pages;
	interface->DxgkCbFreePagesFromMdl = cb_free_pages;
	interface->DxgkCbPinFrameBufferForSave = cb_pin_frame_buffer;
	interface->DxgkCbMapFrameBufferPointer = cb_map_frame_buffer;
	interface->DxgkCbUnmapFrameBufferPointer = cb_unmap_frame_buffer;
	interface->DxgkCbMapMdlToIoMmu = cb_map_mdl;
	interface->DxgkCbUnmapMdlFromIoMmu = cb_unmap_mdl;
}
