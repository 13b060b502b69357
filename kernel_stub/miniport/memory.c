// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Physical memory objects and address descriptor lists, as the driver asks
 * Dxgkrnl for them.  The driver remembers what it holds, in bounded tables,
 * so that StopDevice can give all of it back in the order that the DDI wants.
 */
#include "miniport.h"

/* The lowest free slot is not needed, only some: start at the hint. */
static struct miniport_object *free_object(struct miniport *mp)
{
	ULONG i, at;

	for (i = 0; i < MINIPORT_OBJECTS; i++) {
		at = (mp->object_hint + i) % MINIPORT_OBJECTS;
		if (!mp->objects[at].object) {
			mp->object_hint = at + 1;
			return &mp->objects[at];
		}
	}
	return (struct miniport_object *)0;
}

static struct miniport_adl *free_adl(struct miniport *mp)
{
	ULONG i, at;

	for (i = 0; i < MINIPORT_ADLS; i++) {
		at = (mp->adl_hint + i) % MINIPORT_ADLS;
		if (!mp->adls[at].adl) {
			mp->adl_hint = at + 1;
			return &mp->adls[at];
		}
	}
	return (struct miniport_adl *)0;
}

/* An id names the slot and its generation, so that a stale one is refused. */
static ULONG adl_id(struct miniport *mp, struct miniport_adl *slot)
{
	return (slot->generation * MINIPORT_ADLS + (ULONG)(slot - mp->adls)) +
	       1;
}

static struct miniport_adl *find_adl(struct miniport *mp, ULONG id)
{
	struct miniport_adl *slot = &mp->adls[(id - 1) % MINIPORT_ADLS];

	if (!slot->adl || adl_id(mp, slot) != id)
		return (struct miniport_adl *)0;
	return slot;
}

/* NULL: no such list. */
const DXGK_ADL *miniport_adl(struct miniport *mp, ULONG id)
{
	const struct miniport_adl *slot = find_adl(mp, id);

	return slot ? slot->adl : (const DXGK_ADL *)0;
}

static struct miniport_object *find_object(struct miniport *mp, HANDLE object)
{
	ULONG i;

	for (i = 0; object && i < MINIPORT_OBJECTS; i++)
		if (mp->objects[i].object == object)
			return &mp->objects[i];
	return (struct miniport_object *)0;
}

NTSTATUS miniport_create(struct miniport *mp, ULONG flags,
			 DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args)
{
	struct miniport_object *slot;
	NTSTATUS status;

	if (!MINIPORT_HAS(mp, DxgkCbCreatePhysicalMemoryObject))
		return STATUS_NOT_SUPPORTED;
	slot = free_object(mp);
	if (!slot)
		return STATUS_INSUFFICIENT_RESOURCES;
	if (flags & VDXGK_ESCAPE_OWN_ADAPTER)
		args->hAdapter = mp->dxgkrnl.DeviceHandle;
	status = mp->dxgkrnl.DxgkCbCreatePhysicalMemoryObject(args);
	if (!NT_SUCCESS(status))
		return status;
	slot->object = args->hPhysicalMemoryObject;
	slot->adapter_object = args->hAdapterMemoryObject;
	return status;
}

/*
 * Whether this driver itself still uses an object, or does not close it. Then
 * Dxgkrnl refuses to destroy it (Windows would stop), and it is still ours.
 */
static BOOLEAN breaks_rules(struct miniport *mp,
			    const struct miniport_object *slot,
			    HANDLE adapter_object)
{
	ULONG i;

	if (slot->adapter_object != adapter_object)
		return 1;
	for (i = 0; i < MINIPORT_ADLS && adapter_object; i++)
		if (mp->adls[i].adl &&
		    mp->adls[i].adapter_object == adapter_object)
			return 1;
	for (i = 0; i < MINIPORT_VIEWS; i++)
		if (mp->views[i].args.pMappedAddress &&
		    mp->views[i].args.hPhysicalMemoryObject == slot->object)
			return 1;
	return 0;
}

NTSTATUS miniport_destroy(struct miniport *mp,
			  DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT *args)
{
	struct miniport_object *slot;

	if (!MINIPORT_HAS(mp, DxgkCbDestroyPhysicalMemoryObject))
		return STATUS_NOT_SUPPORTED;
	mp->dxgkrnl.DxgkCbDestroyPhysicalMemoryObject(args);
	slot = find_object(mp, args->hPhysicalMemoryObject);
	if (slot && !breaks_rules(mp, slot, args->hAdapterMemoryObject))
		slot->object = (HANDLE)0;
	return STATUS_SUCCESS;
}

NTSTATUS miniport_open(struct miniport *mp, ULONG flags,
		       DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT *args)
{
	struct miniport_object *slot;
	NTSTATUS status;

	if (!MINIPORT_HAS(mp, DxgkCbOpenPhysicalMemoryObject))
		return STATUS_NOT_SUPPORTED;
	if (flags & VDXGK_ESCAPE_OWN_ADAPTER)
		args->hAdapter = mp->dxgkrnl.DeviceHandle;
	status = mp->dxgkrnl.DxgkCbOpenPhysicalMemoryObject(args);
	if (!NT_SUCCESS(status))
		return status;
	slot = find_object(mp, args->hPhysicalMemoryObject);
	if (slot)
		slot->adapter_object = args->hAdapterMemoryObject;
	return status;
}

NTSTATUS miniport_close(struct miniport *mp,
			DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT *args)
{
	ULONG i;

	if (!MINIPORT_HAS(mp, DxgkCbClosePhysicalMemoryObject))
		return STATUS_NOT_SUPPORTED;
	mp->dxgkrnl.DxgkCbClosePhysicalMemoryObject(args);
	for (i = 0; i < MINIPORT_ADLS; i++)
		if (mp->adls[i].adl &&
		    mp->adls[i].adapter_object == args->hAdapterMemoryObject)
			return STATUS_SUCCESS; /* refused: see breaks_rules() */
	for (i = 0; i < MINIPORT_OBJECTS; i++)
		if (mp->objects[i].object && mp->objects[i].adapter_object ==
						     args->hAdapterMemoryObject)
			mp->objects[i].adapter_object = (HANDLE)0;
	return STATUS_SUCCESS;
}

NTSTATUS miniport_allocate_adl(struct miniport *mp,
			       struct vdxgk_escape_allocate_adl *request)
{
	struct miniport_adl *slot;
	const DXGK_ADL *adl;
	NTSTATUS status;

	if (!MINIPORT_HAS(mp, DxgkCbAllocateAdl) ||
	    !MINIPORT_HAS(mp, DxgkCbFreeAdl))
		return STATUS_NOT_SUPPORTED;
	slot = free_adl(mp);
	if (!slot)
		return STATUS_INSUFFICIENT_RESOURCES;
	request->args.pAdl = (DXGK_ADL *)0;
	status = mp->dxgkrnl.DxgkCbAllocateAdl(&request->args);
	if (!NT_SUCCESS(status))
		return status;

	adl = request->args.pAdl;
	slot->adl = request->args.pAdl;
	slot->adapter_object = request->args.hAdapterMemoryObject;
	request->id = adl_id(mp, slot);
	request->page_count = adl->PageCount;
	request->contiguous = adl->Flags.Bits.Contiguous;
	request->base_page = adl->Flags.Bits.Contiguous ?
				     adl->BasePageNumber :
				     adl->Pages[0];
	return status;
}

/* Contiguous or not, the caller gets one number for each page. */
NTSTATUS miniport_query_adl(struct miniport *mp,
			    struct vdxgk_escape_query_adl *request,
			    vdxgk_u64 *pages, SIZE_T room)
{
	struct miniport_adl *slot = find_adl(mp, request->id);
	const DXGK_ADL *adl;
	ULONG i, count;

	if (!slot)
		return STATUS_NOT_FOUND;
	if (request->count > room / sizeof(*pages))
		return STATUS_BUFFER_TOO_SMALL;
	adl = slot->adl;
	count = request->first < adl->PageCount ?
			adl->PageCount - request->first :
			0;
	if (count > request->count)
		count = request->count;
	for (i = 0; i < count; i++)
		pages[i] = adl->Flags.Bits.Contiguous ?
				   adl->BasePageNumber + request->first + i :
				   adl->Pages[request->first + i];
	request->count = count;
	request->page_count = adl->PageCount;
	return STATUS_SUCCESS;
}

static void release_adl(struct miniport *mp, struct miniport_adl *slot,
			HANDLE adapter_object)
{
	DXGKARGCB_FREE_ADL args = {
		.hAdapterMemoryObject = adapter_object,
		.pAdl = slot->adl,
	};

	mp->dxgkrnl.DxgkCbFreeAdl(&args);
	slot->adl = (DXGK_ADL *)0;
	slot->generation++;
}

/*
 * With another adapter object than the list's own, Dxgkrnl refuses (Windows
 * would stop), and the list is still ours.
 */
NTSTATUS miniport_free_adl(struct miniport *mp,
			   struct vdxgk_escape_free_adl *request)
{
	struct miniport_adl *slot = find_adl(mp, request->id);
	HANDLE adapter_object = (HANDLE)(ULONG_PTR)request->adapter_object;
	DXGKARGCB_FREE_ADL args;

	if (!slot)
		return STATUS_NOT_FOUND;
	if (!adapter_object || adapter_object == slot->adapter_object) {
		release_adl(mp, slot, slot->adapter_object);
		return STATUS_SUCCESS;
	}
	args.hAdapterMemoryObject = adapter_object;
	args.pAdl = slot->adl;
	mp->dxgkrnl.DxgkCbFreeAdl(&args);
	return STATUS_SUCCESS;
}

void miniport_release_memory(struct miniport *mp)
{
	ULONG i;

	for (i = 0; i < MINIPORT_ADLS; i++)
		if (mp->adls[i].adl)
			release_adl(mp, &mp->adls[i],
				    mp->adls[i].adapter_object);
	for (i = 0; i < MINIPORT_OBJECTS; i++) {
		DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT args = {
			.hPhysicalMemoryObject = mp->objects[i].object,
			.hAdapterMemoryObject = mp->objects[i].adapter_object,
		};

		if (!mp->objects[i].object)
			continue;
		mp->dxgkrnl.DxgkCbDestroyPhysicalMemoryObject(&args);
		mp->objects[i].object = (HANDLE)0;
	}
}
