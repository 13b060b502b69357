/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * The shim: the guest's half of Dxgkrnl.  It does what only a guest can do
 * (hand over pages, program the IOMMU, map memory for the CPU) and decides
 * nothing that the backend can decide.
 *
 * Locking: `lock` is held around every call of the miniport's DDI, hence in
 * every callback, and protects all that isn't said to have a lock of its own.
 * Of linked functions, first one's own, then that of the one that leads.
 */
#ifndef VDXGK_H
#define VDXGK_H

#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "ntstatus.h"
#include "vdxgk_channel.h"
#include "vdxgk_ddi_check.h"
#include "vdxgk_dxgkrnl.h"
#include "vdxgk_escape.h"
#include "vdxgk_ioctl.h"

struct file;
struct iommu_domain;
struct vm_area_struct;
struct vdxgk_adl;
struct vdxgk_device;

/* ---- channel.c ----------------------------------------------------------- */

#define VDXGK_CHANNEL_SLOTS 8
#define VDXGK_BULK_SLICE 0x10000u

struct vdxgk_slot {
	struct completion done;
	u64 cookie; /* of the request in flight; 0: free */
	bool answered;
	struct vdxgk_completion answer;
};

struct vdxgk_channel {
	spinlock_t lock; /* all below */
	struct vdxgk_slot slots[VDXGK_CHANNEL_SLOTS];
	wait_queue_head_t slot_free;
	unsigned int slot_count;
	u32 producer;
	u32 consumer;
	u64 last_cookie;
	u64 requests;
	u64 doorbells;
	u64 interrupts;
	bool dead;
};

/* One request and its answer. Lists are arrays in kernel memory. */
struct vdxgk_call {
	u32 op;
	const void *args;
	size_t args_size;
	const void *list_in;
	size_t list_in_size; /* bytes */
	void *list_out;
	size_t list_out_size; /* bytes of room */
	size_t entry_size;    /* of list_out */
	/* Answer: */
	u32 data_count; /* entries in list_out */
	u8 result[sizeof_field(struct vdxgk_completion, result)];
};

int vdxgk_channel_start(struct vdxgk_device *dev);
void vdxgk_channel_kill(struct vdxgk_device *dev);
NTSTATUS vdxgk_call(struct vdxgk_device *dev, struct vdxgk_call *call);
NTSTATUS vdxgk_call_simple(struct vdxgk_device *dev, u32 op, const void *args,
			   size_t args_size);
NTSTATUS vdxgk_read_list(struct vdxgk_device *dev, u64 handle, void *list,
			 size_t entry_size, u32 have, u32 total);
irqreturn_t vdxgk_channel_interrupt(int irq, void *data);

/* Entries that one answer can carry. */
static inline u32 vdxgk_list_room(size_t entry_size)
{
	return VDXGK_BULK_SLICE / entry_size;
}

/* ---- events.c ------------------------------------------------------------ */

struct vdxgk_events {
	struct mutex lock; /* all below */
	u32 consumer;
	u64 total;
	struct vdxgk_event kept[VDXGK_EVENTS_KEPT]; /* slot: number % 64 */
};

void vdxgk_events_start(struct vdxgk_device *dev);
void vdxgk_events_drain(struct vdxgk_device *dev);
void vdxgk_events_read(struct vdxgk_device *dev, struct vdxgk_ioctl_events *to);
irqreturn_t vdxgk_events_interrupt(int irq, void *data);

/* ---- memory.c, alloc.c, pages.c, canary.c: donated memory ---------------- */

struct vdxgk_block {
	struct rb_node node; /* by base */
	u64 base;
	unsigned long pages;
	unsigned int order;
	bool contig; /* from alloc_contig_range() */
	unsigned long used_count;
	unsigned long used[]; /* a bit for each page that an object owns */
};

static inline u64 vdxgk_block_end(const struct vdxgk_block *block)
{
	return block->base + ((u64)block->pages << PAGE_SHIFT);
}

struct vdxgk_damage {
	u64 pages;
	u64 first; /* GPA of a damaged word, ~0: none */
	u64 expected;
	u64 found;
};

struct vdxgk_memory {
	struct rb_root blocks;
	u64 donated; /* pages */
	u64 used;    /* pages */
	struct vdxgk_damage damage; /* found when pages changed hands */
};

void vdxgk_memory_init(struct vdxgk_memory *memory);
NTSTATUS vdxgk_memory_donate(struct vdxgk_device *dev,
			     const struct vdxgk_memory_wanted *wanted,
			     bool in_a_row);
NTSTATUS vdxgk_memory_reclaim(struct vdxgk_device *dev, bool all);
NTSTATUS vdxgk_memory_call(struct vdxgk_device *dev, struct vdxgk_call *call);
struct vdxgk_block *vdxgk_memory_find(struct vdxgk_memory *memory, u64 gpa);
void vdxgk_memory_free_all(struct vdxgk_device *dev);
u64 vdxgk_highest_ram(void);

/* pages.c: which of them belong to objects. */
int vdxgk_memory_claim(struct vdxgk_device *dev, const struct vdxgk_range *runs,
		       u32 count);
void vdxgk_memory_release(struct vdxgk_device *dev,
			  const struct vdxgk_range *runs, u32 count);
u64 vdxgk_memory_free_page(struct vdxgk_device *dev);
void vdxgk_memory_scan(struct vdxgk_device *dev,
		       struct vdxgk_ioctl_canary *report);

/* alloc.c: pages for one donation. */
struct vdxgk_block *vdxgk_alloc_block(const struct vdxgk_memory_wanted *wanted,
				      unsigned int order,
				      struct list_head *aside,
				      unsigned int *aside_left);
struct vdxgk_block *
vdxgk_alloc_range(const struct vdxgk_memory_wanted *wanted,
		  unsigned long pages, unsigned long alignment,
		  u64 highest_ram);
void vdxgk_free_aside(struct list_head *aside);
void vdxgk_free_block(struct vdxgk_block *block);

void vdxgk_canary_write(u64 gpa, unsigned long pages);
void vdxgk_canary_check(u64 gpa, unsigned long pages,
			struct vdxgk_damage *damage);

/* ---- domain.c ------------------------------------------------------------ */

struct vdxgk_domain {
	struct iommu_domain *domain; /* NULL: no IOMMU before the device */
	u64 aperture_start;
	u64 aperture_end;
};

int vdxgk_domain_attach(struct vdxgk_device *dev);
void vdxgk_domain_detach(struct vdxgk_device *dev);
int vdxgk_domain_switch(struct vdxgk_device *dev);
int vdxgk_domain_reserved(struct vdxgk_device *dev, struct vdxgk_range *ranges,
			  u32 room);
int vdxgk_domain_map(struct vdxgk_device *dev, u64 logical, u64 physical,
		     u64 size, bool writable);
void vdxgk_domain_unmap(struct vdxgk_device *dev, u64 logical, u64 size);

/* ---- sabotage.c ---------------------------------------------------------- */

#define VDXGK_NO_ADDRESS (~0ull)

struct vdxgk_sabotage {
	u32 kind;
	u32 page;
	u64 left; /* logical address of the page that stayed mapped ... */
	struct vdxgk_adl_args left_adl; /* ... of this list; 0: none */
};

int vdxgk_sabotage_arm(struct vdxgk_device *dev, u32 kind, u32 page);
void vdxgk_sabotage_mend(struct vdxgk_device *dev);
bool vdxgk_sabotage_hits(struct vdxgk_device *dev, u64 first_page, u64 pages);
int vdxgk_sabotage_map(struct vdxgk_device *dev,
		       const struct vdxgk_mapping *mapping, u64 first_page,
		       u64 *hole);
void vdxgk_sabotage_leave(struct vdxgk_device *dev, const struct vdxgk_adl *adl);

/* ---- object.c, adl.c, view.c: what the callbacks make -------------------- */

struct vdxgk_object {
	struct list_head link;
	u64 handle;
	u64 adapter_object; /* 0: not open */
	u64 size;
	bool owns_memory; /* its runs are donated pages */
	u32 cache_type; /* DXGK_MEMORY_CACHING_TYPE */
	u32 attribute_users; /* views, for which its pages have that type */
	u32 run_count; /* 0: a section that has not been used yet */
	struct vdxgk_range *runs;
};

struct vdxgk_adl {
	struct list_head link;
	struct vdxgk_object *object;
	DXGK_ADL ddi; /* what the miniport points to */
	u64 adapter_object;
	u64 handle;
	u64 hole; /* a page that sabotage left unmapped */
	u32 mapping_count;
	u32 mapped; /* the first so many are mapped */
	struct vdxgk_mapping *mappings;
	DXGK_PAGE_NUMBER *pages; /* not contiguous only */
};

/* Of one physical adapter. */
struct vdxgk_save_area {
	struct vdxgk_object *object; /* not in the list; NULL: never pinned */
	struct vdxgk_adl *pinned;
};

#define VDXGK_SAVE_AREAS VDXGK_LINKS_MAX

struct vdxgk_view {
	struct list_head link;
	struct vdxgk_object *object;
	u64 token;
	void *base;
	u64 offset;
	u64 size;
	struct kref ref; /* the list's, and each area's */
	/* User mode only: */
	struct mm_struct *mm; /* whose; NULL: a kernel mode view */
	struct address_space *mapping; /* of the file that it is a mapping of */
	unsigned long first_page; /* in that file */
	atomic_t areas; /* of the process; 0: it has gone */
	bool writable;
};

/* user_view.c */
int vdxgk_view_mmap(struct file *file, struct vm_area_struct *vma);
NTSTATUS vdxgk_user_view_map(struct vdxgk_device *dev, struct vdxgk_view *view);
void vdxgk_user_view_unmap(struct vdxgk_view *view);
void vdxgk_user_view_revoke(struct vdxgk_view *view);
void vdxgk_view_put(struct vdxgk_view *view);

/* attributes.c */
struct page **vdxgk_object_pages(const struct vdxgk_object *object, u64 offset,
				 u64 size);
bool vdxgk_attributes_apply(u32 cache_type, pgprot_t *prot);
int vdxgk_attributes_get(struct vdxgk_object *object);
void vdxgk_attributes_put(struct vdxgk_object *object);
u64 vdxgk_frame_of(const struct vdxgk_view *view, u64 offset);
u32 vdxgk_attributes_of(const struct vdxgk_view *view, bool *writable);

/* bar.c: memory behind BARs, for the CPU. */
bool vdxgk_bar_holds(struct pci_dev *pdev, u64 start, u64 length,
		     unsigned long flags);
void *vdxgk_bar_map(u64 start, u64 length, u32 cache_type);
void vdxgk_bar_unmap(void *base);

NTSTATUS vdxgk_object_create(struct vdxgk_device *dev,
			     DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS
vdxgk_object_destroy(struct vdxgk_device *dev,
		     const DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS vdxgk_object_open(struct vdxgk_device *dev,
			   DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS vdxgk_object_close(struct vdxgk_device *dev,
			    const DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *args);
NTSTATUS vdxgk_object_back(struct vdxgk_device *dev,
			   struct vdxgk_object *object, u32 run_count);
struct vdxgk_object *vdxgk_object_find(struct vdxgk_device *dev, u64 handle);
struct vdxgk_object *vdxgk_object_find_opened(struct vdxgk_device *dev,
					      u64 adapter_object);
struct vdxgk_object *vdxgk_object_new(u64 handle, u64 size);
void vdxgk_object_drop(struct vdxgk_device *dev, struct vdxgk_object *object);
void vdxgk_object_drop_all(struct vdxgk_device *dev);

NTSTATUS vdxgk_adl_allocate(struct vdxgk_device *dev,
			    DXGKARGCB_ALLOCATE_ADL *args);
NTSTATUS vdxgk_adl_free(struct vdxgk_device *dev,
			const DXGKARGCB_FREE_ADL *args);
NTSTATUS vdxgk_adl_call(struct vdxgk_device *dev, struct vdxgk_call *call);
NTSTATUS vdxgk_adl_make(struct vdxgk_device *dev, const struct vdxgk_call *call,
			const struct vdxgk_allocate_adl_result *result,
			struct vdxgk_object *object, u64 adapter_object,
			u64 offset, u64 size, struct vdxgk_adl **made);
int vdxgk_adl_map_all(struct vdxgk_device *dev);
NTSTATUS vdxgk_adl_release(struct vdxgk_device *dev, struct vdxgk_adl *adl);
void vdxgk_adl_drop_of(struct vdxgk_device *dev, struct vdxgk_object *object);

/* save_area.c */
NTSTATUS vdxgk_save_area_reserve(struct vdxgk_device *dev, u32 index, u64 size);
NTSTATUS vdxgk_save_area_pin(struct vdxgk_device *dev, u64 adapter,
			     DXGKARGCB_PINFRAMEBUFFERFORSAVE2 *args);
NTSTATUS vdxgk_save_area_unpin(struct vdxgk_device *dev, u64 adapter,
			       UINT index);
void vdxgk_save_area_drop_all(struct vdxgk_device *dev);

NTSTATUS vdxgk_view_map(struct vdxgk_device *dev,
			DXGKARGCB_MAP_PHYSICAL_MEMORY *args);
NTSTATUS vdxgk_view_unmap(struct vdxgk_device *dev,
			  const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *args);
struct vdxgk_view *vdxgk_view_find(struct vdxgk_device *dev, u64 object,
				   const void *base);
void vdxgk_view_reap(struct vdxgk_device *dev);
void vdxgk_view_drop_of(struct vdxgk_device *dev, struct vdxgk_object *object);

/* ---- adapter.c, interface.c, windows.c ----------------------------------- */

extern DRIVER_INITIALIZATION_DATA vdxgk_miniport;

int vdxgk_adapter_start(struct vdxgk_device *dev);
void vdxgk_adapter_stop(struct vdxgk_device *dev);
int vdxgk_interface_check(void);
void vdxgk_interface_fill(struct vdxgk_device *dev);
void vdxgk_older_fill(DXGKRNL_INTERFACE *interface);
const char *vdxgk_status_name(NTSTATUS status);

/* exclusive.c */
void vdxgk_exclusive(struct vdxgk_device *dev,
		     struct vdxgk_ioctl_exclusive *request);

/* Around every DDI call: who is calling back, then, is known. */
void vdxgk_ddi_enter(struct vdxgk_device *dev);
void vdxgk_ddi_leave(struct vdxgk_device *dev);
struct vdxgk_device *vdxgk_ddi_device(void);
struct vdxgk_device *vdxgk_ddi_lead(void);

/* ---- chardev.c ----------------------------------------------------------- */

int vdxgk_chardev_add(struct vdxgk_device *dev);
void vdxgk_chardev_remove(struct vdxgk_device *dev);

/* ---- link.c -------------------------------------------------------------- */

int vdxgk_link_join(struct vdxgk_device *dev);
void vdxgk_link_leave(struct vdxgk_device *dev);
int vdxgk_link_lock(struct vdxgk_device *dev);
void vdxgk_link_unlock(struct vdxgk_device *dev);

/* ---- pci.c --------------------------------------------------------------- */

struct vdxgk_device {
	struct kref ref;
	struct pci_dev *pdev;
	struct mutex lock;
	bool gone; /* no adapter: files may outlive it */
	/* Linked functions are one logical adapter. The one that leads has its
	 * channel, memory, domain, objects and lock; each has a miniport context,
	 * an engine, events and a file. A function alone leads itself. */
	struct vdxgk_device *lead; /* valid unless it's gone */
	struct vdxgk_device *links[VDXGK_LINKS_MAX]; /* of the one that leads */
	struct list_head waiting; /* for the others of its chain */
	struct task_struct *ddi_caller; /* within a DDI call ... */
	struct list_head ddi_link; /* ... and so in the list of callers */
	struct file *ddi_file; /* by which it came; NULL: by none */
	NTSTATUS callback_status;

	struct vdxgk_pci_cap cap;
	void __iomem *registers;
	void *shared;
	struct vdxgk_ring *rings;
	size_t bulk_size;
	bool interrupts[VDXGK_VECTORS]; /* requested */

	struct vdxgk_channel channel;
	struct vdxgk_events events;
	struct vdxgk_memory memory;
	struct vdxgk_domain domain;
	struct vdxgk_sabotage sabotage;
	struct work_struct surplus;
	struct work_struct closed; /* views that processes left behind */
	spinlock_t closed_lock; /* the next */
	bool closed_ignored;
	struct vdxgk_view *view_to_map; /* within MapPhysicalMemory */
	unsigned long next_page;

	wait_queue_head_t interrupt_wait;
	atomic64_t engine_interrupts;
	atomic64_t scanout_interrupts;

	PVOID miniport; /* its context, after AddDevice */
	DXGKRNL_INTERFACE interface;
	u32 wanted_mode;
	u64 highest_visible;
	u64 highest_ram;
	DXGK_IOMMU_CAPS iommu_caps;
	struct vdxgk_start_result start;
	bool adapter_started;
	bool miniport_started;

	struct list_head objects;
	struct list_head adls;
	struct list_head views;
	struct vdxgk_save_area save_areas[VDXGK_SAVE_AREAS];

	int id;
	char name[16];
	struct miscdevice misc;
};

void vdxgk_device_put(struct vdxgk_device *dev);

/* The functions of the logical adapter that `dev` leads. */
#define vdxgk_for_each_link(function, dev, i)       \
	for ((i) = 0; (i) < (dev)->cap.link_count && \
		      ((function) = (dev)->links[i]); \
	     (i)++)

static inline u32 vdxgk_register_read(struct vdxgk_device *dev, u32 offset)
{
	return readl(dev->registers + offset);
}

static inline void vdxgk_register_write(struct vdxgk_device *dev, u32 offset,
					u32 value)
{
	writel(value, dev->registers + offset);
}

#endif
