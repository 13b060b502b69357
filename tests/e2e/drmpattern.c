// SPDX-License-Identifier: Apache-2.0
/*
 * Sets a mode through DRM and shows a pattern in which no pixel resembles its
 * neighbours, until it is killed.
 *
 *	drmpattern WIDTH HEIGHT [BUFFER_WIDTH BUFFER_HEIGHT X Y]
 *
 * Ends when the pattern is on the screen; a child stays behind to keep it
 * there.  The last four pan within a larger buffer.
 */
#include <drm/drm.h>
#include <drm/drm_mode.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_IDS 16

static void must(int result, const char *what)
{
	if (result >= 0)
		return;
	perror(what);
	exit(1);
}

static uint32_t number(char **argv, int argc, int index, uint32_t otherwise)
{
	return index < argc ? (uint32_t)strtoul(argv[index], NULL, 0) : otherwise;
}

static uint32_t pattern(uint32_t x, uint32_t y)
{
	uint32_t value = (x * 0x9e3779b1u) ^ (y * 0x85ebca77u);

	value ^= value >> 15;
	value *= 0xc2b2ae3du;
	return value ^ value >> 13;
}

static struct drm_mode_modeinfo timing(uint32_t width, uint32_t height)
{
	struct drm_mode_modeinfo mode = {
		.hdisplay = width,
		.hsync_start = width + 48,
		.hsync_end = width + 80,
		.htotal = width + 160,
		.vdisplay = height,
		.vsync_start = height + 3,
		.vsync_end = height + 9,
		.vtotal = height + 30,
		.vrefresh = 60,
	};

	mode.clock = mode.htotal * mode.vtotal * 60 / 1000;
	snprintf(mode.name, sizeof(mode.name), "%ux%u", width, height);
	return mode;
}

int main(int argc, char **argv)
{
	uint32_t crtcs[MAX_IDS], connectors[MAX_IDS];
	struct drm_mode_card_res resources = {
		.crtc_id_ptr = (uintptr_t)crtcs,
		.connector_id_ptr = (uintptr_t)connectors,
		.count_crtcs = MAX_IDS,
		.count_connectors = MAX_IDS,
	};
	uint32_t width = number(argv, argc, 1, 640), height = number(argv, argc, 2, 480);
	struct drm_mode_create_dumb buffer = {
		.width = number(argv, argc, 3, width),
		.height = number(argv, argc, 4, height),
		.bpp = 32,
	};
	struct drm_mode_fb_cmd frame = { .bpp = 32, .depth = 24 };
	struct drm_mode_map_dumb place = { 0 };
	struct drm_mode_crtc crtc = {
		.x = number(argv, argc, 5, 0),
		.y = number(argv, argc, 6, 0),
		.count_connectors = 1,
		.mode_valid = 1,
		.mode = timing(width, height),
	};
	uint8_t *pixels;
	int card = open("/dev/dri/card0", O_RDWR);
	pid_t child;

	must(card, "/dev/dri/card0");
	must(ioctl(card, DRM_IOCTL_MODE_GETRESOURCES, &resources), "resources");
	must(ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &buffer), "buffer");
	frame.width = buffer.width;
	frame.height = buffer.height;
	frame.pitch = buffer.pitch;
	frame.handle = buffer.handle;
	place.handle = buffer.handle;
	must(ioctl(card, DRM_IOCTL_MODE_ADDFB, &frame), "frame buffer");
	must(ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &place), "map");
	pixels = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, place.offset);
	must(pixels == MAP_FAILED ? -1 : 0, "mmap");
	for (uint32_t y = 0; y < buffer.height; y++) {
		for (uint32_t x = 0; x < buffer.width; x++) {
			uint32_t value = pattern(x, y);

			memcpy(pixels + (size_t)y * buffer.pitch + 4 * x, &value, 4);
		}
	}
	crtc.crtc_id = crtcs[0];
	crtc.fb_id = frame.fb_id;
	crtc.set_connectors_ptr = (uintptr_t)connectors;
	must(ioctl(card, DRM_IOCTL_MODE_SETCRTC, &crtc), "mode");

	child = fork();
	must(child, "fork");
	if (child)
		return 0;
	// The agent waits until nobody holds the ends of these.
	for (int standard = 0; standard < 3; standard++)
		close(standard);
	for (;;)
		pause();
}
