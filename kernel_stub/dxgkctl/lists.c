// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Commands on address descriptor lists.
 */
#include "dxgkctl.h"

/* Put out the page numbers of a list, at most `limit` from `first` on. */
static int print_pages(uint32_t id, uint64_t first, uint64_t limit)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_QUERY_ADL);
	const uint64_t *pages = escape_data();
	uint32_t status, i;
	int ret;

	if (limit > VDXGK_ESCAPE_MAX_DATA / sizeof(*pages))
		limit = VDXGK_ESCAPE_MAX_DATA / sizeof(*pages);
	escape->u.query_adl.id = id;
	escape->u.query_adl.first = first;
	escape->u.query_adl.count = limit;
	ret = escape_call(limit * sizeof(*pages), &status);
	if (ret)
		return ret;
	ret = output_status(status);
	if (ret)
		return ret;
	output_number("page_count", escape->u.query_adl.page_count);
	output_list_begin("pages");
	for (i = 0; i < escape->u.query_adl.count; i++)
		output_item_hex(pages[i]);
	output_list_end();
	return EXIT_OK;
}

int command_adl(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_ALLOCATE_ADL);
	struct vdxgk_escape_allocate_adl *request = &escape->u.allocate_adl;
	uint64_t adapter_object;
	uint32_t status, id;
	int ret = options_handle(options, 0, "ADAPTER_OBJECT", &adapter_object);

	if (ret)
		return ret;
	if (!options->has_size)
		return output_error(EXIT_USAGE, "--size is missing");
	request->args.hAdapterMemoryObject = (HANDLE)(uintptr_t)adapter_object;
	request->args.Offset = options->offset;
	request->args.Size = options->size;
	request->args.Flags.Value = options->flags;
	if (options->require_contiguous)
		request->args.Flags.Bits.RequireContiguous = 1;
	if (options->prefer_contiguous)
		request->args.Flags.Bits.PreferContiguous = 1;
	ret = escape_call(0, &status);
	if (ret)
		return ret;
	if ((int32_t)status < 0)
		return output_status(status);
	id = request->id;
	output_number("adl", id);
	output_bool("contiguous", request->contiguous);
	output_hex("logical", request->base_page << 12);
	return print_pages(id, 0, options->limit);
}

int command_pages(const struct options *options)
{
	uint64_t id;
	int ret = options_handle(options, 0, "ADL", &id);

	return ret ? ret : print_pages(id, options->first, options->limit);
}

int command_free(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_FREE_ADL);
	uint64_t id, adapter_object = 0;
	uint32_t status;
	int ret = options_handle(options, 0, "ADL", &id);

	if (!ret && options->positional_count > 1)
		ret = options_handle(options, 1, "ADAPTER_OBJECT",
				     &adapter_object);
	if (ret)
		return ret;
	escape->u.free_adl.id = id;
	escape->u.free_adl.adapter_object = adapter_object;
	ret = escape_call(0, &status);
	return ret ? ret : output_status(status);
}
