// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Where an object lies, by the page tables that the guest's CPU walks: what
 * neither the backend nor the shim's books say.
 */
#include "dxgkctl.h"

#define PAGE 4096ull
#define BATCH 4096

struct run {
	uint64_t base, size;
};

static void add_frame(struct run *run, uint64_t frame)
{
	uint64_t base = frame * PAGE;

	if (run->size && base == run->base + run->size) {
		run->size += PAGE;
		return;
	}
	if (run->size)
		output_pair_hex(run->base, run->size);
	run->base = base;
	run->size = PAGE;
}

static int print_frames(const DXGKARGCB_MAP_PHYSICAL_MEMORY *args)
{
	static vdxgk_u64 frames[BATCH];
	struct vdxgk_ioctl_frames request = {
		.object = (uintptr_t)args->hPhysicalMemoryObject,
		.base = (uintptr_t)args->pMappedAddress,
		.frames = (uintptr_t)frames,
	};
	struct run run = { 0 };
	uint32_t i;
	int ret;

	output_list_begin("frames");
	do {
		request.count = BATCH;
		ret = device_ioctl(VDXGK_IOCTL_FRAMES, &request);
		if (ret)
			return ret;
		for (i = 0; i < request.count; i++)
			add_frame(&run, frames[i]);
		request.first += request.count;
	} while (request.count);
	if (run.size)
		output_pair_hex(run.base, run.size);
	output_list_end();
	return EXIT_OK;
}

int command_frames(const struct options *options)
{
	DXGKARGCB_MAP_PHYSICAL_MEMORY args;
	uint64_t object, size = 0;
	uint32_t status, id;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (!ret)
		ret = object_runs(object, 0, 0, &size);
	if (!ret)
		ret = view_map(options, object, size, &args, &id, &status);
	if (!ret)
		ret = output_status(status);
	if (ret)
		return ret;
	ret = print_frames(&args);
	if (view_unmap(id, &status) || (int32_t)status < 0)
		ret = output_error(EXIT_SYSTEM, "can't unmap");
	return ret;
}
