// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Views: CPU access to a memory object through MapPhysicalMemory.
 */
#include "miniport.h"

static ULONG view_id(struct miniport *mp, struct miniport_view *view)
{
	return view->generation * MINIPORT_VIEWS + (ULONG)(view - mp->views) +
	       1;
}

static struct miniport_view *find_view(struct miniport *mp, ULONG id)
{
	struct miniport_view *view = &mp->views[(id - 1) % MINIPORT_VIEWS];

	if (!view->args.pMappedAddress || view_id(mp, view) != id)
		return (struct miniport_view *)0;
	return view;
}

static struct miniport_view *
find_mapped(struct miniport *mp, const DXGKARGCB_UNMAP_PHYSICAL_MEMORY *args)
{
	ULONG i;

	for (i = 0; args->pBaseAddress && i < MINIPORT_VIEWS; i++) {
		struct miniport_view *view = &mp->views[i];

		if (view->args.pMappedAddress == args->pBaseAddress &&
		    view->args.Size == args->Size &&
		    view->args.hPhysicalMemoryObject ==
			    args->hPhysicalMemoryObject)
			return view;
	}
	return (struct miniport_view *)0;
}

static struct miniport_view *free_view(struct miniport *mp)
{
	ULONG i, at;

	for (i = 0; i < MINIPORT_VIEWS; i++) {
		at = (mp->view_hint + i) % MINIPORT_VIEWS;
		if (!mp->views[at].args.pMappedAddress) {
			mp->view_hint = at + 1;
			return &mp->views[at];
		}
	}
	return (struct miniport_view *)0;
}

NTSTATUS miniport_map(struct miniport *mp, struct vdxgk_escape_map *request)
{
	SIZE_T wanted = request->args.Size;
	struct miniport_view *view;
	NTSTATUS status;

	if (!MINIPORT_HAS(mp, DxgkCbMapPhysicalMemory) ||
	    !MINIPORT_HAS(mp, DxgkCbUnmapPhysicalMemory))
		return STATUS_NOT_SUPPORTED;
	view = free_view(mp);
	if (!view)
		return STATUS_INSUFFICIENT_RESOURCES;
	request->args.pMappedAddress = (PVOID)0;
	status = mp->dxgkrnl.DxgkCbMapPhysicalMemory(&request->args);
	if (!NT_SUCCESS(status))
		return status;
	view->args = request->args;
	view->wanted = wanted;
	request->id = view_id(mp, view);
	return status;
}

static void release_view(struct miniport *mp, struct miniport_view *view)
{
	DXGKARGCB_UNMAP_PHYSICAL_MEMORY args = {
		.hPhysicalMemoryObject = view->args.hPhysicalMemoryObject,
		.pBaseAddress = view->args.pMappedAddress,
		.Size = view->args.Size,
	};

	mp->dxgkrnl.DxgkCbUnmapPhysicalMemory(&args);
	view->args.pMappedAddress = (PVOID)0;
	view->generation++;
}

NTSTATUS miniport_unmap(struct miniport *mp,
			struct vdxgk_escape_unmap *request)
{
	struct miniport_view *view = request->id ?
					     find_view(mp, request->id) :
					     find_mapped(mp, &request->args);

	if (!view)
		return STATUS_NOT_FOUND;
	release_view(mp, view);
	return STATUS_SUCCESS;
}

NTSTATUS miniport_access(struct miniport *mp,
			 const struct vdxgk_escape_access *request,
			 BOOLEAN write, void *data, SIZE_T room)
{
	struct miniport_view *view = find_view(mp, request->id);
	UCHAR *at;

	if (!view)
		return STATUS_NOT_FOUND;
	if (request->size > room)
		return STATUS_BUFFER_TOO_SMALL;
	if (request->offset > view->wanted ||
	    request->size > view->wanted - request->offset)
		return STATUS_INVALID_PARAMETER;
	/* A user mode address isn't ours to touch. */
	if (view->args.AccessMode != DXGK_ACCESS_MODE_KERNEL_MODE)
		return STATUS_ACCESS_DENIED;
	at = (UCHAR *)view->args.pMappedAddress + view->args.Offset +
	     request->offset;
	if (write)
		__builtin_memcpy(at, data, request->size);
	else
		__builtin_memcpy(data, at, request->size);
	return STATUS_SUCCESS;
}

void miniport_release_views(struct miniport *mp)
{
	ULONG i;

	for (i = 0; i < MINIPORT_VIEWS; i++)
		if (mp->views[i].args.pMappedAddress)
			release_view(mp, &mp->views[i]);
}
