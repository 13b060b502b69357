// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Physical memory objects: create, open, close, destroy.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "vdxgk.h"

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

/* A section comes without runs, and gets them when it is first used. */
static bool plausible(struct vdxgk_device *dev,
		      const struct vdxgk_create_result *result, bool section)
{
	return result->object && result->size &&
	       IS_ALIGNED(result->size, PAGE_SIZE) &&
	       result->size <= OBJECT_SIZE_MAX &&
	       !result->run_count == section;
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

static void forget_runs(struct vdxgk_object *object)
{
	kvfree(object->runs);
	object->runs = NULL;
	object->run_count = 0;
}

/* Learn which pages an object has, of which `have` runs are known, and take
 * them over. On failure it has none. */
static NTSTATUS adopt(struct vdxgk_device *dev, struct vdxgk_object *object,
		      const struct vdxgk_range *runs, u32 have, u32 count,
		      bool zero)
{
	NTSTATUS status = STATUS_DEVICE_PROTOCOL_ERROR;

	if (count > object->size >> PAGE_SHIFT ||
	    count > dev->memory.donated + 1)
		return status;
	object->runs = kvcalloc(count, sizeof(*runs), GFP_KERNEL);
	if (!object->runs)
		return STATUS_INSUFFICIENT_RESOURCES;
	object->run_count = count;
	have = min(have, count);
	memcpy(object->runs, runs, have * sizeof(*runs));
	status = vdxgk_read_list(dev, object->handle, object->runs,
				 sizeof(*object->runs), have, count);
	if (!NT_SUCCESS(status))
		goto forget;
	status = STATUS_DEVICE_PROTOCOL_ERROR;
	if (!object->owns_memory) {
		if (count != 1 || runs_size(object) != object->size)
			goto forget;
		return STATUS_SUCCESS;
	}
	if (vdxgk_memory_claim(dev, object->runs, count))
		goto forget;
	if (runs_size(object) != object->size) {
		vdxgk_memory_release(dev, object->runs, count);
		goto forget;
	}
	if (zero)
		zero_runs(object);
	return STATUS_SUCCESS;

forget:
	forget_runs(object);
	return status;
}

/*
 * An object is about to be used, and the backend says that it has `run_count`
 * runs. A section has got its memory just now if it had none before.
 */
NTSTATUS vdxgk_object_back(struct vdxgk_device *dev,
			   struct vdxgk_object *object, u32 run_count)
{
	if (!run_count || (object->run_count && object->run_count != run_count))
		return STATUS_DEVICE_PROTOCOL_ERROR;
	if (object->run_count)
		return STATUS_SUCCESS;
	return adopt(dev, object, NULL, 0, run_count, true);
}

/* A section of the backend's own, which has no pages yet. */
struct vdxgk_object *vdxgk_object_new(u64 handle, u64 size)
{
	struct vdxgk_object *object;

	if (!size || !PAGE_ALIGNED(size) || size > OBJECT_SIZE_MAX)
		return NULL;
	object = kzalloc(sizeof(*object), GFP_KERNEL);
	if (!object)
		return NULL;
	INIT_LIST_HEAD(&object->link);
	object->handle = handle;
	object->size = size;
	object->owns_memory = true;
	object->cache_type = DXGK_MEMORY_CACHING_TYPE_CACHED;
	return object;
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
	bool section = args->Type == DXGK_PHYSICAL_MEMORY_TYPE_SECTION;
	NTSTATUS status = STATUS_DEVICE_PROTOCOL_ERROR;
	struct vdxgk_object *object;

	if (!plausible(dev, result, section))
		goto disown;
	status = STATUS_INSUFFICIENT_RESOURCES;
	object = kzalloc(sizeof(*object), GFP_KERNEL);
	if (!object)
		goto disown;
	object->handle = result->object;
	object->adapter_object = result->adapter_object;
	object->size = result->size;
	object->owns_memory = args->Type != DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE;
	object->cache_type = args->CacheType;
	status = section ? STATUS_SUCCESS :
			   adopt(dev, object, runs, count, result->run_count,
				 result->zero);
	if (!NT_SUCCESS(status))
		goto free;
	if (!object->owns_memory &&
	    object->runs[0].base != args->IOSpace.BaseAddress.QuadPart) {
		status = STATUS_DEVICE_PROTOCOL_ERROR;
		goto free;
	}
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

/* Only memory without side effects: registers do things when they are read. */
static bool may_be_wrapped(struct vdxgk_device *dev,
			   const DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args)
{
	return vdxgk_bar_holds(dev->pdev, args->IOSpace.BaseAddress.QuadPart,
			       args->Size, IORESOURCE_PREFETCH);
}

static NTSTATUS create(struct vdxgk_device *dev,
		       DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args,
		       struct vdxgk_range *runs)
{
	struct vdxgk_call call = {
		.op = VDXGK_OP_CREATE_OBJECT,
		.args = args,
		.args_size = sizeof(*args),
		.list_out = runs,
		.list_out_size = vdxgk_list_room(sizeof(*runs)) * sizeof(*runs),
		.entry_size = sizeof(*runs),
	};
	struct vdxgk_create_result result;
	NTSTATUS status;

	if (args->Type == DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE &&
	    !may_be_wrapped(dev, args))
		return STATUS_INVALID_PARAMETER;
	status = vdxgk_memory_call(dev, &call);
	if (!NT_SUCCESS(status))
		return status;
	memcpy(&result, call.result, sizeof(result));
	return created(dev, args, &result, runs, call.data_count);
}

NTSTATUS vdxgk_object_create(struct vdxgk_device *dev,
			     DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct vdxgk_range *runs;
	NTSTATUS status;

	runs = kvmalloc_array(vdxgk_list_room(sizeof(*runs)), sizeof(*runs),
			      GFP_KERNEL);
	if (!runs)
		return STATUS_INSUFFICIENT_RESOURCES;
	status = create(dev, args, runs);
	kvfree(runs);
	if (!NT_SUCCESS(status)) {
		args->hPhysicalMemoryObject = NULL;
		args->hAdapterMemoryObject = NULL;
	}
	return status;
}

void vdxgk_object_drop(struct vdxgk_device *dev, struct vdxgk_object *object)
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
		vdxgk_object_drop(dev, object);
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
		vdxgk_object_drop(dev, object);
	vdxgk_save_area_drop_all(dev);
}
