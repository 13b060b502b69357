/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The two tables between Dxgkrnl and a display miniport (dispmprt.h):
 * DXGKRNL_INTERFACE, which the miniport calls, and DRIVER_INITIALIZATION_
 * DATA, which it hands over.  All members of the former in order; members
 * that this project does not use are void pointers.
 */
#ifndef VDXGK_DXGKRNL_H
#define VDXGK_DXGKRNL_H

#include "vdxgk_ddi.h"

#define DXGKDDI_INTERFACE_VERSION_WDDM2_8 0xD001
#define DXGKDDI_INTERFACE_VERSION_WDDM2_9 0xE003
#define DXGKDDI_INTERFACE_VERSION_WDDM3_1 0x10004

typedef NTSTATUS (*DXGKCB_MAP_MEMORY)(HANDLE DeviceHandle,
				      PHYSICAL_ADDRESS TranslatedAddress,
				      ULONG Length, BOOLEAN InIoSpace,
				      BOOLEAN MapToUserMode,
				      MEMORY_CACHING_TYPE CacheType,
				      PVOID *VirtualAddress);
typedef NTSTATUS (*DXGKCB_UNMAP_MEMORY)(HANDLE DeviceHandle,
					PVOID VirtualAddress);

/* The physical-memory family takes no adapter handle of its own.  A callback
 * that returns nothing has no way to fail: Windows stops instead. */
typedef NTSTATUS (*DXGKCB_CREATEPHYSICALMEMORYOBJECT)(
	DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *pArgs);
typedef void (*DXGKCB_DESTROYPHYSICALMEMORYOBJECT)(
	const DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *pArgs);
typedef NTSTATUS (*DXGKCB_MAPPHYSICALMEMORY)(
	DXGKARGCB_MAP_PHYSICAL_MEMORY *pArgs);
typedef void (*DXGKCB_UNMAPPHYSICALMEMORY)(
	const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *pArgs);
typedef NTSTATUS (*DXGKCB_ALLOCATEADL)(DXGKARGCB_ALLOCATE_ADL *pArgs);
typedef void (*DXGKCB_FREEADL)(const DXGKARGCB_FREE_ADL *pArgs);
typedef NTSTATUS (*DXGKCB_OPENPHYSICALMEMORYOBJECT)(
	DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *pArgs);
typedef void (*DXGKCB_CLOSEPHYSICALMEMORYOBJECT)(
	const DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *pArgs);
typedef NTSTATUS (*DXGKCB_PINFRAMEBUFFERFORSAVE2)(
	HANDLE hAdapter, DXGKARGCB_PINFRAMEBUFFERFORSAVE2 *pArgs);

typedef NTSTATUS (*DXGKCB_UNPINFRAMEBUFFERFORSAVE)(
	HANDLE hAdapter, const DXGKARGCB_UNPINFRAMEBUFFERFORSAVE *pArgs);

/* WDDM 2.4: for drivers that don't support remapping. This project calls them
 * only to see them refused, with whichever arguments. */
typedef NTSTATUS (*DXGKCB_OLDER)(HANDLE hAdapter, void *pArgs);
typedef void (*DXGKCB_OLDER_VOID)(HANDLE hAdapter, void *pArgs);

typedef struct _DXGKRNL_INTERFACE {
	ULONG Size; /* how much of the table this Dxgkrnl fills */
	ULONG Version;
	HANDLE DeviceHandle;
	void *DxgkCbEvalAcpiMethod;
	void *DxgkCbGetDeviceInformation;
	void *DxgkCbIndicateChildStatus;
	DXGKCB_MAP_MEMORY DxgkCbMapMemory;
	void *DxgkCbQueueDpc;
	void *DxgkCbQueryServices;
	void *DxgkCbReadDeviceSpace;
	void *DxgkCbSynchronizeExecution;
	DXGKCB_UNMAP_MEMORY DxgkCbUnmapMemory;
	void *DxgkCbWriteDeviceSpace;
	void *DxgkCbIsDevicePresent;
	void *DxgkCbGetHandleData;
	void *DxgkCbGetHandleParent;
	void *DxgkCbEnumHandleChildren;
	void *DxgkCbNotifyInterrupt;
	void *DxgkCbNotifyDpc;
	void *DxgkCbQueryVidPnInterface;
	void *DxgkCbQueryMonitorInterface;
	void *DxgkCbGetCaptureAddress;
	void *DxgkCbLogEtwEvent;
	void *DxgkCbExcludeAdapterAccess;
	void *DxgkCbCreateContextAllocation;
	void *DxgkCbDestroyContextAllocation;
	void *DxgkCbSetPowerComponentActive;
	void *DxgkCbSetPowerComponentIdle;
	void *DxgkCbAcquirePostDisplayOwnership;
	void *DxgkCbPowerRuntimeControlRequest;
	void *DxgkCbSetPowerComponentLatency;
	void *DxgkCbSetPowerComponentResidency;
	void *DxgkCbCompleteFStateTransition;
	void *DxgkCbCompletePStateTransition; /* WDDM 1.3 */
	void *DxgkCbMapContextAllocation; /* 2.0 */
	void *DxgkCbUpdateContextAllocation;
	void *DxgkCbReserveGpuVirtualAddressRange;
	void *DxgkCbAcquireHandleData;
	void *DxgkCbReleaseHandleData;
	void *DxgkCbHardwareContentProtectionTeardown;
	void *DxgkCbMultiPlaneOverlayDisabled; /* 2.1 */
	void *DxgkCbMitigatedRangeUpdate;
	void *DxgkCbInvalidateHwContext; /* 2.2 */
	void *DxgkCbIndicateConnectorChange;
	void *DxgkCbUnblockUEFIFrameBufferRanges;
	void *DxgkCbAcquirePostDisplayOwnership2;
	void *DxgkCbSetProtectedSessionStatus; /* 2.3 */
	DXGKCB_OLDER DxgkCbAllocateContiguousMemory; /* 2.4 */
	DXGKCB_OLDER DxgkCbFreeContiguousMemory;
	DXGKCB_OLDER DxgkCbAllocatePagesForMdl;
	DXGKCB_OLDER DxgkCbFreePagesFromMdl;
	DXGKCB_OLDER DxgkCbPinFrameBufferForSave;
	DXGKCB_UNPINFRAMEBUFFERFORSAVE DxgkCbUnpinFrameBufferForSave;
	DXGKCB_OLDER DxgkCbMapFrameBufferPointer;
	DXGKCB_OLDER DxgkCbUnmapFrameBufferPointer;
	DXGKCB_OLDER DxgkCbMapMdlToIoMmu;
	DXGKCB_OLDER_VOID DxgkCbUnmapMdlFromIoMmu;
	void *DxgkCbReportDiagnostic;
	void *DxgkCbSignalEvent; /* 2.5 */
	void *DxgkCbIsFeatureEnabled; /* 2.6 */
	void *DxgkCbSaveMemoryForHotUpdate;
	void *DxgkCbNotifyCursorSupportChange; /* 2.8 */
	void *DxgkCbQueryFeatureSupport; /* 2.9 */
	DXGKCB_CREATEPHYSICALMEMORYOBJECT DxgkCbCreatePhysicalMemoryObject;
	DXGKCB_DESTROYPHYSICALMEMORYOBJECT DxgkCbDestroyPhysicalMemoryObject;
	DXGKCB_MAPPHYSICALMEMORY DxgkCbMapPhysicalMemory;
	DXGKCB_UNMAPPHYSICALMEMORY DxgkCbUnmapPhysicalMemory;
	DXGKCB_ALLOCATEADL DxgkCbAllocateAdl;
	DXGKCB_FREEADL DxgkCbFreeAdl;
	DXGKCB_OPENPHYSICALMEMORYOBJECT DxgkCbOpenPhysicalMemoryObject;
	DXGKCB_CLOSEPHYSICALMEMORYOBJECT DxgkCbClosePhysicalMemoryObject;
	DXGKCB_PINFRAMEBUFFERFORSAVE2 DxgkCbPinFrameBufferForSave2;
	void *DxgkCbDisconnectDoorbell; /* 3.1 */
} DXGKRNL_INTERFACE;

/* The sizes that Dxgkrnl reports, by version. */
#define DXGKRNL_INTERFACE_SIZE_WDDM2_8 0x1E8
#define DXGKRNL_INTERFACE_SIZE_WDDM2_9 0x238
#define DXGKRNL_INTERFACE_SIZE_WDDM3_1 0x240

/* ---- The miniport's side ------------------------------------------------ */

typedef struct _DXGK_START_INFO DXGK_START_INFO; /* not read by this driver */

/*
 * Dxgkrnl calls AddDevice, QueryAdapterInfo (capabilities), StartDevice,
 * then the rest, then StopDevice and RemoveDevice: one thread at a time for
 * each adapter (synchronisation level two or three), at PASSIVE_LEVEL.
 */
typedef NTSTATUS (*DXGKDDI_ADD_DEVICE)(DEVICE_OBJECT *PhysicalDeviceObject,
				       PVOID *MiniportDeviceContext);
typedef NTSTATUS (*DXGKDDI_START_DEVICE)(
	PVOID MiniportDeviceContext, DXGK_START_INFO *DxgkStartInfo,
	DXGKRNL_INTERFACE *DxgkInterface, ULONG *NumberOfVideoPresentSources,
	ULONG *NumberOfChildren);
typedef NTSTATUS (*DXGKDDI_STOP_DEVICE)(PVOID MiniportDeviceContext);
typedef NTSTATUS (*DXGKDDI_REMOVE_DEVICE)(PVOID MiniportDeviceContext);
typedef NTSTATUS (*DXGKDDI_QUERYADAPTERINFO)(
	HANDLE hAdapter, const DXGKARG_QUERYADAPTERINFO *pQueryAdapterInfo);
typedef NTSTATUS (*DXGKDDI_ESCAPE)(HANDLE hAdapter,
				   const DXGKARG_ESCAPE *pEscape);
typedef NTSTATUS (*DXGKDDI_BEGINEXCLUSIVEACCESS)(
	HANDLE hAdapter, DXGKARG_BEGINEXCLUSIVEACCESS *pArgs);
typedef NTSTATUS (*DXGKDDI_ENDEXCLUSIVEACCESS)(
	HANDLE hAdapter, DXGKARG_ENDEXCLUSIVEACCESS *pArgs);

/* The members between those that are documented at a fixed offset and used
 * here are left out; all of them are NULL in this driver. */
typedef struct _DRIVER_INITIALIZATION_DATA {
	ULONG Version;
	DXGKDDI_ADD_DEVICE DxgkDdiAddDevice;
	DXGKDDI_START_DEVICE DxgkDdiStartDevice;
	DXGKDDI_STOP_DEVICE DxgkDdiStopDevice;
	DXGKDDI_REMOVE_DEVICE DxgkDdiRemoveDevice;
	void *Unused28[12]; /* DispatchIoRequest .. ControlEtwLogging */
	DXGKDDI_QUERYADAPTERINFO DxgkDdiQueryAdapterInfo;
	void *Unused90[16]; /* CreateDevice .. RestartFromTimeout */
	DXGKDDI_ESCAPE DxgkDdiEscape;
	void *Unused118[104];
	DXGKDDI_BEGINEXCLUSIVEACCESS DxgkDdiBeginExclusiveAccess;
	DXGKDDI_ENDEXCLUSIVEACCESS DxgkDdiEndExclusiveAccess;
} DRIVER_INITIALIZATION_DATA;

/* The driver's entry point, and what it must end with.  The table need not
 * outlive the call. */
NTSTATUS DriverEntry(DRIVER_OBJECT *DriverObject, UNICODE_STRING *RegistryPath);
NTSTATUS DxgkInitialize(DRIVER_OBJECT *DriverObject,
			UNICODE_STRING *RegistryPath,
			DRIVER_INITIALIZATION_DATA *DriverInitializationData);

#endif
