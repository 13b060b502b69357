// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Physical memory objects: create with donation as often as the backend asks
 * for it, open, close, destroy.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "vdxgk.h"

/* How often one create may ask for more memory. */
#define DONATIONS_MAX 16
/* Larger than any guest: what the backend says is checked against it. */
#define OBJECT_SIZE_MAX (1ull << 44)

struct vdxgk_object *vdxgk_object_find(struct vdxgk_device *dev, u64 handle)
{
	struct vdxgk_object *object;

	list_for_each_entry(object, &dev->objects, link)
		if (object->handle == handle)
			return object;
	return NULL;
}

struct vdxgk_object *vdxgk_object_find_opened(struct vdxgk_device *dev,
					      u64 adapter_object)
{
	struct vdxgk_object *object;

	if (!adapter_object)
		return NULL;
	list_for_each_entry(object, &dev->objects, link)
		if (object->adapter_object == adapter_object)
			return object;
	return NULL;
}

static void zero_runs(const struct vdxgk_object *object)
{
	u32 i;

	for (i = 0; i < object->run_count; i++) {
		unsigned long pfn = object->runs[i].base >> PAGE_SHIFT;
		unsigned long pages = object->runs[i].size >> PAGE_SHIFT;

		for (; pages; pages--, pfn++) {
			clear_highpage(pfn_to_page(pfn));
			cond_resched();
		}
	}
}

static bool plausible(struct vdxgk_device *dev,
		      const struct vdxgk_create_result *result)
{
	return result->object && result->size &&
	       IS_ALIGNED(result->size, PAGE_SIZE) &&
	       result->size <= OBJECT_SIZE_MAX &&
	       result->run_count <= result->size >> PAGE_SHIFT &&
	       result->run_count <= dev->memory.donated + 1;
}

static u64 runs_size(const struct vdxgk_object *object)
{
	u64 size = 0;
	u32 i;

	/* Each run is within a block, so the sum can't wrap. */
	for (i = 0; i < object->run_count; i++)
		size += object->runs[i].size;
	return size;
}

/* Make the shim's half of an object that the backend has created. */
static NTSTATUS adopt(struct vdxgk_device *dev, struct vdxgk_object *object,
		      const struct vdxgk_create_result *result, u32 have)
{
	NTSTATUS status;

	status = vdxgk_read_list(dev, object->handle, object->runs,
				 sizeof(*object->runs), have,
				 object->run_count);
	if (!NT_SUCCESS(status) || !object->owns_memory)
		return status;
	if (vdxgk_memory_claim(dev, object->runs, object->run_count))
		return STATUS_DEVICE_PROTOCOL_ERROR;
	if (runs_size(object) != object->size) {
		vdxgk_memory_release(dev, object->runs, object->run_count);
		return STATUS_DEVICE_PROTOCOL_ERROR;
	}
	if (result->zero)
		zero_runs(object);
	return STATUS_SUCCESS;
}

static void free_object(struct vdxgk_object *object)
{
	kvfree(object->runs);
	kfree(object);
}

/* The backend has an object that the shim can't have: give it up. */
static void disown(struct vdxgk_device *dev,
		   const struct vdxgk_create_result *result)
{
	DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT args = {
		.hPhysicalMemoryObject = (HANDLE)(uintptr_t)result->object,
		.hAdapterMemoryObject =
			(HANDLE)(uintptr_t)result->adapter_object,
	};

	vdxgk_call_simple(dev, VDXGK_OP_DESTROY_OBJECT, &args, sizeof(args));
}

static NTSTATUS created(struct vdxgk_device *dev,
			DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args,
			const struct vdxgk_create_result *result,
			const struct vdxgk_range *runs, u32 count)
{
	struct vdxgk_object *object;
	NTSTATUS status = STATUS_DEVICE_PROTOCOL_ERROR;

	if (!plausible(dev, result))
		goto disown;
	status = STATUS_INSUFFICIENT_RESOURCES;
	object = kzalloc(sizeof(*object), GFP_KERNEL);
	if (!object)
		goto disown;
	object->handle = result->object;
	object->adapter_object = result->adapter_object;
	object->size = result->size;
	object->owns_memory = args->Type != DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE;
	object->run_count = result->run_count;
	object->runs = kvcalloc(result->run_count, sizeof(*runs), GFP_KERNEL);
	if (!object->runs)
		goto free;
	count = min(count, object->run_count);
	memcpy(object->runs, runs, count * sizeof(*runs));
	status = adopt(dev, object, result, count);
	if (!NT_SUCCESS(status))
		goto free;
	list_add_tail(&object->link, &dev->objects);
	args->hPhysicalMemoryObject = (HANDLE)(uintptr_t)object->handle;
	args->hAdapterMemoryObject =
		(HANDLE)(uintptr_t)object->adapter_object;
	return STATUS_SUCCESS;

free:
	free_object(object);
disown:
	disown(dev, result);
	return status;
}

static NTSTATUS create_once(struct vdxgk_device *dev,
			    DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args,
			    struct vdxgk_range *runs,
			    struct vdxgk_memory_wanted *wanted)
{
	size_t room = vdxgk_list_room(sizeof(*runs)) * sizeof(*runs);
	struct vdxgk_call call = {
		.op = VDXGK_OP_CREATE_OBJECT,
		.args = args,
		.args_size = sizeof(*args),
		.list_out = runs,
		.list_out_size = room,
		.entry_size = sizeof(*runs),
	};
	struct vdxgk_create_result result;
	NTSTATUS status = vdxgk_call(dev, &call);

	if (status == STATUS_MORE_PROCESSING_REQUIRED)
		memcpy(wanted, call.result, sizeof(*wanted));
	if (!NT_SUCCESS(status))
		return status;
	memcpy(&result, call.result, sizeof(result));
	return created(dev, args, &result, runs, call.data_count);
}

NTSTATUS vdxgk_object_create(struct vdxgk_device *dev,
			     DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_memory_wanted wanted;
	struct vdxgk_range *runs;
	unsigned int donations;
	NTSTATUS status;

	runs = kvmalloc_array(vdxgk_list_room(sizeof(*runs)), sizeof(*runs),
			      GFP_KERNEL);
	if (!runs)
		return STATUS_INSUFFICIENT_RESOURCES;
	for (donations = 0;; donations++) {
		status = create_once(dev, args, runs, &wanted);
		if (status != STATUS_MORE_PROCESSING_REQUIRED)
			break;
		if (donations == DONATIONS_MAX) {
			status = STATUS_NO_MEMORY;
			break;
		}
		status = vdxgk_memory_donate(dev, &wanted, donations > 0);
		if (!NT_SUCCESS(status))
			break;
	}
	kvfree(runs);
	/* What didn't help goes back. */
	if (donations > 1 || (donations && !NT_SUCCESS(status)))
		vdxgk_memory_reclaim(dev, false);
	if (!NT_SUCCESS(status)) {
		args->hPhysicalMemoryObject = NULL;
		args->hAdapterMemoryObject = NULL;
	}
	return status;
}

static void drop(struct vdxgk_device *dev, struct vdxgk_object *object)
{
	vdxgk_view_drop_of(dev, object);
	vdxgk_adl_drop_of(dev, object);
	list_del(&object->link);
	if (object->owns_memory)
		vdxgk_memory_release(dev, object->runs, object->run_count);
	free_object(object);
}

/* A refused destroy leaves the object as it was. */
NTSTATUS
vdxgk_object_destroy(struct vdxgk_device *dev,
		     const DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_object *object = vdxgk_object_find(
		dev, (uintptr_t)args->hPhysicalMemoryObject);
	NTSTATUS status;

	/* The pages are the backend's as soon as it answers, and it uses them
	 * for nothing before the next request of ours: the lock is held. */
	status = vdxgk_call_simple(dev, VDXGK_OP_DESTROY_OBJECT, args,
				   sizeof(*args));
	if (NT_SUCCESS(status) && object)
		drop(dev, object);
	return status;
}

NTSTATUS vdxgk_object_open(struct vdxgk_device *dev,
			   DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_object *object = vdxgk_object_find(
		dev, (uintptr_t)args->hPhysicalMemoryObject);
	struct vdxgk_call call = {
		.op = VDXGK_OP_OPEN_OBJECT,
		.args = args,
		.args_size = sizeof(*args),
	};
	struct vdxgk_open_result result;
	NTSTATUS status;

	status = vdxgk_call(dev, &call);
	args->hAdapterMemoryObject = NULL;
	if (!NT_SUCCESS(status))
		return status;
	memcpy(&result, call.result, sizeof(result));
	if (!object)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	object->adapter_object = result.adapter_object;
	args->hAdapterMemoryObject = (HANDLE)(uintptr_t)result.adapter_object;
	return status;
}

NTSTATUS vdxgk_object_close(struct vdxgk_device *dev,
			    const DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_object *object = vdxgk_object_find_opened(
		dev, (uintptr_t)args->hAdapterMemoryObject);
	NTSTATUS status;

	status = vdxgk_call_simple(dev, VDXGK_OP_CLOSE_OBJECT, args,
				   sizeof(*args));
	if (NT_SUCCESS(status) && object)
		object->adapter_object = 0;
	return status;
}

/* The adapter has stopped; what the miniport didn't give back goes now. */
void vdxgk_object_drop_all(struct vdxgk_device *dev)
{
	struct vdxgk_object *object, *next;

	list_for_each_entry_safe(object, next, &dev->objects, link)
		drop(dev, object);
}
