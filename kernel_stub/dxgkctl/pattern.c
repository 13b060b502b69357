// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Pictures in which no pixel resembles its neighbours, drawn into an object.
 *
 * A pixel is the low bits of the word x * A ^ y * B + seed * C; whoever looks
 * at the screen can tell what must be there.
 */
#include <string.h>

#include "dxgkctl.h"
#include "ntstatus.h"

#define PATTERN_X 0x9e3779b1u
#define PATTERN_Y 0x85ebca77u
#define PATTERN_SEED 0xc2b2ae3du

static uint32_t pixel(uint32_t x, uint32_t y, uint32_t seed)
{
	uint32_t word = (x * PATTERN_X ^ y * PATTERN_Y) + seed * PATTERN_SEED;

	return word ^ word >> 15;
}

static void draw_row(unsigned char *to, const struct options *options,
		     uint32_t y, uint32_t seed)
{
	uint32_t x;

	/* memcpy: an odd pitch puts pixels anywhere. */
	for (x = 0; x < options->width; x++) {
		uint32_t word = pixel(x, y, seed);
		uint16_t half = word;

		if (options->format == VDXGK_FORMAT_RGB565)
			memcpy(to + 2 * x, &half, 2);
		else
			memcpy(to + 4 * (size_t)x, &word, 4);
	}
}

static size_t pixel_size(const struct options *options)
{
	return options->format == VDXGK_FORMAT_RGB565 ? 2 : 4;
}

uint64_t surface_pitch(const struct options *options)
{
	return options->pitch ? options->pitch :
				options->width * pixel_size(options);
}

int pattern_draw(const struct options *options, uint64_t object, uint64_t seed,
		 uint32_t *status)
{
	size_t row = options->width * pixel_size(options);
	size_t pitch = surface_pitch(options);
	struct options view = *options;
	DXGKARGCB_MAP_PHYSICAL_MEMORY args;
	uint32_t id, unmap_status;
	unsigned char *at;
	uint64_t y;
	int ret;

	if (!options->width || !options->height || pitch < row ||
	    options->width > VDXGK_SURFACE_MAX_SIDE ||
	    options->height > VDXGK_SURFACE_MAX_SIDE)
		return output_error(EXIT_USAGE,
				    "--width, --height or --pitch");
	view.user = true;
	ret = view_map(&view, object, pitch * (options->height - 1) + row,
		       &args, &id, status);
	if (ret || (int32_t)*status < 0)
		return ret;
	at = (unsigned char *)args.pMappedAddress + args.Offset;
	for (y = 0; y < options->height; y++)
		draw_row(at + y * pitch, options, y, seed);
	ret = view_unmap(id, &unmap_status);
	if ((int32_t)unmap_status < 0)
		*status = unmap_status;
	return ret;
}

/* Transparent, opaque and between, in all colours. */
void pattern_cursor(unsigned char *to, uint64_t seed)
{
	uint32_t x, y;

	for (y = 0; y < VDXGK_CURSOR_SIDE; y++) {
		for (x = 0; x < VDXGK_CURSOR_SIDE; x++, to += 4) {
			uint32_t word = pixel(x, y, seed);

			memcpy(to, &word, 4);
		}
	}
}

int command_pattern(const struct options *options)
{
	uint64_t object;
	uint32_t status;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (!ret)
		ret = pattern_draw(options, object, options->seed, &status);
	return ret ? ret : output_status(status);
}
