/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The WDDM 2.9 physical-memory DDI: types and argument structures, as
 * d3dkmddi.h documents them, at their x64 offsets (see vdxgk_ddi_check.h).
 *
 * Declared here from the public documentation.  Sizes are in bytes unless a
 * name says pages.
 */
#ifndef VDXGK_DDI_H
#define VDXGK_DDI_H

#include "vdxgk_wdm.h"

typedef enum _DXGK_PHYSICAL_MEMORY_TYPE {
	DXGK_PHYSICAL_MEMORY_TYPE_MDL = 0,
	DXGK_PHYSICAL_MEMORY_TYPE_CONTIGUOUS_MEMORY = 1,
	DXGK_PHYSICAL_MEMORY_TYPE_SECTION = 2,
	DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE = 3,
} DXGK_PHYSICAL_MEMORY_TYPE;

typedef enum _DXGK_MEMORY_CACHING_TYPE {
	DXGK_MEMORY_CACHING_TYPE_NON_CACHED = 0,
	DXGK_MEMORY_CACHING_TYPE_CACHED = 1,
	DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED = 2,
} DXGK_MEMORY_CACHING_TYPE;

typedef enum _DXGK_ACCESS_MODE {
	DXGK_ACCESS_MODE_KERNEL_MODE = 0,
	DXGK_ACCESS_MODE_USER_MODE = 1,
} DXGK_ACCESS_MODE;

typedef enum _DXGK_QUERYADAPTERINFOTYPE {
	DXGKQAITYPE_PHYSICALADAPTERCAPS = 15,
	DXGKQAITYPE_FRAMEBUFFERSAVESIZE = 21,
	DXGKQAITYPE_HARDWARERESERVEDRANGES = 22,
	DXGKQAITYPE_PHYSICAL_MEMORY_CAPS = 34,
	DXGKQAITYPE_IOMMU_CAPS = 35,
	DXGKQAITYPE_HARDWARERESERVEDRANGES2 = 36,
} DXGK_QUERYADAPTERINFOTYPE;

/* MmAllocatePagesForMdlEx flags, for DXGKARGCB_..._OBJECT.Mdl.Flags. */
#define MM_DONT_ZERO_ALLOCATION 0x1
#define MM_ALLOCATE_FROM_LOCAL_NODE_ONLY 0x2
#define MM_ALLOCATE_FULLY_REQUIRED 0x4
#define MM_ALLOCATE_NO_WAIT 0x8
#define MM_ALLOCATE_PREFER_CONTIGUOUS 0x10
#define MM_ALLOCATE_REQUIRE_CONTIGUOUS_CHUNKS 0x20
#define MM_ALLOCATE_FAST_LARGE_PAGES 0x40
#define MM_ALLOCATE_AND_HOT_REMOVE 0x100

/* For DXGKARGCB_..._OBJECT.Section. The other protections (PAGE_READONLY 0x02,
 * PAGE_WRITECOPY 0x08, PAGE_EXECUTE 0x10) have names that Linux uses too. */
#define PAGE_READWRITE 0x04
#define SEC_COMMIT 0x08000000

/* ---- Address descriptor lists ------------------------------------------ */

/* A 4 KiB page: logical where an IOMMU remaps, else guest-physical. */
typedef UINT_PTR DXGK_PAGE_NUMBER;

typedef union _DXGK_ADL_FLAGS {
	struct {
		UINT Contiguous : 1;
		UINT Reserved : 31;
	} Bits;
	UINT Value;
} DXGK_ADL_FLAGS;

typedef struct _DXGK_ADL {
	UINT PageCount;
	DXGK_ADL_FLAGS Flags;
	union {
		DXGK_PAGE_NUMBER BasePageNumber; /* Flags.Contiguous */
		const DXGK_PAGE_NUMBER *Pages;
	};
} DXGK_ADL;

/* ---- Callback arguments, WDDM 2.9 -------------------------------------- */

typedef struct _DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT {
	HANDLE hAdapter;	/* in, optional: DXGKRNL_INTERFACE.DeviceHandle */
	SIZE_T Size;
	ULONG_PTR Context;	/* a debugging cookie, never dereferenced */
	DXGK_PHYSICAL_MEMORY_TYPE Type;
	DXGK_MEMORY_CACHING_TYPE CacheType;
	union {
		struct {
			PHYSICAL_ADDRESS LowAddress;
			PHYSICAL_ADDRESS HighAddress;
			PHYSICAL_ADDRESS SkipBytes;
			UINT Flags;
		} Mdl;
		struct {
			PHYSICAL_ADDRESS LowestAcceptableAddress;
			PHYSICAL_ADDRESS HighestAcceptableAddress;
			PHYSICAL_ADDRESS BoundaryAddressMultiple;
		} ContiguousMemory;
		struct {
			ACCESS_MASK DesiredAccess;
			OBJECT_ATTRIBUTES *ObjectAttributes;
			ULONG PageProtection;
			ULONG AllocationAttributes;
		} Section;
		struct {
			PHYSICAL_ADDRESS BaseAddress;
		} IOSpace;
	};
	HANDLE hPhysicalMemoryObject; /* out */
	HANDLE hAdapterMemoryObject;  /* out; NULL when hAdapter was NULL */
} DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT;

typedef struct _DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT {
	HANDLE hPhysicalMemoryObject;
	HANDLE hAdapterMemoryObject; /* optional: closed in the same call */
} DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT;

typedef struct _DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT {
	HANDLE hPhysicalMemoryObject;
	HANDLE hAdapter;
	HANDLE hAdapterMemoryObject; /* out */
} DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT;

typedef struct _DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT {
	HANDLE hAdapterMemoryObject;
} DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT;

typedef struct _DXGKARGCB_MAP_PHYSICAL_MEMORY {
	HANDLE hPhysicalMemoryObject;
	DXGK_ACCESS_MODE AccessMode;
	SIZE_T Offset; /* in: of the object; out: of the data in the view */
	SIZE_T Size;   /* in: wanted; out: mapped, never less */
	PVOID pMappedAddress; /* out: the view's base */
} DXGKARGCB_MAP_PHYSICAL_MEMORY;

typedef struct _DXGKARGCB_UNMAP_PHYSICAL_MEMORY {
	HANDLE hPhysicalMemoryObject;
	PVOID pBaseAddress; /* as Map returned it */
	SIZE_T Size;	    /* as Map returned it */
} DXGKARGCB_UNMAP_PHYSICAL_MEMORY;

typedef struct _DXGKARGCB_ALLOCATE_ADL {
	HANDLE hAdapterMemoryObject;
	SIZE_T Offset;
	SIZE_T Size;
	union {
		struct {
			UINT RequireContiguous : 1;
			UINT PreferContiguous : 1;
			UINT Reserved : 30;
		} Bits;
		UINT Value;
	} Flags;
	DXGK_ADL *pAdl; /* out: Dxgkrnl's, valid until FreeAdl */
} DXGKARGCB_ALLOCATE_ADL;

typedef struct _DXGKARGCB_FREE_ADL {
	HANDLE hAdapterMemoryObject;
	DXGK_ADL *pAdl;
} DXGKARGCB_FREE_ADL;

typedef struct _DXGKARGCB_PINFRAMEBUFFERFORSAVE2 {
	UINT PhysicalAdapterIndex;
	SIZE_T CommitSize;
	union {
		struct {
			UINT PreferContiguous : 1;
			UINT Reserved : 31;
		} Bits;
		UINT Value;
	} Flags;
	DXGK_ADL *pAdl; /* out */
} DXGKARGCB_PINFRAMEBUFFERFORSAVE2;

/* ---- Callback arguments, WDDM 2.4: replaced by the above, but Unpin ----- */

typedef struct _DXGKARGCB_ALLOCATEPAGESFORMDL {
	PHYSICAL_ADDRESS LowAddress;
	PHYSICAL_ADDRESS HighAddress;
	PHYSICAL_ADDRESS SkipBytes;
	SIZE_T TotalBytes;
	MEMORY_CACHING_TYPE CacheType;
	ULONG Flags;
	HANDLE hMemoryHandle; /* out */
	MDL *pMdl;	      /* out */
} DXGKARGCB_ALLOCATEPAGESFORMDL;

typedef struct _DXGKARGCB_ALLOCATECONTIGUOUSMEMORY {
	SIZE_T NumberOfBytes;
	PHYSICAL_ADDRESS LowestAcceptableAddress;
	PHYSICAL_ADDRESS HighestAcceptableAddress;
	PHYSICAL_ADDRESS BoundaryAddressMultiple;
	MEMORY_CACHING_TYPE CacheType;
	HANDLE hMemoryHandle; /* out */
	PVOID pMemory;	      /* out */
} DXGKARGCB_ALLOCATECONTIGUOUSMEMORY;

typedef struct _DXGKARGCB_PINFRAMEBUFFERFORSAVE {
	UINT PhysicalAdapterIndex;
	SIZE_T CommitSize;
	MDL *pMdl; /* out */
} DXGKARGCB_PINFRAMEBUFFERFORSAVE;

typedef struct _DXGKARGCB_UNPINFRAMEBUFFERFORSAVE {
	UINT PhysicalAdapterIndex;
} DXGKARGCB_UNPINFRAMEBUFFERFORSAVE;

typedef struct _DXGKARGCB_MAPMDLTOIOMMU {
	MDL *pMdl;
	HANDLE hMemoryHandle; /* out */
} DXGKARGCB_MAPMDLTOIOMMU;

/* ---- Capabilities ------------------------------------------------------ */

typedef struct _DXGK_PHYSICAL_MEMORY_CAPS {
	PHYSICAL_ADDRESS HighestVisibleAddress;
} DXGK_PHYSICAL_MEMORY_CAPS;

typedef union _DXGK_IOMMU_CAPS {
	struct {
		UINT IommuIsolationSupported : 1;
		UINT IommuIsolationRequired : 1;
		UINT DmaRemappingSupported : 1;
		UINT GpuVaIommuRequired : 1;
		UINT GpuVaIommuGlobalRequired : 1;
		UINT Reserved : 27;
	} Bits;
	UINT Value;
} DXGK_IOMMU_CAPS;

typedef struct _DXGK_FRAMEBUFFERSAVEAREA {
	SIZE_T MaximumSize;
} DXGK_FRAMEBUFFERSAVEAREA;

typedef struct _DXGK_PHYSICAL_MEMORY_RANGE {
	PHYSICAL_ADDRESS BaseAddress;
	LARGE_INTEGER NumberOfBytes;
} DXGK_PHYSICAL_MEMORY_RANGE;

typedef struct _DXGK_HARDWARERESERVEDRANGES {
	UINT NumRanges;
	DXGK_PHYSICAL_MEMORY_RANGE *pPhysicalRanges;
} DXGK_HARDWARERESERVEDRANGES;

/* ---- Arguments of the miniport's DDI ----------------------------------- */

typedef struct _DXGKARG_QUERYADAPTERINFO {
	DXGK_QUERYADAPTERINFOTYPE Type;
	PVOID pInputData;
	UINT InputDataSize;
	PVOID pOutputData;
	UINT OutputDataSize;
	union {
		struct {
			UINT VirtualMachineData : 1;
			UINT SecureVirtualMachine : 1;
			UINT Reserved : 30;
		} Bits;
		UINT Value;
	} Flags;
	HANDLE hKmdProcessHandle;
} DXGKARG_QUERYADAPTERINFO;

typedef struct _DXGKARG_ESCAPE {
	HANDLE hDevice;
	UINT Flags;
	PVOID pPrivateDriverData;
	UINT PrivateDriverDataSize;
	HANDLE hContext;
} DXGKARG_ESCAPE;

typedef struct _DXGKARG_BEGINEXCLUSIVEACCESS {
	UINT Reserved;
} DXGKARG_BEGINEXCLUSIVEACCESS;

typedef struct _DXGKARG_ENDEXCLUSIVEACCESS {
	UINT Reserved;
} DXGKARG_ENDEXCLUSIVEACCESS;

typedef union _DXGK_MAPAPERTUREFLAGS {
	struct {
		UINT CacheCoherent : 1;
		UINT Reserved : 31;
	} Bits;
	UINT Value;
} DXGK_MAPAPERTUREFLAGS;

/* DXGKARG_BUILDPAGINGBUFFER.MapApertureSegment2 */
typedef struct _DXGK_MAPAPERTURESEGMENT2 {
	HANDLE hDevice;
	HANDLE hAllocation;
	UINT SegmentId;
	SIZE_T OffsetInPages;
	SIZE_T NumberOfPages;
	DXGK_ADL Adl;
	DXGK_MAPAPERTUREFLAGS Flags;
	ULONG AdlOffset; /* pages */
	PVOID CpuVisibleAddress;
} DXGK_MAPAPERTURESEGMENT2;

#endif
