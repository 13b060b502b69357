// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Commands on physical memory objects.
 */
#include <stdlib.h>

#include "dxgkctl.h"
#include "ntstatus.h"

#define RUNS_MAX (1u << 20)

/* Put out an object's guest-physical runs, at most `limit` from `first` on.
 * An object that isn't there has size 0. */
int object_runs(uint64_t object, uint32_t first, uint32_t limit, uint64_t *size)
{
	struct vdxgk_ioctl_object_runs request = {
		.object = object,
		.first = first,
		.count = limit < RUNS_MAX ? limit : RUNS_MAX,
	};
	struct vdxgk_range *runs = NULL;
	uint32_t i;
	int ret;

	if (request.count) {
		runs = calloc(request.count, sizeof(*runs));
		if (!runs)
			return output_error(EXIT_SYSTEM, "out of memory");
	}
	request.runs = (uintptr_t)runs;
	ret = device_ioctl(VDXGK_IOCTL_OBJECT_RUNS, &request);
	*size = ret ? 0 : request.size;
	if (*size && runs) {
		output_number("size", request.size);
		output_number("run_count", request.total);
		output_list_begin("runs");
		for (i = 0; i < request.count; i++)
			output_pair_hex(runs[i].base, runs[i].size);
		output_list_end();
	}
	free(runs);
	return ret;
}

static uint64_t number(HANDLE handle)
{
	return (uintptr_t)handle;
}

static HANDLE handle(uint64_t value)
{
	return (HANDLE)(uintptr_t)value;
}

static void fill_create(DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args,
			const struct options *options)
{
	args->hAdapter = handle(options->adapter);
	args->Size = options->size;
	args->Context = options->context;
	args->Type = options->type;
	args->CacheType = options->cache;
	switch (args->Type) {
	case DXGK_PHYSICAL_MEMORY_TYPE_MDL:
		args->Mdl.LowAddress.QuadPart = options->low;
		args->Mdl.HighAddress.QuadPart = options->high;
		args->Mdl.SkipBytes.QuadPart = options->skip;
		args->Mdl.Flags = options->flags;
		break;
	case DXGK_PHYSICAL_MEMORY_TYPE_SECTION:
		args->Section.PageProtection =
			options->has_flags ? options->flags : PAGE_READWRITE;
		args->Section.AllocationAttributes = options->attributes;
		args->Section.DesiredAccess = options->desired_access;
		break;
	case DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE:
		args->IOSpace.BaseAddress.QuadPart = options->low;
		break;
	default:
		args->ContiguousMemory.LowestAcceptableAddress.QuadPart =
			options->low;
		args->ContiguousMemory.HighestAcceptableAddress.QuadPart =
			options->high;
		args->ContiguousMemory.BoundaryAddressMultiple.QuadPart =
			options->boundary;
	}
}

int command_create(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_CREATE);
	DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT *args = &escape->u.create;
	uint64_t size;
	uint32_t status;
	int ret;

	if (!options->has_size)
		return output_error(EXIT_USAGE, "--size is missing");
	fill_create(args, options);
	if (!options->no_adapter && !options->has_adapter)
		escape->flags = VDXGK_ESCAPE_OWN_ADAPTER;
	ret = escape_call(0, &status);
	if (ret)
		return ret;
	ret = output_status(status);
	if (ret)
		return ret;
	output_hex("object", number(args->hPhysicalMemoryObject));
	output_hex("adapter_object", number(args->hAdapterMemoryObject));
	return object_runs(number(args->hPhysicalMemoryObject), 0,
			   options->limit, &size);
}

int command_runs(const struct options *options)
{
	uint64_t object, size;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (ret)
		return ret;
	ret = object_runs(object, options->first, options->limit, &size);
	return ret ? ret : output_status(size ? 0 : STATUS_INVALID_HANDLE);
}

int command_open(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_OPEN);
	uint64_t object;
	uint32_t status;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (ret)
		return ret;
	escape->u.open.hPhysicalMemoryObject = handle(object);
	escape->u.open.hAdapter = handle(options->adapter);
	if (!options->has_adapter)
		escape->flags = VDXGK_ESCAPE_OWN_ADAPTER;
	ret = escape_call(0, &status);
	if (ret)
		return ret;
	ret = output_status(status);
	if (!ret)
		output_hex("adapter_object",
			   number(escape->u.open.hAdapterMemoryObject));
	return ret;
}

int command_close(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_CLOSE);
	uint64_t adapter_object;
	uint32_t status;
	int ret = options_handle(options, 0, "ADAPTER_OBJECT", &adapter_object);

	if (ret)
		return ret;
	escape->u.close.hAdapterMemoryObject = handle(adapter_object);
	ret = escape_call(0, &status);
	return ret ? ret : output_status(status);
}

int command_destroy(const struct options *options)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_DESTROY);
	uint64_t object, adapter_object = 0;
	uint32_t status;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (!ret && options->positional_count > 1)
		ret = options_handle(options, 1, "ADAPTER_OBJECT",
				     &adapter_object);
	if (ret)
		return ret;
	escape->u.destroy.hPhysicalMemoryObject = handle(object);
	escape->u.destroy.hAdapterMemoryObject = handle(adapter_object);
	ret = escape_call(0, &status);
	return ret ? ret : output_status(status);
}
