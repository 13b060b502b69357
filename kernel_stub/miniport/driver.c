// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * DriverEntry and the life cycle of the adapter: AddDevice, the questions
 * that Dxgkrnl asks before it starts the adapter, StartDevice, StopDevice,
 * RemoveDevice.
 */
#include "miniport.h"

static NTSTATUS miniport_add_device(DEVICE_OBJECT *pdo, PVOID *context)
{
	struct miniport *mp;
	NTSTATUS status;

	*context = (PVOID)0;
	mp = ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(*mp),
			     MINIPORT_POOL_TAG);
	if (!mp)
		return STATUS_NO_MEMORY;
	status = VdxgkQueryBusInterface(pdo, &mp->bus);
	if (!NT_SUCCESS(status))
		goto free;
	status = miniport_find_device(mp);
	if (!NT_SUCCESS(status))
		goto dereference;
	*context = mp;
	return STATUS_SUCCESS;

dereference:
	mp->bus.InterfaceDereference(mp->bus.Context);
free:
	ExFreePoolWithTag(mp, MINIPORT_POOL_TAG);
	return status;
}

static NTSTATUS miniport_remove_device(PVOID context)
{
	struct miniport *mp = context;

	mp->bus.InterfaceDereference(mp->bus.Context);
	ExFreePoolWithTag(mp, MINIPORT_POOL_TAG);
	return STATUS_SUCCESS;
}

/*
 * Asked after AddDevice and before StartDevice: there is no Dxgkrnl interface
 * and no register yet, only the configuration space.
 *
 * The adapter supports DMA remapping, and IOMMU isolation, which obliges the
 * driver to offer exclusive access and to say how much memory its frame buffer
 * needs to be saved. (Its bit must equal DXGK_VIDMMCAPS', which are asked of
 * drivers with segments only.)
 */
static NTSTATUS
miniport_query_adapter_info(HANDLE context,
			    const DXGKARG_QUERYADAPTERINFO *query)
{
	struct miniport *mp = context;

	switch (query->Type) {
	case DXGKQAITYPE_PHYSICAL_MEMORY_CAPS: {
		DXGK_PHYSICAL_MEMORY_CAPS caps = { 0 };
		unsigned int bits = mp->cap.dma_bits;

		if (query->OutputDataSize < sizeof(caps))
			return STATUS_BUFFER_TOO_SMALL;
		caps.HighestVisibleAddress.QuadPart =
			(LONGLONG)(~0ull >> (64 - bits));
		__builtin_memcpy(query->pOutputData, &caps, sizeof(caps));
		return STATUS_SUCCESS;
	}
	case DXGKQAITYPE_IOMMU_CAPS: {
		DXGK_IOMMU_CAPS caps = { .Value = 0 };

		if (query->OutputDataSize < sizeof(caps))
			return STATUS_BUFFER_TOO_SMALL;
		caps.Bits.IommuIsolationSupported = 1;
		caps.Bits.DmaRemappingSupported = 1;
		__builtin_memcpy(query->pOutputData, &caps, sizeof(caps));
		return STATUS_SUCCESS;
	}
	case DXGKQAITYPE_FRAMEBUFFERSAVESIZE: {
		DXGK_FRAMEBUFFERSAVEAREA area;
		UINT index;

		if (query->OutputDataSize < sizeof(area) ||
		    query->InputDataSize < sizeof(index))
			return STATUS_BUFFER_TOO_SMALL;
		__builtin_memcpy(&index, query->pInputData, sizeof(index));
		if (!mp->started || index != mp->cap.link_index)
			return STATUS_INVALID_PARAMETER;
		area.MaximumSize = miniport_framebuffer_size(&mp->engine);
		__builtin_memcpy(query->pOutputData, &area, sizeof(area));
		return STATUS_SUCCESS;
	}
	default:
		return STATUS_NOT_SUPPORTED;
	}
}

static NTSTATUS miniport_start_device(PVOID context, DXGK_START_INFO *info,
				      DXGKRNL_INTERFACE *dxgkrnl,
				      ULONG *sources, ULONG *children)
{
	struct miniport *mp = context;
	SIZE_T size = dxgkrnl->Size;
	NTSTATUS status;

	(void)info;
	if (size > sizeof(mp->dxgkrnl))
		size = sizeof(mp->dxgkrnl);
	__builtin_memset(&mp->dxgkrnl, 0, sizeof(mp->dxgkrnl));
	__builtin_memcpy(&mp->dxgkrnl, dxgkrnl, size);
	if (!MINIPORT_HAS(mp, DxgkCbMapMemory) ||
	    !MINIPORT_HAS(mp, DxgkCbUnmapMemory))
		return STATUS_NOT_SUPPORTED;

	status = miniport_engine_start(mp);
	if (!NT_SUCCESS(status))
		return status;
	mp->started = 1;
	*sources = 0;
	*children = 0;
	return STATUS_SUCCESS;
}

static NTSTATUS miniport_stop_device(PVOID context)
{
	struct miniport *mp = context;

	if (!mp->started)
		return STATUS_SUCCESS;
	mp->started = 0;
	miniport_display_stop(mp);
	/* In vain: then the device is lost, and releasing goes on all the same,
	 * since Dxgkrnl takes the adapter off the bus after this. */
	miniport_engine_quiesce(&mp->engine);
	miniport_release_views(mp);
	miniport_release_save_area(mp);
	miniport_release_memory(mp);
	miniport_engine_stop(mp);
	return STATUS_SUCCESS;
}

/* The device touches no memory until EndExclusiveAccess: what it has to do is
 * done first, and nothing new is taken. */
static NTSTATUS
miniport_begin_exclusive_access(HANDLE context,
				DXGKARG_BEGINEXCLUSIVEACCESS *args)
{
	struct miniport *mp = context;
	NTSTATUS status;

	(void)args;
	if (!mp->started || mp->exclusive)
		return STATUS_INVALID_DEVICE_STATE;
	miniport_display_stop(mp);
	status = miniport_engine_quiesce(&mp->engine);
	mp->exclusive = NT_SUCCESS(status);
	return status;
}

static NTSTATUS
miniport_end_exclusive_access(HANDLE context, DXGKARG_ENDEXCLUSIVEACCESS *args)
{
	struct miniport *mp = context;

	(void)args;
	mp->exclusive = 0;
	return STATUS_SUCCESS;
}

NTSTATUS DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
	DRIVER_INITIALIZATION_DATA data = {
		.Version = DXGKDDI_INTERFACE_VERSION_WDDM2_9,
		.DxgkDdiAddDevice = miniport_add_device,
		.DxgkDdiStartDevice = miniport_start_device,
		.DxgkDdiStopDevice = miniport_stop_device,
		.DxgkDdiRemoveDevice = miniport_remove_device,
		.DxgkDdiQueryAdapterInfo = miniport_query_adapter_info,
		.DxgkDdiEscape = miniport_escape,
		.DxgkDdiBeginExclusiveAccess = miniport_begin_exclusive_access,
		.DxgkDdiEndExclusiveAccess = miniport_end_exclusive_access,
	};

	return DxgkInitialize(driver, registry_path, &data);
}
