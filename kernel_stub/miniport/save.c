// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The frame buffer's save area, which Dxgkrnl keeps, and the callbacks of
 * WDDM 2.4, which a driver that supports remapping must not call any more.
 */
#include "miniport.h"

static HANDLE adapter_of(const struct miniport *mp, ULONG flags,
			 vdxgk_u64 adapter)
{
	return flags & VDXGK_ESCAPE_OWN_ADAPTER ? mp->dxgkrnl.DeviceHandle :
						  (HANDLE)(ULONG_PTR)adapter;
}

/* Contiguous or not, the caller gets one number for each page. */
NTSTATUS miniport_pin(struct miniport *mp, ULONG flags,
		      struct vdxgk_escape_pin *request, vdxgk_u64 *pages,
		      SIZE_T room)
{
	const DXGK_ADL *adl;
	NTSTATUS status;
	ULONG i;

	if (!MINIPORT_HAS(mp, DxgkCbPinFrameBufferForSave2) ||
	    !MINIPORT_HAS(mp, DxgkCbUnpinFrameBufferForSave))
		return STATUS_NOT_SUPPORTED;
	if (request->count > room / sizeof(*pages))
		return STATUS_BUFFER_TOO_SMALL;
	request->args.pAdl = (DXGK_ADL *)0;
	status = mp->dxgkrnl.DxgkCbPinFrameBufferForSave2(
		adapter_of(mp, flags, request->adapter), &request->args);
	if (!NT_SUCCESS(status))
		return status;

	mp->pinned |= 1u << request->args.PhysicalAdapterIndex;
	adl = request->args.pAdl;
	request->page_count = adl->PageCount;
	request->contiguous = adl->Flags.Bits.Contiguous;
	if (request->count > adl->PageCount)
		request->count = adl->PageCount;
	for (i = 0; i < request->count; i++)
		pages[i] = request->contiguous ? adl->BasePageNumber + i :
						 adl->Pages[i];
	return status;
}

NTSTATUS miniport_unpin(struct miniport *mp, ULONG flags,
			const struct vdxgk_escape_unpin *request)
{
	NTSTATUS status;

	if (!MINIPORT_HAS(mp, DxgkCbUnpinFrameBufferForSave))
		return STATUS_NOT_SUPPORTED;
	status = mp->dxgkrnl.DxgkCbUnpinFrameBufferForSave(
		adapter_of(mp, flags, request->adapter), &request->args);
	if (NT_SUCCESS(status))
		mp->pinned &= ~(1u << request->args.PhysicalAdapterIndex);
	return status;
}

void miniport_release_save_area(struct miniport *mp)
{
	struct vdxgk_escape_unpin own = { 0 };
	UINT i;

	for (i = 0; i < VDXGK_LINKS_MAX; i++) {
		own.args.PhysicalAdapterIndex = i;
		if (mp->pinned & 1u << i)
			miniport_unpin(mp, VDXGK_ESCAPE_OWN_ADAPTER, &own);
	}
}

NTSTATUS miniport_older(struct miniport *mp, ULONG flags,
			const struct vdxgk_escape_older *request)
{
	const DXGKRNL_INTERFACE *table = &mp->dxgkrnl;
	const DXGKCB_OLDER callbacks[] = {
		table->DxgkCbAllocateContiguousMemory,
		table->DxgkCbFreeContiguousMemory,
		table->DxgkCbAllocatePagesForMdl,
		table->DxgkCbFreePagesFromMdl,
		table->DxgkCbPinFrameBufferForSave,
		table->DxgkCbMapFrameBufferPointer,
		table->DxgkCbUnmapFrameBufferPointer,
		table->DxgkCbMapMdlToIoMmu,
	};
	HANDLE adapter = adapter_of(mp, flags, request->adapter);
	vdxgk_u64 nothing[8] = { 0 }; /* as large as any of their arguments */

	if (request->callback == VDXGK_OLDER_UNMAP_MDL_FROM_IOMMU &&
	    MINIPORT_HAS(mp, DxgkCbUnmapMdlFromIoMmu)) {
		table->DxgkCbUnmapMdlFromIoMmu(adapter, nothing);
		return STATUS_SUCCESS;
	}
	if (request->callback >= sizeof(callbacks) / sizeof(callbacks[0]) ||
	    !callbacks[request->callback])
		return STATUS_NOT_SUPPORTED;
	return callbacks[request->callback](adapter, nothing);
}
