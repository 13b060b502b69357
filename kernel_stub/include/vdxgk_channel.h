/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The paravirtual channel between a guest and the vdxgk device.
 *
 * This file is the only definition of the layouts.  The kernel stub compiles
 * it; the device's Python declarations (vdxgk.channel.layout) are compared
 * with it, field by field, by a test that compiles it too.
 *
 * Everything is little-endian.  Every structure is naturally aligned and has
 * no implicit padding.  Sizes are in bytes, addresses are byte addresses.
 *
 * Words: "guest" is the driver side, "backend" the device side.  A guest-
 * physical address (GPA) names guest RAM; a logical address is what the
 * device puts on its bus, before the IOMMU.
 */
#ifndef VDXGK_CHANNEL_H
#define VDXGK_CHANNEL_H

/* Compiler-provided types: this header serves Linux, user space and the
 * Windows ABI alike, none of which share a header with such names. */
typedef __UINT8_TYPE__ vdxgk_u8;
typedef __UINT16_TYPE__ vdxgk_u16;
typedef __UINT32_TYPE__ vdxgk_u32;
typedef __UINT64_TYPE__ vdxgk_u64;

/*
 * ---- Where the channel is ------------------------------------------------
 *
 * A vendor-specific PCI capability (ID 0x09) locates the channel.
 */
#define VDXGK_PCI_CAP_ID 0x09
#define VDXGK_PCI_CAP_VERSION 1

struct vdxgk_pci_cap {
	vdxgk_u8 cap_id;	/* 0x09 */
	vdxgk_u8 cap_next;
	vdxgk_u8 cap_length;	/* sizeof(struct vdxgk_pci_cap) */
	vdxgk_u8 version;	/* VDXGK_PCI_CAP_VERSION */
	vdxgk_u32 magic;	/* VDXGK_MAGIC */
	vdxgk_u8 bar;		/* which BAR holds registers and shared memory */
	vdxgk_u8 dma_bits;	/* width of the addresses that the device emits */
	vdxgk_u8 link_index;	/* which physical adapter of its chain; 0 leads */
	vdxgk_u8 link_count;	/* functions of the chain; 1: not linked */
	vdxgk_u32 registers_offset;	/* the register page, in that BAR */
	vdxgk_u32 shared_offset;	/* the shared memory, in that BAR */
	vdxgk_u32 shared_size;
	vdxgk_u32 chain;	/* the same in all functions of a chain */
};

/*
 * Linked functions are one logical adapter: one domain, one backend. The
 * requests go through the channel of the one that leads; the others' channels
 * take none of the memory family. Each has its own engine, faults and events.
 */
#define VDXGK_LINKS_MAX 4

#define VDXGK_MAGIC 0x47584456 /* "VDXG" */
#define VDXGK_VERSION 1

/*
 * ---- Registers -----------------------------------------------------------
 *
 * 32 bits wide, naturally aligned; any other access reads as all-ones and
 * writes nothing.  Every access is trapped by the hypervisor.
 */
#define VDXGK_REG_MAGIC 0x00		/* RO VDXGK_MAGIC */
#define VDXGK_REG_VERSION 0x04		/* RO VDXGK_VERSION */
#define VDXGK_REG_FEATURES 0x08		/* RO VDXGK_FEATURE_* */
#define VDXGK_REG_STATUS 0x0c		/* RO VDXGK_STATUS_* */
#define VDXGK_REG_CONTROL 0x10		/* WO VDXGK_CONTROL_* */
#define VDXGK_REG_DMA_BITS 0x14		/* RO 1..64 */
#define VDXGK_REG_CHANNEL_DOORBELL 0x18 /* WO any value: requests are waiting */
#define VDXGK_REG_ENGINE_DOORBELL 0x1c	/* WO any value: commands are waiting */
#define VDXGK_REG_FAULT_COUNT 0x20	/* RO faults since reset, saturating */
#define VDXGK_REG_FAULT_INFO 0x24	/* RW1C the first fault since cleared */
#define VDXGK_REG_FAULT_ADDRESS_LOW 0x28 /* RO */
#define VDXGK_REG_FAULT_ADDRESS_HIGH 0x2c /* RO */
#define VDXGK_REG_FRAMEBUFFER_PAGES 0x30 /* RO the framebuffer, in 4 KiB */
#define VDXGK_REG_SCANOUT_CONTROL 0x40	/* RW VDXGK_SCANOUT_* */
#define VDXGK_REG_SCANOUT_FLIP 0x44	/* WO 0 or 1: show that surface */
#define VDXGK_REG_SCANOUT_CURSOR 0x48	/* WO any value: load the cursor */
#define VDXGK_REG_SCANOUT_CURSOR_POSITION 0x4c /* RW bits 15:0 x, 31:16 y, signed */
#define VDXGK_REG_PAGE_SIZE 0x1000

#define VDXGK_FEATURE_MESSAGE_DMA 0x1 /* the engine can use VDXGK_ENGINE_MESSAGES */
#define VDXGK_FEATURE_FAULT_INJECTION 0x2 /* the device was told to allow misbehaviour */

#define VDXGK_STATUS_READY 0x1	/* the rings are initialised and served */
#define VDXGK_STATUS_BROKEN 0x2 /* the guest broke a ring rule: reset to go on */

/* End the DMA under way, forget everything the previous driver made,
 * initialise the rings, then set VDXGK_STATUS_READY, which the write clears
 * at once. */
#define VDXGK_CONTROL_RESET 0x1

/* VDXGK_REG_FAULT_INFO: bit 31 valid, bit 30 write, bits 7:0 a reason. Any
 * write with bit 31 set clears the record for the next fault. */
#define VDXGK_FAULT_VALID 0x80000000u
#define VDXGK_FAULT_WRITE 0x40000000u
#define VDXGK_FAULT_REASON_MASK 0x000000ffu

#define VDXGK_FAULT_UNMAPPED 1	 /* nothing is mapped at the address */
#define VDXGK_FAULT_FORBIDDEN 2	 /* mapped, but not for this access */
#define VDXGK_FAULT_ADDRESS_WIDTH 3 /* beyond the device's address width */
#define VDXGK_FAULT_BUS_MASTER_OFF 4 /* bus mastering is disabled */
#define VDXGK_FAULT_REFUSED 5	 /* the hypervisor refused a message access */
#define VDXGK_FAULT_INACCESSIBLE 6 /* mapped without a descriptor */

/* Vectors, of MSI-X or MSI. */
#define VDXGK_VECTOR_CHANNEL 0 /* channel completions */
#define VDXGK_VECTOR_EVENT 1   /* backend events */
#define VDXGK_VECTOR_ENGINE 2  /* engine completions */
#define VDXGK_VECTOR_SCANOUT 3 /* vertical blanks, completed flips */
#define VDXGK_VECTORS 4

/*
 * ---- Shared memory -------------------------------------------------------
 *
 * Both sides map it; no access is trapped.  The guest writes only what it
 * produces (and its consumer indices), and the backend likewise.  The
 * backend copies an entry once and checks the copy.
 *
 *	0x00000	struct vdxgk_ring[VDXGK_RINGS]
 *	0x01000	channel requests	struct vdxgk_request[256]
 *	0x09000	channel completions	struct vdxgk_completion[256]
 *	0x11000	events			struct vdxgk_event[256]
 *	0x15000	engine commands		struct vdxgk_engine_command[256]
 *	0x19000	engine completions	struct vdxgk_engine_completion[256]
 *	0x1d000	scanout			struct vdxgk_scanout
 *	0x20000	runs of the surfaces	struct vdxgk_range[2][16384]
 *	0xa0000	picture of the cursor	16 KiB
 *	0xb0000	bulk data, managed by the guest, named by requests
 */
#define VDXGK_RING_REQUESTS 0
#define VDXGK_RING_COMPLETIONS 1
#define VDXGK_RING_EVENTS 2
#define VDXGK_RING_COMMANDS 3
#define VDXGK_RING_COMMAND_COMPLETIONS 4
#define VDXGK_RINGS 5
#define VDXGK_RING_ENTRIES 256

#define VDXGK_SHARED_REQUESTS 0x01000
#define VDXGK_SHARED_COMPLETIONS 0x09000
#define VDXGK_SHARED_EVENTS 0x11000
#define VDXGK_SHARED_COMMANDS 0x15000
#define VDXGK_SHARED_COMMAND_COMPLETIONS 0x19000
#define VDXGK_SHARED_SCANOUT 0x1d000
#define VDXGK_SHARED_SURFACE_RUNS 0x20000
#define VDXGK_SHARED_CURSOR_PICTURE 0xa0000
#define VDXGK_SHARED_BULK 0xb0000

/*
 * A ring of VDXGK_RING_ENTRIES.  Indices run freely and wrap at 2^32; entry
 * i lies at slot i % 256; producer - consumer is the number of entries
 * waiting, never more than 256.
 *
 * Notification: the consumer sets `notify` when it is about to sleep, and
 * then looks at the producer index once more.  The producer publishes its
 * index, then (after a full barrier) reads `notify` and rings the doorbell
 * or raises the interrupt only if it is set.  So a batch costs one
 * notification, and none while the consumer is already at work.
 */
struct vdxgk_ring {
	vdxgk_u32 producer;
	vdxgk_u32 reserved0[15];
	vdxgk_u32 consumer;
	vdxgk_u32 notify;
	vdxgk_u32 lost;		/* events only: dropped because the ring was full */
	vdxgk_u32 reserved1[13];
};

/*
 * ---- Channel requests ----------------------------------------------------
 */
struct vdxgk_request {
	vdxgk_u32 op;		/* VDXGK_OP_* */
	vdxgk_u32 flags;	/* 0 */
	vdxgk_u64 cookie;	/* comes back in the completion */
	vdxgk_u32 data_offset;	/* bulk data, from VDXGK_SHARED_BULK */
	vdxgk_u32 data_size;	/* 0: none; list in: its size; list out: the room */
	vdxgk_u8 args[104];	/* by op; unused bytes are ignored */
};

struct vdxgk_completion {
	vdxgk_u64 cookie;
	vdxgk_u32 status;	/* NTSTATUS */
	vdxgk_u32 data_count;	/* list entries written to the bulk data */
	vdxgk_u8 result[112];	/* by op; zero on failure unless said otherwise */
};

/* An op's list may be longer than the bulk data that the request offers: the
 * completion then holds the first data_count entries, and the total count is
 * in its result; VDXGK_OP_QUERY_LIST reads on. */

#define VDXGK_OP_START_ADAPTER 1
#define VDXGK_OP_STOP_ADAPTER 2
#define VDXGK_OP_DONATE 3
#define VDXGK_OP_RECLAIM 4
#define VDXGK_OP_CREATE_OBJECT 5
#define VDXGK_OP_DESTROY_OBJECT 6
#define VDXGK_OP_OPEN_OBJECT 7
#define VDXGK_OP_CLOSE_OBJECT 8
#define VDXGK_OP_MAP_OBJECT 9
#define VDXGK_OP_UNMAP_OBJECT 10
#define VDXGK_OP_ALLOCATE_ADL 11
#define VDXGK_OP_COMMIT_ADL 12
#define VDXGK_OP_FREE_ADL 13
#define VDXGK_OP_RELEASE_ADL 14
#define VDXGK_OP_QUERY_LIST 15
#define VDXGK_OP_RESERVE_SAVE_AREA 16
#define VDXGK_OP_PIN_SAVE_AREA 17
#define VDXGK_OP_UNPIN_SAVE_AREA 18
#define VDXGK_OP_OLDER_CALLBACK 19
#define VDXGK_OP_BEGIN_EXCLUSIVE 20
#define VDXGK_OP_END_EXCLUSIVE 21

/* A range of guest-physical memory: DONATE's input, RECLAIM's and
 * CREATE_OBJECT's output.  Page multiples. */
struct vdxgk_range {
	vdxgk_u64 base;
	vdxgk_u64 size;
};

/* What the guest must map where: ALLOCATE_ADL's output. */
struct vdxgk_mapping {
	vdxgk_u64 logical;
	vdxgk_u64 physical;
	vdxgk_u64 size;
};

/*
 * START_ADAPTER.  The guest has asked its miniport for DXGK_PHYSICAL_MEMORY_
 * CAPS and DXGK_IOMMU_CAPS, and knows its platform; the backend decides
 * whether the adapter may start, and how it addresses memory.
 * List in: struct vdxgk_range[], logical addresses that must stay unused
 * (the IOMMU's reserved regions).
 */
struct vdxgk_start_args {
	vdxgk_u64 highest_visible;  /* DXGK_PHYSICAL_MEMORY_CAPS */
	vdxgk_u32 iommu_caps;	    /* DXGK_IOMMU_CAPS */
	vdxgk_u32 iommu;	    /* VDXGK_IOMMU_* */
	vdxgk_u64 highest_ram;	    /* last byte of guest RAM */
	vdxgk_u64 aperture_start;   /* the domain's, inclusive; 0,0 without one */
	vdxgk_u64 aperture_end;
	vdxgk_u64 probe_gpa;	    /* 8 bytes of guest RAM that hold probe_value */
	vdxgk_u64 probe_value;	    /* a fresh random number */
	vdxgk_u32 mode;		    /* VDXGK_MODE_* wanted */
	vdxgk_u32 reserved;
};

#define VDXGK_IOMMU_NONE 0	/* DMA addresses are guest-physical */
#define VDXGK_IOMMU_TRANSLATED 1 /* a domain of the driver's own is attached */

#define VDXGK_MODE_AUTO 0	/* logical where the platform can, else physical */
#define VDXGK_MODE_PHYSICAL 1
#define VDXGK_MODE_LOGICAL 2

struct vdxgk_start_result {
	vdxgk_u64 adapter;	/* DXGKRNL_INTERFACE.DeviceHandle */
	vdxgk_u32 mode;		/* VDXGK_MODE_PHYSICAL or _LOGICAL */
	vdxgk_u32 reserved;
	vdxgk_u64 logical_start; /* inclusive */
	vdxgk_u64 logical_end;	 /* inclusive */
};

/* STOP_ADAPTER: everything the adapter still owns is a leak, which the
 * backend reports and forgets. The engine is not asked to stop: a driver
 * waits for its commands first, or resets. No list. */
struct vdxgk_stop_args {
	vdxgk_u64 adapter;
};

struct vdxgk_stop_result {
	vdxgk_u32 leaked_objects;
	vdxgk_u32 leaked_adls;
};

/* DONATE. List in: struct vdxgk_range[]. All of it is taken, or none. */

/*
 * RECLAIM: the backend gives back blocks exactly as they were donated, as
 * long as no object uses any page of them. List out: struct vdxgk_range[];
 * call again until data_count is 0.
 */
struct vdxgk_reclaim_args {
	vdxgk_u32 all;		/* 0: only what exceeds the backend's reserve */
	vdxgk_u32 reserved;
};

/*
 * CREATE_OBJECT. The arguments are the DDI structure as it is.
 *
 * With VDXGK_NT_MORE_MEMORY, the result is struct vdxgk_memory_wanted: the
 * guest donates and repeats.  With success it is struct vdxgk_create_result,
 * and the list out is struct vdxgk_range[], the object's guest-physical runs
 * in object order.
 */
#define VDXGK_NT_MORE_MEMORY 0xc0000016u /* STATUS_MORE_PROCESSING_REQUIRED */

struct vdxgk_memory_wanted {
	vdxgk_u64 size;		/* at least so much more */
	vdxgk_u64 alignment;	/* preferred block size and alignment */
	vdxgk_u64 lowest;	/* inclusive bounds on every byte */
	vdxgk_u64 highest;
};

struct vdxgk_create_result {
	vdxgk_u64 object;
	vdxgk_u64 adapter_object; /* 0: hAdapter was NULL */
	vdxgk_u64 size;		  /* capacity, a page multiple */
	vdxgk_u32 run_count;
	vdxgk_u32 zero;		  /* the guest must zero the pages before use */
};

/* DESTROY_OBJECT, CLOSE_OBJECT: the DDI structure as it is; no result. */

/* OPEN_OBJECT: the DDI structure as it is. */
struct vdxgk_open_result {
	vdxgk_u64 adapter_object;
};

/*
 * A SECTION is created without memory (no runs) and gets it when it is first
 * used: the first MAP_OBJECT or ALLOCATE_ADL may answer VDXGK_NT_MORE_MEMORY,
 * as CREATE_OBJECT does.  A success tells how many runs the object has now;
 * QUERY_LIST reads them.  The guest zeroes the pages before it goes on.
 *
 * An IO_SPACE has one run, the driver's own range, which the guest has
 * checked: the backend knows RAM, but not what else there is.
 */

/* MAP_OBJECT, UNMAP_OBJECT: the DDI structures as they are. The backend
 * checks and counts; the guest makes the mapping after MAP and removes it
 * before UNMAP. Unmapping names the token that MAP answered. */
struct vdxgk_map_result {
	vdxgk_u64 token;
	vdxgk_u64 offset;	/* of the mapping in the object, page multiple */
	vdxgk_u64 size;		/* page multiple */
	vdxgk_u32 cache_type;	/* DXGK_MEMORY_CACHING_TYPE */
	vdxgk_u32 writable;
	vdxgk_u32 run_count;	/* of the object */
	vdxgk_u32 reserved;
};

struct vdxgk_unmap_args {
	vdxgk_u64 token;
};

/*
 * ALLOCATE_ADL: the DDI structure as it is. List out: struct vdxgk_mapping[],
 * in object order, which the guest maps (nothing to do without an IOMMU) and
 * then commits. The page numbers of the list are logical >> 12 of each.
 */
struct vdxgk_allocate_adl_result {
	vdxgk_u64 adl;
	vdxgk_u32 page_count;
	vdxgk_u32 contiguous;	/* DXGK_ADL_FLAGS.Contiguous */
	vdxgk_u32 mapping_count;
	vdxgk_u32 map_needed;	/* 0: nothing to map, commit at once */
	vdxgk_u32 run_count;	/* of the object */
	vdxgk_u32 reserved;
};

/* COMMIT_ADL: the backend compares what the hypervisor announced with what
 * it asked for. On failure the list is dead: the guest unmaps, then calls
 * RELEASE_ADL. FREE_ADL: the list, committed or not, dies; the guest unmaps
 * what ALLOCATE_ADL named, then calls RELEASE_ADL, which checks that nothing
 * stayed mapped.
 * None of the three has a result. */
struct vdxgk_adl_args {
	vdxgk_u64 adapter_object;
	vdxgk_u64 adl;
};

/* QUERY_LIST: more of an object's runs or of an ADL's mappings, from entry
 * `first` on. List out: as for the op that made it. */
struct vdxgk_query_list_args {
	vdxgk_u64 handle;	/* an object or an ADL */
	vdxgk_u32 first;
	vdxgk_u32 reserved;
};

/*
 * RESERVE_SAVE_AREA: what the miniport answered to DXGKQAITYPE_
 * FRAMEBUFFERSAVESIZE. No result.
 *
 * PIN_SAVE_AREA: DxgkCbPinFrameBufferForSave2; size and flags are CommitSize
 * and Flags. The list out and what follows are ALLOCATE_ADL's. The object is
 * the backend's own, a section: as with one of a driver's, the first pin may
 * answer VDXGK_NT_MORE_MEMORY.
 *
 * UNPIN_SAVE_AREA: DxgkCbUnpinFrameBufferForSave; what FREE_ADL is for other
 * lists, so RELEASE_ADL follows. No result.
 */
struct vdxgk_save_area_args {
	vdxgk_u64 adapter;
	vdxgk_u64 size;
	vdxgk_u32 physical_adapter; /* index */
	vdxgk_u32 flags;
};

struct vdxgk_pin_result {
	struct vdxgk_allocate_adl_result list;
	vdxgk_u64 object;
	vdxgk_u64 adapter_object;
	vdxgk_u64 object_size;
};

/* OLDER_CALLBACK: a callback of WDDM 2.4's family was called; the answer is
 * what it returns. No result. */
struct vdxgk_older_args {
	vdxgk_u64 adapter;
	vdxgk_u32 callback; /* VDXGK_OLDER_* */
	vdxgk_u32 reserved;
};

#define VDXGK_OLDER_ALLOCATE_CONTIGUOUS_MEMORY 0
#define VDXGK_OLDER_FREE_CONTIGUOUS_MEMORY 1
#define VDXGK_OLDER_ALLOCATE_PAGES_FOR_MDL 2
#define VDXGK_OLDER_FREE_PAGES_FROM_MDL 3
#define VDXGK_OLDER_PIN_FRAME_BUFFER_FOR_SAVE 4
#define VDXGK_OLDER_MAP_FRAME_BUFFER_POINTER 5
#define VDXGK_OLDER_UNMAP_FRAME_BUFFER_POINTER 6
#define VDXGK_OLDER_MAP_MDL_TO_IOMMU 7
#define VDXGK_OLDER_UNMAP_MDL_FROM_IOMMU 8

/*
 * BEGIN_EXCLUSIVE: the miniport's DxgkDdiBeginExclusiveAccess has returned.
 * From here to END_EXCLUSIVE the device touches no memory; if it does, that
 * is an event. Other requests for the adapter get STATUS_INVALID_DEVICE_STATE.
 * No result. Meanwhile the guest switches to another IOMMU domain, in which
 * the lists that live are mapped as in the old one.
 *
 * END_EXCLUSIVE: the backend checks each of them as COMMIT_ADL does, then the
 * guest calls DxgkDdiEndExclusiveAccess.
 */
struct vdxgk_exclusive_args {
	vdxgk_u64 adapter;
	vdxgk_u32 mode;		/* BEGIN: VDXGK_MODE_*; AUTO: as before */
	vdxgk_u32 reserved;
};

struct vdxgk_end_exclusive_result {
	struct vdxgk_start_result start; /* how memory is addressed now */
	vdxgk_u32 violations;	/* accesses since BEGIN_EXCLUSIVE; on failure too */
	vdxgk_u32 reserved;
};

/*
 * ---- Events --------------------------------------------------------------
 */
#define VDXGK_EVENT_FAULT 1	     /* the device was refused an access */
#define VDXGK_EVENT_REMAP_FAILURE 2  /* a commit or release check failed */
#define VDXGK_EVENT_BUGCHECK 3	     /* a rule whose breach stops Windows */
#define VDXGK_EVENT_MEMORY_SURPLUS 4 /* RECLAIM would return blocks */
#define VDXGK_EVENT_EXCLUSIVE_VIOLATION 5 /* DMA within exclusive access */

struct vdxgk_event {
	vdxgk_u32 type;
	vdxgk_u32 code;		/* FAULT: as VDXGK_REG_FAULT_INFO; BUGCHECK: the code */
	vdxgk_u64 parameters[7]; /* FAULT: address, bytes asked for.
				  * EXCLUSIVE_VIOLATION: the same; code bit 30: write.
				  * REMAP_FAILURE: ADL, logical address, expected
				  * GPA, found GPA (all-ones: none), found access,
				  * index of the linked function.
				  * BUGCHECK: P1..P4. */
};

/*
 * ---- DMA engine ----------------------------------------------------------
 *
 * The part of the device that a GPU's command processor stands for.  The
 * miniport owns its rings.  Commands are executed in order; addresses are
 * logical addresses (physical mode: guest-physical).
 */
#define VDXGK_ENGINE_NOP 0
#define VDXGK_ENGINE_COPY 1	/* source -> destination */
#define VDXGK_ENGINE_FILL 2	/* 64-bit words value + i * step -> destination */
#define VDXGK_ENGINE_CRC32 3	/* of source (IEEE 802.3, as zlib's) -> result */

#define VDXGK_ENGINE_MESSAGES 0x1 /* flags: access memory by protocol messages,
				   * which the hypervisor's IOMMU translates */

struct vdxgk_engine_command {
	vdxgk_u32 op;		/* VDXGK_ENGINE_* */
	vdxgk_u32 flags;
	vdxgk_u64 fence;	/* comes back in the completion */
	vdxgk_u64 source;
	vdxgk_u64 destination;
	vdxgk_u64 size;		/* bytes, 0 .. VDXGK_ENGINE_MAX_SIZE */
	vdxgk_u64 value;
	vdxgk_u64 step;
	vdxgk_u64 reserved;
};

#define VDXGK_ENGINE_MAX_SIZE 0x40000000u /* 1 GiB */

struct vdxgk_engine_completion {
	vdxgk_u64 fence;
	vdxgk_u32 status;	/* NTSTATUS */
	vdxgk_u32 fault;	/* 0 or as VDXGK_REG_FAULT_INFO */
	vdxgk_u64 fault_address;
	vdxgk_u64 done;		/* bytes certainly transferred before the fault */
	vdxgk_u64 result;	/* CRC32 */
	vdxgk_u64 reserved[3];
};

/*
 * ---- Scanout -------------------------------------------------------------
 *
 * The display pipe shows a surface in memory that the device reaches by DMA.
 * The miniport owns it.  While it is off, the screen belongs to the registers
 * and the framebuffer that bochs-display has.
 *
 * A flip: the guest describes a surface in one of two slots, writes the slot's
 * number to VDXGK_REG_SCANOUT_FLIP, and leaves both slot and runs alone until
 * the flip is complete.  At the next vertical blank the device copies and
 * checks them, shows the surface from then on, reads no longer what it showed
 * before, writes struct vdxgk_scanout_state and raises VDXGK_VECTOR_SCANOUT.
 * A flip under way is replaced by a later one, and then never completes.
 */
#define VDXGK_SCANOUT_ENABLE 0x1 /* the pipe has the screen; black until the first flip */
#define VDXGK_SCANOUT_BLANK 0x2	 /* black, whatever is shown */
#define VDXGK_SCANOUT_VBLANK_INTERRUPT 0x4 /* at each vertical blank */
#define VDXGK_SCANOUT_HZ 60

#define VDXGK_FORMAT_XRGB8888 1
#define VDXGK_FORMAT_ARGB8888 2 /* shown as XRGB8888: nothing lies behind it */
#define VDXGK_FORMAT_RGB565 3

#define VDXGK_SURFACES 2
#define VDXGK_SURFACE_MAX_SIDE 4096 /* pixels */
#define VDXGK_SURFACE_MAX_SIZE 0x4000000 /* bytes, pitch * height */
#define VDXGK_SURFACE_MAX_RUNS 16384
#define VDXGK_SURFACE_MESSAGES 0x1 /* flags: as VDXGK_ENGINE_MESSAGES */

/* The surface's bytes are those of its runs, one behind the other; the runs
 * are ranges of logical addresses (physical mode: guest-physical). */
struct vdxgk_surface {
	vdxgk_u32 format;	/* VDXGK_FORMAT_* */
	vdxgk_u32 width;	/* pixels, 1 .. VDXGK_SURFACE_MAX_SIDE */
	vdxgk_u32 height;
	vdxgk_u32 pitch;	/* bytes from line to line, odd ones too */
	vdxgk_u32 flags;	/* VDXGK_SURFACE_* */
	vdxgk_u32 run_count;	/* 1 .. VDXGK_SURFACE_MAX_RUNS */
	vdxgk_u64 offset;	/* of the first pixel in the runs, bytes */
	vdxgk_u64 sequence;	/* comes back when the flip is complete */
	vdxgk_u64 reserved[3];
};

/* A cursor of 64 x 64 pixels, ARGB8888, alpha not multiplied in.  The device
 * keeps a copy: the picture may go once it is loaded. */
#define VDXGK_CURSOR_SIDE 64
#define VDXGK_CURSOR_VISIBLE 0x1
#define VDXGK_CURSOR_MEMORY 0x2 /* the picture is at `pages`, not in the shared memory */
#define VDXGK_CURSOR_MESSAGES 0x4 /* as VDXGK_ENGINE_MESSAGES */

struct vdxgk_cursor {
	vdxgk_u32 flags;	/* VDXGK_CURSOR_* */
	vdxgk_u32 hot_x;	/* the pixel that is at the cursor's position */
	vdxgk_u32 hot_y;
	vdxgk_u32 reserved0;
	vdxgk_u64 pages[4];	/* logical addresses of four pages */
	vdxgk_u64 reserved1[2];
};

/* Written by the device.  `version` is odd while it writes: a reader that
 * finds it odd, or changed, reads again.  Times are nanoseconds of a clock of
 * the device's own that never goes back. */
struct vdxgk_scanout_state {
	vdxgk_u32 version;
	vdxgk_u32 status;	/* NTSTATUS of the flip that completed last */
	vdxgk_u64 sequence;	/* of that flip */
	vdxgk_u64 flip_time;
	vdxgk_u64 flip_vblank;	/* which vertical blank it waited for */
	vdxgk_u64 vblank;	/* how many there were, when the device last looked */
	vdxgk_u64 vblank_time;
	vdxgk_u32 fault;	/* as VDXGK_REG_FAULT_INFO: why the surface is black, or 0 */
	vdxgk_u32 cursor_status; /* NTSTATUS of the last loading of the cursor */
	vdxgk_u64 fault_address;
};

struct vdxgk_scanout {
	struct vdxgk_surface surfaces[VDXGK_SURFACES];
	struct vdxgk_cursor cursor;
	struct vdxgk_scanout_state state;
};

#endif
