/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * dxgkctl: the guest command that drives the miniport through its escape.
 */
#ifndef DXGKCTL_H
#define DXGKCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "vdxgk_ddi_check.h"
#include "vdxgk_escape.h"
#include "vdxgk_ioctl.h"

enum exit_status {
	EXIT_OK = 0,
	EXIT_NTSTATUS = 1, /* the driver or the backend refused */
	EXIT_USAGE = 2,
	EXIT_SYSTEM = 3, /* no device, or an errno */
};

/* device.c */
void device_path(const char *path);
int device_ioctl(unsigned long request, void *argument);
int device_descriptor(void);
struct vdxgk_escape *escape_new(uint32_t command);
void *escape_data(void);
int escape_call(size_t data_size, uint32_t *status);

/* nt_names.c */
const char *nt_name(uint32_t status);

/* output.c: one object, as JSON on a line or as "key: value" lines. */
void output_json(bool json);
bool output_is_json(void);
void output_begin(const char *command);
void output_number(const char *key, uint64_t value);
void output_hex(const char *key, uint64_t value);
void output_bool(const char *key, bool value);
void output_string(const char *key, const char *value);
void output_list_begin(const char *key);
void output_pair_hex(uint64_t first, uint64_t second);
void output_item_hex(uint64_t value);
void output_item_event(const struct vdxgk_event *event);
void output_list_end(void);
int output_status(uint32_t status);
int output_error(enum exit_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void output_end(void);

/* options.c */
struct options {
	uint64_t size, offset, low, high, boundary, skip, flags, adapter;
	uint64_t value, step, expect, source, destination, page, first, count;
	uint64_t context, limit, timeout, attributes, desired_access, index;
	uint64_t width, height, pitch, seed, x, y, hot_x, hot_y;
	bool has_size, has_adapter, has_expect, has_flags;
	bool no_adapter, messages, require_contiguous, prefer_contiguous, user;
	uint32_t type, cache, access, format;
	char **positional;
	int positional_count;
};

int options_parse(struct options *options, int argc, char **argv);
int options_handle(const struct options *options, int index, const char *name,
		   uint64_t *value);
bool parse_number(const char *text, uint64_t *value);

/* objects.c, lists.c, save.c, access.c, abuse.c, dma.c, shim.c, display.c,
 * pattern.c: the commands. */
int command_create(const struct options *options);
int command_open(const struct options *options);
int command_close(const struct options *options);
int command_destroy(const struct options *options);
int command_adl(const struct options *options);
int command_pages(const struct options *options);
int command_free(const struct options *options);
int command_map(const struct options *options);
int command_unmap(const struct options *options);
int command_write(const struct options *options);
int command_read(const struct options *options);
int command_abuse(const struct options *options);
int command_peek(const struct options *options);
int command_dma(const struct options *options);
int command_runs(const struct options *options);
int command_pin(const struct options *options);
int command_unpin(const struct options *options);
int command_older(const struct options *options);
int command_exclusive(const struct options *options);
int command_frames(const struct options *options);
int command_canary(const struct options *options);
int command_sabotage(const struct options *options);
int command_status(const struct options *options);
int command_events(const struct options *options);
int command_pattern(const struct options *options);
int command_present(const struct options *options);
int command_flip(const struct options *options);
int command_screen(const struct options *options);
int command_cursor(const struct options *options);

/* access.c: MapPhysicalMemory; its NTSTATUS is in *status. */
int view_map(const struct options *options, uint64_t object, uint64_t size,
	     DXGKARGCB_MAP_PHYSICAL_MEMORY *args, uint32_t *id,
	     uint32_t *status);
int view_unmap(uint32_t id, uint32_t *status);

/* pattern.c: draw into an object, through a view of this process. */
int pattern_draw(const struct options *options, uint64_t object, uint64_t seed,
		 uint32_t *status);
void pattern_cursor(unsigned char *to, uint64_t seed);
uint64_t surface_pitch(const struct options *options);

/* dma.c: for INTERRUPT_WAIT. */
uint64_t milliseconds(void);
uint32_t milliseconds_until(uint64_t deadline);

/* objects.c: size and run count, and the first runs if `limit` isn't 0. */
int object_runs(uint64_t object, uint32_t first, uint32_t limit,
		uint64_t *size);

#endif
