/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The private driver data of DxgkDdiEscape: what the guest's dxgkctl and the
 * miniport say to each other.
 *
 * Handles go to Dxgkrnl as they come, so that stale and invented ones can be
 * tried.  Lists and views, which the DDI names by pointer, get ids.
 */
#ifndef VDXGK_ESCAPE_H
#define VDXGK_ESCAPE_H

#include "vdxgk_channel.h"
#include "vdxgk_ddi.h"

#define VDXGK_ESCAPE_CREATE 1	 /* u.create */
#define VDXGK_ESCAPE_DESTROY 2	 /* u.destroy */
#define VDXGK_ESCAPE_OPEN 3	 /* u.open */
#define VDXGK_ESCAPE_CLOSE 4	 /* u.close */
#define VDXGK_ESCAPE_ALLOCATE_ADL 5 /* u.allocate_adl */
#define VDXGK_ESCAPE_QUERY_ADL 6 /* u.query_adl; page numbers follow */
#define VDXGK_ESCAPE_FREE_ADL 7	 /* u.free_adl */
#define VDXGK_ESCAPE_MAP 8	 /* u.map */
#define VDXGK_ESCAPE_UNMAP 9	 /* u.unmap */
#define VDXGK_ESCAPE_READ 10	 /* u.access; the data follows */
#define VDXGK_ESCAPE_WRITE 11	 /* u.access; the data follows */
#define VDXGK_ESCAPE_SUBMIT 12	 /* u.submit */
#define VDXGK_ESCAPE_POLL 13	 /* u.poll */
#define VDXGK_ESCAPE_PIN 14	 /* u.pin; page numbers follow */
#define VDXGK_ESCAPE_UNPIN 15	 /* u.unpin */
#define VDXGK_ESCAPE_OLDER 16	 /* u.older */
#define VDXGK_ESCAPE_PRESENT 32	 /* u.present */
#define VDXGK_ESCAPE_SCREEN 33	 /* u.screen */
#define VDXGK_ESCAPE_CURSOR 34	 /* u.cursor; a picture may follow */

/* flags: put DXGKRNL_INTERFACE.DeviceHandle into hAdapter. */
#define VDXGK_ESCAPE_OWN_ADAPTER 0x1

/* ALLOCATE_ADL: args.pAdl is not used. A page number is the ADL's. */
struct vdxgk_escape_allocate_adl {
	DXGKARGCB_ALLOCATE_ADL args;
	vdxgk_u32 id;	       /* out */
	vdxgk_u32 page_count;  /* out */
	vdxgk_u32 contiguous;  /* out: DXGK_ADL_FLAGS.Contiguous */
	vdxgk_u32 reserved;
	vdxgk_u64 base_page;   /* out: the first page's number */
};

struct vdxgk_escape_query_adl {
	vdxgk_u32 id;
	vdxgk_u32 first;
	vdxgk_u32 count;      /* in: room that follows; out: written */
	vdxgk_u32 page_count; /* out: of the list */
};

struct vdxgk_escape_free_adl {
	vdxgk_u64 adapter_object; /* 0: the one that it was allocated with */
	vdxgk_u32 id;
	vdxgk_u32 reserved;
};

struct vdxgk_escape_map {
	DXGKARGCB_MAP_PHYSICAL_MEMORY args; /* in and out, as the DDI says */
	vdxgk_u32 id;			    /* out */
	vdxgk_u32 reserved;
};

/* By id; or, with id 0, by what MAP returned, for a process that has gone. */
struct vdxgk_escape_unmap {
	vdxgk_u32 id;
	vdxgk_u32 reserved;
	DXGKARGCB_UNMAP_PHYSICAL_MEMORY args;
};

/* Kernel mode views only. offset counts from the first byte that MAP asked
 * for. */
struct vdxgk_escape_access {
	vdxgk_u32 id;
	vdxgk_u32 size;
	vdxgk_u64 offset;
};

struct vdxgk_escape_submit {
	struct vdxgk_engine_command command; /* fence: out */
};

/* STATUS_PENDING until the engine is done with it; then the completion, once.
 * An unknown fence, or one that was answered already: STATUS_NOT_FOUND. */
struct vdxgk_escape_poll {
	struct vdxgk_engine_completion completion; /* fence: in */
};

/* PinFrameBufferForSave2 and UnpinFrameBufferForSave: args.pAdl is not used. */
struct vdxgk_escape_pin {
	vdxgk_u64 adapter;
	DXGKARGCB_PINFRAMEBUFFERFORSAVE2 args;
	vdxgk_u32 count;      /* in: room that follows; out: written */
	vdxgk_u32 page_count; /* out: of the list */
	vdxgk_u32 contiguous; /* out: DXGK_ADL_FLAGS.Contiguous */
	vdxgk_u32 reserved;
};

struct vdxgk_escape_unpin {
	vdxgk_u64 adapter;
	DXGKARGCB_UNPINFRAMEBUFFERFORSAVE args;
};

/* A callback of WDDM 2.4, without arguments to speak of. */
struct vdxgk_escape_older {
	vdxgk_u64 adapter;
	vdxgk_u32 callback; /* VDXGK_OLDER_* */
	vdxgk_u32 reserved;
};

/*
 * PRESENT: show what a list leads to, from the next vertical blank on. The
 * device has not been asked while an earlier one is under way:
 * STATUS_DEVICE_BUSY. SCREEN tells when it is done.
 */
struct vdxgk_escape_present {
	vdxgk_u32 adl;	     /* id */
	vdxgk_u32 reserved;
	struct vdxgk_surface surface; /* run_count: out; sequence: out */
};

/* SCREEN: what to switch, and how things are. */
#define VDXGK_SCREEN_QUERY 0
#define VDXGK_SCREEN_SHOW 1   /* no longer blank */
#define VDXGK_SCREEN_BLANK 2
#define VDXGK_SCREEN_RETURN 3 /* to the framebuffer that firmware uses */
#define VDXGK_SCREEN_VBLANKS 4 /* an interrupt at each vertical blank */
#define VDXGK_SCREEN_NO_VBLANKS 5

struct vdxgk_escape_screen {
	vdxgk_u32 action; /* VDXGK_SCREEN_* */
	vdxgk_u32 control; /* out: VDXGK_SCANOUT_* */
	vdxgk_u64 presented; /* out: sequence of the last PRESENT */
	struct vdxgk_scanout_state state; /* out */
};

/* CURSOR: with VDXGK_CURSOR_MEMORY from the first four pages of a list, else
 * from the 16 KiB that follow. */
struct vdxgk_escape_cursor {
	vdxgk_u32 adl;	 /* id, or 0 */
	vdxgk_u32 flags; /* VDXGK_CURSOR_* */
	vdxgk_u32 hot_x;
	vdxgk_u32 hot_y;
	vdxgk_u32 position; /* as VDXGK_REG_SCANOUT_CURSOR_POSITION */
	vdxgk_u32 move_only;
};

struct vdxgk_escape {
	vdxgk_u32 command;
	vdxgk_u32 flags;
	union {
		DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT create;
		DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT destroy;
		DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT open;
		DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT close;
		struct vdxgk_escape_allocate_adl allocate_adl;
		struct vdxgk_escape_query_adl query_adl;
		struct vdxgk_escape_free_adl free_adl;
		struct vdxgk_escape_map map;
		struct vdxgk_escape_unmap unmap;
		struct vdxgk_escape_access access;
		struct vdxgk_escape_submit submit;
		struct vdxgk_escape_poll poll;
		struct vdxgk_escape_pin pin;
		struct vdxgk_escape_unpin unpin;
		struct vdxgk_escape_older older;
		struct vdxgk_escape_present present;
		struct vdxgk_escape_screen screen;
		struct vdxgk_escape_cursor cursor;
	} u;
};

#define VDXGK_ESCAPE_MAX_DATA 0x100000u /* bytes after the structure */

#endif
