/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The ioctls of /dev/vdxgkN: the carrier of DxgkDdiEscape, and services of
 * the shim that no miniport has.  Include <linux/ioctl.h> first.
 */
#ifndef VDXGK_IOCTL_H
#define VDXGK_IOCTL_H

#include "vdxgk_channel.h"

/*
 * ESCAPE: `status` is what DxgkDdiEscape returned.  `callback_status` is what
 * the backend answered to the last callback that returns nothing (Destroy,
 * Close, Unmap, FreeAdl): where it isn't a success, Windows would have
 * stopped.
 */
struct vdxgk_ioctl_escape {
	vdxgk_u64 data; /* user pointer to struct vdxgk_escape and what follows */
	vdxgk_u32 size;
	vdxgk_u32 status;
	vdxgk_u32 callback_status;
	vdxgk_u32 reserved;
};

/* INTERRUPT_WAIT: until the count of a vector's interrupts differs from
 * `seen`, or the time is over (no error). `seen` becomes the count. */
struct vdxgk_ioctl_interrupt_wait {
	vdxgk_u64 seen;
	vdxgk_u32 timeout_ms;
	vdxgk_u32 vector; /* VDXGK_VECTOR_ENGINE or _SCANOUT */
};

/* OBJECT_RUNS: guest-physical runs of an object, from run `first` on. */
struct vdxgk_ioctl_object_runs {
	vdxgk_u64 object;
	vdxgk_u64 runs;	 /* user pointer to struct vdxgk_range[count] */
	vdxgk_u32 first;
	vdxgk_u32 count; /* in: room; out: written */
	vdxgk_u32 total; /* out */
	vdxgk_u32 reserved;
	vdxgk_u64 size;	 /* out: the object's capacity; 0: no such object */
};

/* CANARY: every donated page that no object owns must still hold the pattern
 * that it got. Counts since the module was bound, plus a scan now. */
struct vdxgk_ioctl_canary {
	vdxgk_u64 checked;  /* out: pages that this call looked at */
	vdxgk_u64 damaged;  /* out: of these */
	vdxgk_u64 first;    /* out: GPA of the first damaged word; all-ones: none */
	vdxgk_u64 expected; /* out: that word */
	vdxgk_u64 found;    /* out */
	vdxgk_u64 damaged_before; /* out: found earlier, when pages were taken
				   * into an object or given back */
	vdxgk_u64 first_before;	  /* out: as `first` */
};

/* SABOTAGE: one wrong thing, once, to prove that the backend sees it. */
#define VDXGK_SABOTAGE_NONE 0	   /* disarm, and mend what was left */
#define VDXGK_SABOTAGE_SKIP 1	   /* the next list's page isn't mapped */
#define VDXGK_SABOTAGE_WRONG 2	   /* it maps a page of no object */
#define VDXGK_SABOTAGE_READ_ONLY 3 /* it is mapped without write access */
#define VDXGK_SABOTAGE_LEAVE 4	   /* it stays mapped when a list is freed */

struct vdxgk_ioctl_sabotage {
	vdxgk_u32 kind; /* VDXGK_SABOTAGE_* */
	vdxgk_u32 page; /* of the list */
};

struct vdxgk_ioctl_status {
	vdxgk_u64 adapter;
	vdxgk_u64 highest_visible;
	vdxgk_u64 highest_ram;
	vdxgk_u64 logical_start;
	vdxgk_u64 logical_end;
	vdxgk_u64 donated;  /* bytes */
	vdxgk_u64 free;	    /* bytes of it that no object owns */
	vdxgk_u64 faults;   /* VDXGK_REG_FAULT_COUNT */
	vdxgk_u64 events;   /* received */
	vdxgk_u64 engine_interrupts;
	vdxgk_u64 channel_interrupts;
	vdxgk_u64 requests;
	vdxgk_u64 doorbells;
	vdxgk_u32 mode;	    /* VDXGK_MODE_* */
	vdxgk_u32 iommu;    /* VDXGK_IOMMU_* */
	vdxgk_u32 iommu_caps; /* DXGK_IOMMU_CAPS */
	vdxgk_u32 dma_bits;
	vdxgk_u32 objects;
	vdxgk_u32 adls;
	vdxgk_u32 views;
	vdxgk_u32 dead;	    /* the channel has failed */
};

/* EVENTS: the last that came, oldest first. */
#define VDXGK_EVENTS_KEPT 64

struct vdxgk_ioctl_events {
	vdxgk_u64 total;    /* received since the module was bound */
	vdxgk_u32 lost;	    /* the backend's count of events without room */
	vdxgk_u32 count;    /* valid entries */
	struct vdxgk_event events[VDXGK_EVENTS_KEPT];
};

/* VIEW: how the page tables map a view, in the kernel or in this process. */
#define VDXGK_ATTRIBUTES_WRITE_BACK 0
#define VDXGK_ATTRIBUTES_WRITE_COMBINING 1
#define VDXGK_ATTRIBUTES_UNCACHED_MINUS 2
#define VDXGK_ATTRIBUTES_UNCACHED 3
#define VDXGK_ATTRIBUTES_UNKNOWN 4 /* its pages differ, or aren't there */

struct vdxgk_ioctl_view {
	vdxgk_u64 object;
	vdxgk_u64 base;	      /* as MapPhysicalMemory returned it */
	vdxgk_u32 attributes; /* out: VDXGK_ATTRIBUTES_* */
	vdxgk_u32 writable;   /* out */
};

/* EXCLUSIVE: exclusive access of the adapter, with a switch to a new IOMMU
 * domain between BeginExclusiveAccess and EndExclusiveAccess. */
struct vdxgk_ioctl_exclusive {
	vdxgk_u32 mode;	      /* in: VDXGK_MODE_* wanted; out: what it is now */
	vdxgk_u32 status;     /* out: NTSTATUS */
	vdxgk_u32 violations; /* out: accesses of the device in between */
	vdxgk_u32 switched;   /* out: another domain is attached */
};

/* FRAMES: which pages the page tables map a view to, from page `first` on. */
struct vdxgk_ioctl_frames {
	vdxgk_u64 object;
	vdxgk_u64 base;	  /* as MapPhysicalMemory returned it */
	vdxgk_u64 frames; /* user pointer to guest-physical page numbers, as
			   * vdxgk_u64[count]; 0: nothing is mapped there */
	vdxgk_u32 first;
	vdxgk_u32 count; /* in: room; out: written */
};

#define VDXGK_IOCTL_ESCAPE _IOWR('V', 0, struct vdxgk_ioctl_escape)
#define VDXGK_IOCTL_INTERRUPT_WAIT \
	_IOWR('V', 1, struct vdxgk_ioctl_interrupt_wait)
#define VDXGK_IOCTL_OBJECT_RUNS _IOWR('V', 2, struct vdxgk_ioctl_object_runs)
#define VDXGK_IOCTL_CANARY _IOR('V', 3, struct vdxgk_ioctl_canary)
#define VDXGK_IOCTL_SABOTAGE _IOW('V', 4, struct vdxgk_ioctl_sabotage)
#define VDXGK_IOCTL_STATUS _IOR('V', 5, struct vdxgk_ioctl_status)
#define VDXGK_IOCTL_EVENTS _IOR('V', 6, struct vdxgk_ioctl_events)
#define VDXGK_IOCTL_VIEW _IOWR('V', 7, struct vdxgk_ioctl_view)
#define VDXGK_IOCTL_FRAMES _IOWR('V', 9, struct vdxgk_ioctl_frames)
#define VDXGK_IOCTL_EXCLUSIVE _IOWR('V', 8, struct vdxgk_ioctl_exclusive)

#endif
