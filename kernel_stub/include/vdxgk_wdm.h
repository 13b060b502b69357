/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * What the miniport needs of the Windows driver model, at the documented x64
 * (LLP64) layout: basic types, the bus interface of a PDO, pool memory.
 *
 * Declared here from the public documentation.  The types are sized by the
 * compiler's own names, so that the layout is the same under Linux and under
 * the Windows ABI.
 */
#ifndef VDXGK_WDM_H
#define VDXGK_WDM_H

typedef __UINT8_TYPE__ UCHAR;
typedef __UINT16_TYPE__ USHORT;
typedef __UINT32_TYPE__ ULONG;
typedef __UINT32_TYPE__ UINT;
typedef __INT32_TYPE__ LONG;
typedef __UINT64_TYPE__ ULONG64;
typedef __INT64_TYPE__ LONGLONG;
typedef __UINT64_TYPE__ SIZE_T;
typedef __UINT64_TYPE__ ULONG_PTR;
typedef __UINT64_TYPE__ UINT_PTR;
typedef UCHAR BOOLEAN;
typedef LONG NTSTATUS;
typedef ULONG ACCESS_MASK;
typedef void *PVOID;
typedef void *HANDLE;

typedef union _LARGE_INTEGER {
	struct {
		ULONG LowPart;
		LONG HighPart;
	} u;
	LONGLONG QuadPart;
} LARGE_INTEGER, PHYSICAL_ADDRESS;

typedef enum _MEMORY_CACHING_TYPE {
	MmNonCached = 0,
	MmCached = 1,
	MmWriteCombined = 2,
} MEMORY_CACHING_TYPE;

/* Opaque here. */
typedef struct _DRIVER_OBJECT DRIVER_OBJECT;
typedef struct _DEVICE_OBJECT DEVICE_OBJECT;
typedef struct _UNICODE_STRING UNICODE_STRING;
typedef struct _OBJECT_ATTRIBUTES OBJECT_ATTRIBUTES;
typedef struct _MDL MDL;

/*
 * GUID_BUS_INTERFACE_STANDARD: access to the configuration space of a PDO.
 * GetBusData and SetBusData return the number of bytes transferred.
 */
#define PCI_WHICHSPACE_CONFIG 0

typedef struct _BUS_INTERFACE_STANDARD {
	USHORT Size;
	USHORT Version;
	PVOID Context;
	void (*InterfaceReference)(PVOID Context);
	void (*InterfaceDereference)(PVOID Context);
	void *TranslateBusAddress;
	void *GetDmaAdapter;
	ULONG (*SetBusData)(PVOID Context, ULONG DataType, PVOID Buffer,
			    ULONG Offset, ULONG Length);
	ULONG (*GetBusData)(PVOID Context, ULONG DataType, PVOID Buffer,
			    ULONG Offset, ULONG Length);
} BUS_INTERFACE_STANDARD;

/*
 * The services that the platform provides to the miniport beside Dxgkrnl's.
 *
 * VdxgkQueryBusInterface stands for IRP_MN_QUERY_INTERFACE sent to the PDO.
 * On success the caller owns a reference (InterfaceDereference).
 * ExAllocatePool2 returns zeroed memory, or NULL.  KeDelayExecutionThread's
 * interval is in units of 100 ns, negative: from now on.
 */
#define POOL_FLAG_NON_PAGED 0x40ull

NTSTATUS VdxgkQueryBusInterface(DEVICE_OBJECT *PhysicalDeviceObject,
				BUS_INTERFACE_STANDARD *Interface);
PVOID ExAllocatePool2(ULONG64 Flags, SIZE_T NumberOfBytes, ULONG Tag);
void ExFreePoolWithTag(PVOID Memory, ULONG Tag);
NTSTATUS KeDelayExecutionThread(UCHAR WaitMode, BOOLEAN Alertable,
				LARGE_INTEGER *Interval);

#endif
