// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * CPU access to objects, through a view that MapPhysicalMemory gives.
 *
 * The data are 64-bit little-endian words value + i * step; a size that isn't
 * a multiple of eight cuts the last word.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "dxgkctl.h"
#include "ntstatus.h"

#define CHUNK VDXGK_ESCAPE_MAX_DATA

/* `size` bytes from byte `offset` (a multiple of eight) of the sequence on. */
static void sequence(unsigned char *to, uint64_t offset, size_t size,
		     uint64_t value, uint64_t step)
{
	uint64_t word = value + offset / 8 * step;
	size_t at;

	for (at = 0; at + 8 <= size; at += 8, word += step)
		memcpy(to + at, &word, 8);
	memcpy(to + at, &word, size - at);
}

int view_map(const struct options *options, uint64_t object, uint64_t size,
	     DXGKARGCB_MAP_PHYSICAL_MEMORY *args, uint32_t *id,
	     uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_MAP);
	int ret;

	escape->u.map.args.hPhysicalMemoryObject = (HANDLE)(uintptr_t)object;
	escape->u.map.args.AccessMode =
		options->user ? DXGK_ACCESS_MODE_USER_MODE : options->access;
	escape->u.map.args.Offset = options->offset;
	escape->u.map.args.Size = size;
	ret = escape_call(0, status);
	*args = escape->u.map.args;
	*id = escape->u.map.id;
	return ret;
}

int view_unmap(uint32_t id, uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_UNMAP);

	escape->u.unmap.id = id;
	return escape_call(0, status);
}

/* What the page tables say of a view. */
static int print_attributes(const DXGKARGCB_MAP_PHYSICAL_MEMORY *args)
{
	static const char *const names[] = {
		[VDXGK_ATTRIBUTES_WRITE_BACK] = "write-back",
		[VDXGK_ATTRIBUTES_WRITE_COMBINING] = "write-combining",
		[VDXGK_ATTRIBUTES_UNCACHED_MINUS] = "uncached-minus",
		[VDXGK_ATTRIBUTES_UNCACHED] = "uncached",
		[VDXGK_ATTRIBUTES_UNKNOWN] = "unknown",
	};
	struct vdxgk_ioctl_view view = {
		.object = (uintptr_t)args->hPhysicalMemoryObject,
		.base = (uintptr_t)args->pMappedAddress,
	};
	int ret = device_ioctl(VDXGK_IOCTL_VIEW, &view);

	if (ret)
		return ret;
	if (view.attributes > VDXGK_ATTRIBUTES_UNKNOWN)
		view.attributes = VDXGK_ATTRIBUTES_UNKNOWN;
	output_string("attributes", names[view.attributes]);
	output_bool("writable", view.writable);
	return EXIT_OK;
}

int command_map(const struct options *options)
{
	DXGKARGCB_MAP_PHYSICAL_MEMORY args;
	uint32_t status, id;
	uint64_t object;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (ret)
		return ret;
	if (!options->has_size)
		return output_error(EXIT_USAGE, "--size is missing");
	ret = view_map(options, object, options->size, &args, &id, &status);
	if (ret)
		return ret;
	ret = output_status(status);
	if (ret)
		return ret;
	output_number("view", id);
	output_hex("base", (uintptr_t)args.pMappedAddress);
	output_number("offset", args.Offset);
	output_number("size", args.Size);
	return print_attributes(&args);
}

int command_unmap(const struct options *options)
{
	uint64_t id;
	uint32_t status;
	int ret = options_handle(options, 0, "VIEW", &id);

	if (!ret)
		ret = view_unmap(id, &status);
	return ret ? ret : output_status(status);
}

struct transfer {
	unsigned char *user; /* where a user mode view has the data, or NULL */
	bool write;
	bool compare;
	uint64_t value;
	uint64_t step;
	uint64_t size;
	uint32_t crc;
	bool mismatch;
	uint64_t mismatch_offset; /* from the first byte read */
	uint64_t expected;
	uint64_t found;
};

static void compare(struct transfer *transfer, uint64_t offset, size_t size)
{
	static unsigned char expected[CHUNK];
	const unsigned char *found = escape_data();
	size_t at, length;

	if (!transfer->compare || transfer->mismatch)
		return;
	sequence(expected, offset, size, transfer->value, transfer->step);
	if (!memcmp(expected, found, size))
		return;
	for (at = 0; expected[at] == found[at]; at++)
		;
	at &= ~(size_t)7;
	length = size - at < 8 ? size - at : 8;
	transfer->mismatch = true;
	transfer->mismatch_offset = offset + at;
	memcpy(&transfer->expected, expected + at, length);
	memcpy(&transfer->found, found + at, length);
}

/* One chunk through a kernel mode view: the miniport does it. */
static int move_chunk(const struct transfer *transfer, uint32_t id,
		      uint64_t offset, size_t size, uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(
		transfer->write ? VDXGK_ESCAPE_WRITE : VDXGK_ESCAPE_READ);

	escape->u.access.id = id;
	escape->u.access.offset = offset;
	escape->u.access.size = size;
	return escape_call(size, status);
}

/* One chunk through a user mode view, which this process has. */
static void copy_chunk(const struct transfer *transfer, uint64_t offset,
		       size_t size)
{
	if (transfer->write)
		memcpy(transfer->user + offset, escape_data(), size);
	else
		memcpy(escape_data(), transfer->user + offset, size);
}

/* Move all of it, a chunk at a time, through an open view. */
static int move(struct transfer *transfer, uint32_t id, uint32_t *status)
{
	uint64_t offset = 0;

	*status = 0;
	while (offset < transfer->size) {
		uint64_t left = transfer->size - offset;
		size_t size = left < CHUNK ? left : CHUNK;
		int ret = EXIT_OK;

		if (transfer->write)
			sequence(escape_data(), offset, size, transfer->value,
				 transfer->step);
		if (transfer->user)
			copy_chunk(transfer, offset, size);
		else
			ret = move_chunk(transfer, id, offset, size, status);
		if (ret || (int32_t)*status < 0)
			return ret;
		transfer->crc = crc32(transfer->crc, escape_data(), size);
		compare(transfer, offset, size);
		offset += size;
	}
	return EXIT_OK;
}

static int run(struct transfer *transfer, const struct options *options)
{
	DXGKARGCB_MAP_PHYSICAL_MEMORY args;
	uint32_t status, unmap_status, id;
	uint64_t object;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (ret)
		return ret;
	transfer->size = options->size;
	transfer->step = options->step;
	if (!options->has_size) {
		ret = object_runs(object, 0, 0, &transfer->size);
		if (ret)
			return ret;
		if (!transfer->size)
			return output_status(STATUS_INVALID_HANDLE);
		transfer->size -= options->offset;
	}
	ret = view_map(options, object, transfer->size, &args, &id, &status);
	if (ret)
		return ret;
	if ((int32_t)status < 0)
		return output_status(status);
	if (args.AccessMode == DXGK_ACCESS_MODE_USER_MODE)
		transfer->user =
			(unsigned char *)args.pMappedAddress + args.Offset;
	ret = move(transfer, id, &status);
	if (!ret)
		ret = view_unmap(id, &unmap_status);
	else
		view_unmap(id, &unmap_status);
	if (ret)
		return ret;
	if ((int32_t)status >= 0)
		status = unmap_status;
	if ((int32_t)status >= 0 && transfer->mismatch)
		status = STATUS_DATA_ERROR;
	ret = output_status(status);
	output_number("size", transfer->size);
	output_hex("crc32", transfer->crc);
	return ret;
}

int command_write(const struct options *options)
{
	struct transfer transfer = { .write = true, .value = options->value };

	return run(&transfer, options);
}

int command_read(const struct options *options)
{
	struct transfer transfer = {
		.compare = options->has_expect,
		.value = options->expect,
	};
	int ret = run(&transfer, options);

	if (options->has_expect && ret <= EXIT_NTSTATUS)
		output_bool("mismatch", transfer.mismatch);
	if (transfer.mismatch) {
		output_hex("mismatch_offset", transfer.mismatch_offset);
		output_hex("expected", transfer.expected);
		output_hex("found", transfer.found);
	}
	return ret;
}
