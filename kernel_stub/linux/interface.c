// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * DXGKRNL_INTERFACE: the callbacks, as the miniport sees them.
 *
 * Most have no argument that says for which adapter they are, since Windows
 * needs none.  They come only from within a DDI call, so they belong to the
 * adapter whose DDI this thread is in.
 */
#include <linux/module.h>

#include "vdxgk.h"

static LIST_HEAD(callers); /* devices that are within a DDI call */
static DEFINE_SPINLOCK(callers_lock);

/* Called with the adapter's lock held. */
void vdxgk_ddi_enter(struct vdxgk_device *dev)
{
	lockdep_assert_held(&dev->lead->lock);
	spin_lock(&callers_lock);
	dev->ddi_caller = current;
	list_add(&dev->ddi_link, &callers);
	spin_unlock(&callers_lock);
}

void vdxgk_ddi_leave(struct vdxgk_device *dev)
{
	spin_lock(&callers_lock);
	list_del(&dev->ddi_link);
	dev->ddi_caller = NULL;
	spin_unlock(&callers_lock);
}

/* The adapter whose DDI this thread is in, or NULL. */
struct vdxgk_device *vdxgk_ddi_device(void)
{
	struct vdxgk_device *dev, *found = NULL;

	spin_lock(&callers_lock);
	list_for_each_entry(dev, &callers, ddi_link)
		if (dev->ddi_caller == current)
			found = dev;
	spin_unlock(&callers_lock);
	return found;
}

/* The one that leads it: whose memory is meant. */
struct vdxgk_device *vdxgk_ddi_lead(void)
{
	struct vdxgk_device *dev = vdxgk_ddi_device();

	return dev ? dev->lead : NULL;
}

/* A callback that returns nothing: Windows would stop where this fails. */
static void note(struct vdxgk_device *dev, const char *name, NTSTATUS status)
{
	dev->callback_status = status;
	if (!NT_SUCCESS(status))
		dev_warn_ratelimited(&dev->pdev->dev, "%s: %#x (%s)\n", name,
				     status, vdxgk_status_name(status));
}

/* ---- Physical memory ----------------------------------------------------- */

static NTSTATUS
cb_create_object(DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_object_create(dev, args) :
		     STATUS_INVALID_DEVICE_STATE;
}

static void
cb_destroy_object(const DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	if (dev)
		note(dev, "DestroyPhysicalMemoryObject",
		     vdxgk_object_destroy(dev, args));
}

static NTSTATUS cb_map(DXGKARGCB_MAP_PHYSICAL_MEMORY *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_view_map(dev, args) : STATUS_INVALID_DEVICE_STATE;
}

static void cb_unmap(const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	if (dev)
		note(dev, "UnmapPhysicalMemory", vdxgk_view_unmap(dev, args));
}

static NTSTATUS cb_allocate_adl(DXGKARGCB_ALLOCATE_ADL *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_adl_allocate(dev, args) :
		     STATUS_INVALID_DEVICE_STATE;
}

static void cb_free_adl(const DXGKARGCB_FREE_ADL *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	if (dev)
		note(dev, "FreeAdl", vdxgk_adl_free(dev, args));
}

static NTSTATUS cb_open_object(DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_object_open(dev, args) :
		     STATUS_INVALID_DEVICE_STATE;
}

static void cb_close_object(const DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	if (dev)
		note(dev, "ClosePhysicalMemoryObject",
		     vdxgk_object_close(dev, args));
}

/* These two say for which adapter; the backend judges it. */
static NTSTATUS cb_pin_frame_buffer(HANDLE adapter,
				    DXGKARGCB_PINFRAMEBUFFERFORSAVE2 *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_save_area_pin(dev, (uintptr_t)adapter, args) :
		     STATUS_INVALID_DEVICE_STATE;
}

static NTSTATUS
cb_unpin_frame_buffer(HANDLE adapter,
		      const DXGKARGCB_UNPINFRAMEBUFFERFORSAVE *args)
{
	struct vdxgk_device *dev = vdxgk_ddi_lead();

	return dev ? vdxgk_save_area_unpin(dev, (uintptr_t)adapter,
					   args->PhysicalAdapterIndex) :
		     STATUS_INVALID_DEVICE_STATE;
}

/* ---- Registers and memory behind BARs ------------------------------------ */

static NTSTATUS cb_map_memory(HANDLE device_handle, PHYSICAL_ADDRESS address,
			      ULONG length, BOOLEAN in_io_space,
			      BOOLEAN map_to_user_mode,
			      MEMORY_CACHING_TYPE cache_type, PVOID *virtual)
{
	struct vdxgk_device *dev = vdxgk_ddi_device();

	*virtual = NULL;
	if (!dev || device_handle != dev->interface.DeviceHandle)
		return STATUS_INVALID_PARAMETER;
	if (in_io_space || map_to_user_mode)
		return STATUS_NOT_SUPPORTED;
	if (!length || cache_type > MmWriteCombined ||
	    !vdxgk_bar_holds(dev->pdev, address.QuadPart, length, 0))
		return STATUS_INVALID_PARAMETER;
	*virtual = vdxgk_bar_map(address.QuadPart, length, cache_type);
	return *virtual ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

static NTSTATUS cb_unmap_memory(HANDLE device_handle, PVOID virtual)
{
	if (!virtual)
		return STATUS_INVALID_PARAMETER;
	vdxgk_bar_unmap(virtual);
	return STATUS_SUCCESS;
}

static const struct version {
	const char *name;
	ULONG version;
	ULONG size;
} versions[] = {
	{ "2.8", DXGKDDI_INTERFACE_VERSION_WDDM2_8,
	  DXGKRNL_INTERFACE_SIZE_WDDM2_8 },
	{ "2.9", DXGKDDI_INTERFACE_VERSION_WDDM2_9,
	  DXGKRNL_INTERFACE_SIZE_WDDM2_9 },
	{ "3.1", DXGKDDI_INTERFACE_VERSION_WDDM3_1,
	  DXGKRNL_INTERFACE_SIZE_WDDM3_1 },
};

static char *wddm = "2.9";
module_param(wddm, charp, 0444);
MODULE_PARM_DESC(wddm, "whose Dxgkrnl this is: 2.8, 2.9 or 3.1");

/* Where a driver that reads beyond Size ends: not an address of anything. */
#define POISON 0x5a

static const struct version *version(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(versions); i++)
		if (!strcmp(versions[i].name, wddm))
			return &versions[i];
	return NULL;
}

int vdxgk_interface_check(void)
{
	if (version())
		return 0;
	pr_err("vdxgk: wddm=%s is none of 2.8, 2.9, 3.1\n", wddm);
	return -EINVAL;
}

/* The table of a Dxgkrnl, for the adapter that has been started. */
void vdxgk_interface_fill(struct vdxgk_device *dev)
{
	const struct version *v = version();

	dev->interface = (DXGKRNL_INTERFACE){
		.Size = v->size,
		.Version = v->version,
		.DeviceHandle = (HANDLE)(uintptr_t)dev->lead->start.adapter,
		.DxgkCbMapMemory = cb_map_memory,
		.DxgkCbUnmapMemory = cb_unmap_memory,
		.DxgkCbCreatePhysicalMemoryObject = cb_create_object,
		.DxgkCbDestroyPhysicalMemoryObject = cb_destroy_object,
		.DxgkCbMapPhysicalMemory = cb_map,
		.DxgkCbUnmapPhysicalMemory = cb_unmap,
		.DxgkCbAllocateAdl = cb_allocate_adl,
		.DxgkCbFreeAdl = cb_free_adl,
		.DxgkCbOpenPhysicalMemoryObject = cb_open_object,
		.DxgkCbClosePhysicalMemoryObject = cb_close_object,
		.DxgkCbPinFrameBufferForSave2 = cb_pin_frame_buffer,
		.DxgkCbUnpinFrameBufferForSave = cb_unpin_frame_buffer,
	};
	vdxgk_older_fill(&dev->interface);
	memset((u8 *)&dev->interface + v->size, POISON,
	       sizeof(dev->interface) - v->size);
}
