/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The display miniport: portable C that knows Windows' driver model, the
 * device's registers and rings, and nothing of the system it runs on.
 *
 * Dxgkrnl calls one DDI at a time for each adapter, so nothing here locks.
 */
#ifndef MINIPORT_H
#define MINIPORT_H

#include "ntstatus.h"
#include "vdxgk_channel.h"
#include "vdxgk_ddi_check.h"
#include "vdxgk_dxgkrnl.h"
#include "vdxgk_escape.h"

#define MINIPORT_POOL_TAG 0x47584456

/* Bounds on what a user of the escape can make the driver remember. */
#define MINIPORT_OBJECTS 16384
#define MINIPORT_ADLS 16384
#define MINIPORT_VIEWS 4096

/* How long StopDevice waits for the engine: a command moves 1 GiB at most. */
#define MINIPORT_QUIESCE_MS 10000

struct miniport_object {
	HANDLE object; /* NULL: the slot is free */
	HANDLE adapter_object;
};

struct miniport_adl {
	DXGK_ADL *adl; /* NULL: the slot is free */
	HANDLE adapter_object;
	ULONG generation;
};

struct miniport_view {
	DXGKARGCB_MAP_PHYSICAL_MEMORY args; /* pMappedAddress NULL: free */
	SIZE_T wanted; /* bytes from args.Offset on that the user asked for */
	ULONG generation;
};

enum miniport_fence_state {
	MINIPORT_FENCE_FREE,
	MINIPORT_FENCE_PENDING,
	MINIPORT_FENCE_DONE,
};

struct miniport_fence {
	enum miniport_fence_state state;
	struct vdxgk_engine_completion completion;
};

struct miniport_engine {
	volatile vdxgk_u32 *registers;
	UCHAR *shared;
	vdxgk_u32 command_producer;
	vdxgk_u32 completion_consumer;
	vdxgk_u64 last_fence;
	ULONG outstanding; /* fences pending, or done and not asked for */
	BOOLEAN broken; /* the device broke a ring rule */
	struct miniport_fence fences[VDXGK_RING_ENTRIES];
};

struct miniport {
	BUS_INTERFACE_STANDARD bus;
	DXGKRNL_INTERFACE dxgkrnl;
	struct vdxgk_pci_cap cap;
	PHYSICAL_ADDRESS bar;
	BOOLEAN started;
	BOOLEAN exclusive; /* between Begin- and EndExclusiveAccess */
	struct miniport_engine engine;
	vdxgk_u64 flip_sequence; /* of the last flip */
	BOOLEAN flip_pending; /* and the device may be at it still */
	ULONG object_hint;
	ULONG adl_hint;
	ULONG view_hint;
	ULONG pinned; /* save areas: a bit for each physical adapter */
	struct miniport_object objects[MINIPORT_OBJECTS];
	struct miniport_adl adls[MINIPORT_ADLS];
	struct miniport_view views[MINIPORT_VIEWS];
};

/* Whether Dxgkrnl's table reaches to a member and fills it. */
#define MINIPORT_HAS(mp, member)                                       \
	((mp)->dxgkrnl.Size >=                                         \
		 __builtin_offsetof(DXGKRNL_INTERFACE, member) +       \
			 sizeof((mp)->dxgkrnl.member) &&               \
	 (mp)->dxgkrnl.member)

/* device.c: what the configuration space says. */
NTSTATUS miniport_find_device(struct miniport *mp);

/* engine.c */
NTSTATUS miniport_engine_start(struct miniport *mp);
void miniport_engine_stop(struct miniport *mp);
SIZE_T miniport_framebuffer_size(struct miniport_engine *engine);
NTSTATUS miniport_engine_quiesce(struct miniport_engine *engine);
NTSTATUS miniport_engine_submit(struct miniport_engine *engine,
				struct vdxgk_engine_command *command);
NTSTATUS miniport_engine_poll(struct miniport_engine *engine,
			      struct vdxgk_engine_completion *completion);

/* memory.c: the physical-memory callbacks, and what this driver holds. */
NTSTATUS miniport_create(struct miniport *mp, ULONG flags,
			 DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS miniport_destroy(struct miniport *mp,
			  DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS miniport_open(struct miniport *mp, ULONG flags,
		       DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS miniport_close(struct miniport *mp,
			DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS miniport_allocate_adl(struct miniport *mp,
			       struct vdxgk_escape_allocate_adl *request);
NTSTATUS miniport_query_adl(struct miniport *mp,
			    struct vdxgk_escape_query_adl *request,
			    vdxgk_u64 *pages, SIZE_T room);
NTSTATUS miniport_free_adl(struct miniport *mp,
			   struct vdxgk_escape_free_adl *request);
const DXGK_ADL *miniport_adl(struct miniport *mp, ULONG id);
void miniport_release_memory(struct miniport *mp);

/* save.c: the frame buffer's save area, and callbacks that are no more. */
NTSTATUS miniport_pin(struct miniport *mp, ULONG flags,
		      struct vdxgk_escape_pin *request, vdxgk_u64 *pages,
		      SIZE_T room);
NTSTATUS miniport_unpin(struct miniport *mp, ULONG flags,
			const struct vdxgk_escape_unpin *request);
NTSTATUS miniport_older(struct miniport *mp, ULONG flags,
			const struct vdxgk_escape_older *request);
void miniport_release_save_area(struct miniport *mp);

/* display.c: the display pipe. */
NTSTATUS miniport_present(struct miniport *mp,
			  struct vdxgk_escape_present *request);
NTSTATUS miniport_screen(struct miniport *mp,
			 struct vdxgk_escape_screen *request);
NTSTATUS miniport_cursor(struct miniport *mp,
			 const struct vdxgk_escape_cursor *request,
			 const void *data, SIZE_T room);
void miniport_display_stop(struct miniport *mp);

/* view.c: CPU access through MapPhysicalMemory. */
NTSTATUS miniport_map(struct miniport *mp, struct vdxgk_escape_map *request);
NTSTATUS miniport_unmap(struct miniport *mp,
			struct vdxgk_escape_unmap *request);
NTSTATUS miniport_access(struct miniport *mp,
			 const struct vdxgk_escape_access *request,
			 BOOLEAN write, void *data, SIZE_T room);
void miniport_release_views(struct miniport *mp);

/* escape.c */
NTSTATUS miniport_escape(HANDLE hAdapter, const DXGKARG_ESCAPE *escape);

#endif
