// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Commands on the frame buffer's save area, and the callbacks of WDDM 2.4.
 */
#include <string.h>

#include "dxgkctl.h"

static void choose_adapter(struct vdxgk_escape *escape, vdxgk_u64 *adapter,
			   const struct options *options)
{
	*adapter = options->adapter;
	if (!options->has_adapter)
		escape->flags = VDXGK_ESCAPE_OWN_ADAPTER;
}

int command_pin(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_PIN);
	struct vdxgk_escape_pin *request = &escape->u.pin;
	const uint64_t *pages = escape_data();
	uint64_t limit = options->limit;
	uint32_t status, i;
	int ret;

	if (!options->has_size)
		return output_error(EXIT_USAGE, "--size is missing");
	if (limit > VDXGK_ESCAPE_MAX_DATA / sizeof(*pages))
		limit = VDXGK_ESCAPE_MAX_DATA / sizeof(*pages);
	choose_adapter(escape, &request->adapter, options);
	request->args.PhysicalAdapterIndex = options->index;
	request->args.CommitSize = options->size;
	request->args.Flags.Value = options->flags;
	if (options->prefer_contiguous)
		request->args.Flags.Bits.PreferContiguous = 1;
	request->count = limit;
	ret = escape_call(limit * sizeof(*pages), &status);
	if (!ret)
		ret = output_status(status);
	if (ret)
		return ret;
	output_bool("contiguous", request->contiguous);
	output_number("page_count", request->page_count);
	output_list_begin("pages");
	for (i = 0; i < request->count; i++)
		output_item_hex(pages[i]);
	output_list_end();
	return EXIT_OK;
}

int command_unpin(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_UNPIN);
	uint32_t status;
	int ret;

	choose_adapter(escape, &escape->u.unpin.adapter, options);
	escape->u.unpin.args.PhysicalAdapterIndex = options->index;
	ret = escape_call(0, &status);
	return ret ? ret : output_status(status);
}

int command_older(const struct options *options)
{
	static const char *const names[] = {
		[VDXGK_OLDER_ALLOCATE_CONTIGUOUS_MEMORY] =
			"AllocateContiguousMemory",
		[VDXGK_OLDER_FREE_CONTIGUOUS_MEMORY] = "FreeContiguousMemory",
		[VDXGK_OLDER_ALLOCATE_PAGES_FOR_MDL] = "AllocatePagesForMdl",
		[VDXGK_OLDER_FREE_PAGES_FROM_MDL] = "FreePagesFromMdl",
		[VDXGK_OLDER_PIN_FRAME_BUFFER_FOR_SAVE] =
			"PinFrameBufferForSave",
		[VDXGK_OLDER_MAP_FRAME_BUFFER_POINTER] =
			"MapFrameBufferPointer",
		[VDXGK_OLDER_UNMAP_FRAME_BUFFER_POINTER] =
			"UnmapFrameBufferPointer",
		[VDXGK_OLDER_MAP_MDL_TO_IOMMU] = "MapMdlToIoMmu",
		[VDXGK_OLDER_UNMAP_MDL_FROM_IOMMU] = "UnmapMdlFromIoMmu",
	};
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_OLDER);
	const uint32_t count = sizeof(names) / sizeof(names[0]);
	uint32_t status, callback;
	int ret;

	if (!options->positional_count)
		return output_error(EXIT_USAGE, "CALLBACK is missing");
	for (callback = 0; callback < count; callback++)
		if (!strcmp(names[callback], options->positional[0]))
			break;
	if (callback == count)
		return output_error(EXIT_USAGE, "%s is no older callback",
				    options->positional[0]);
	choose_adapter(escape, &escape->u.older.adapter, options);
	escape->u.older.callback = callback;
	ret = escape_call(0, &status);
	return ret ? ret : output_status(status);
}
