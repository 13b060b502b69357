// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The screen: present surfaces, flip between two, the cursor.
 */
#include <string.h>

#include "dxgkctl.h"
#include "ntstatus.h"

static int screen(uint32_t action, struct vdxgk_escape_screen *to,
		  uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_SCREEN);
	int ret;

	escape->u.screen.action = action;
	ret = escape_call(0, status);
	*to = escape->u.screen;
	return ret;
}

static int present(const struct options *options, uint64_t adl,
		   uint64_t *sequence, uint32_t *status)
{
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_PRESENT);
	struct vdxgk_surface *surface = &escape->u.present.surface;
	int ret;

	escape->u.present.adl = adl;
	surface->format = options->format;
	surface->width = options->width;
	surface->height = options->height;
	surface->pitch = surface_pitch(options);
	surface->offset = options->offset;
	surface->flags = options->messages ? VDXGK_SURFACE_MESSAGES : 0;
	ret = escape_call(0, status);
	*sequence = surface->sequence;
	return ret;
}

/* The count of interrupts is taken before each look, so that none is missed. */
static int wait_flip(uint64_t sequence, uint64_t timeout_ms,
		     struct vdxgk_escape_screen *to, uint32_t *status)
{
	uint64_t deadline = milliseconds() + timeout_ms;
	struct vdxgk_ioctl_interrupt_wait wait = {
		.vector = VDXGK_VECTOR_SCANOUT,
	};

	for (;;) {
		int ret = device_ioctl(VDXGK_IOCTL_INTERRUPT_WAIT, &wait);

		if (!ret)
			ret = screen(VDXGK_SCREEN_QUERY, to, status);
		if (ret || (int32_t)*status < 0)
			return ret;
		if (to->state.sequence == sequence) {
			*status = to->state.status;
			return EXIT_OK;
		}
		wait.timeout_ms = milliseconds_until(deadline);
		if (!wait.timeout_ms) {
			*status = STATUS_IO_TIMEOUT;
			return EXIT_OK;
		}
	}
}

static int present_and_wait(const struct options *options, uint64_t adl,
			    struct vdxgk_escape_screen *to, uint32_t *status)
{
	uint64_t sequence;
	int ret = present(options, adl, &sequence, status);

	if (ret || (int32_t)*status < 0)
		return ret;
	return wait_flip(sequence, options->timeout * 1000, to, status);
}

static void print_screen(const struct vdxgk_escape_screen *to)
{
	output_bool("enabled", to->control & VDXGK_SCANOUT_ENABLE);
	output_bool("blank", to->control & VDXGK_SCANOUT_BLANK);
	output_number("presented", to->presented);
	output_number("sequence", to->state.sequence);
	output_number("flip_time", to->state.flip_time);
	output_number("flip_vblank", to->state.flip_vblank);
	output_number("vblank", to->state.vblank);
	output_hex("fault", to->state.fault);
	output_hex("fault_address", to->state.fault_address);
	output_string("cursor_status", nt_name(to->state.cursor_status));
}

int command_present(const struct options *options)
{
	struct vdxgk_escape_screen shown = { 0 };
	uint32_t status;
	uint64_t adl;
	int ret = options_handle(options, 0, "ADL", &adl);

	if (!ret)
		ret = present_and_wait(options, adl, &shown, &status);
	if (ret)
		return ret;
	ret = output_status(status);
	print_screen(&shown);
	return ret;
}

int command_flip(const struct options *options)
{
	bool draws = options->positional_count > 2;
	struct vdxgk_escape_screen shown = { 0 };
	uint64_t adls[2], objects[2] = { 0 };
	uint64_t at, first = 0;
	uint32_t status = 0;
	int ret = EXIT_OK;

	for (at = 0; at < 2 && !ret; at++) {
		ret = options_handle(options, at, "ADL", &adls[at]);
		if (!ret && draws)
			ret = options_handle(options, at + 2, "OBJECT",
					     &objects[at]);
	}
	for (at = 0; at < options->count && !ret; at++) {
		if (draws) {
			ret = pattern_draw(options, objects[at % 2],
					   options->seed + at, &status);
			if (ret || (int32_t)status < 0)
				break;
		}
		ret = present_and_wait(options, adls[at % 2], &shown, &status);
		if ((int32_t)status < 0)
			break;
		if (!at)
			first = shown.state.flip_time;
	}
	if (ret)
		return ret;
	ret = output_status(status);
	output_number("flips", at);
	output_number("nanoseconds", shown.state.flip_time - first);
	print_screen(&shown);
	return ret;
}

int command_screen(const struct options *options)
{
	static const char *const actions[] = {
		[VDXGK_SCREEN_QUERY] = "query",
		[VDXGK_SCREEN_SHOW] = "show",
		[VDXGK_SCREEN_BLANK] = "blank",
		[VDXGK_SCREEN_RETURN] = "return",
		[VDXGK_SCREEN_VBLANKS] = "vblanks",
		[VDXGK_SCREEN_NO_VBLANKS] = "no-vblanks",
	};
	const size_t count = sizeof(actions) / sizeof(actions[0]);
	const char *wanted = options->positional_count ?
				     options->positional[0] :
				     actions[VDXGK_SCREEN_QUERY];
	struct vdxgk_escape_screen shown;
	uint32_t action, status;
	int ret;

	for (action = 0; action < count; action++)
		if (!strcmp(actions[action], wanted))
			break;
	if (action == count)
		return output_error(EXIT_USAGE, "%s is nothing for a screen",
				    wanted);
	ret = screen(action, &shown, &status);
	if (ret)
		return ret;
	ret = output_status(status);
	print_screen(&shown);
	return ret;
}

int command_cursor(const struct options *options)
{
	const char *action = options->positional_count ?
				     options->positional[0] :
				     "";
	struct vdxgk_escape *escape = escape_new(VDXGK_ESCAPE_CURSOR);
	struct vdxgk_escape_cursor *cursor = &escape->u.cursor;
	uint64_t adl = 0;
	uint32_t status;
	int ret = EXIT_OK;

	cursor->position = (uint16_t)options->x | (uint32_t)options->y << 16;
	cursor->hot_x = options->hot_x;
	cursor->hot_y = options->hot_y;
	if (!strcmp(action, "move")) {
		cursor->move_only = 1;
	} else if (!strcmp(action, "show")) {
		cursor->flags = VDXGK_CURSOR_VISIBLE;
		if (options->positional_count > 1)
			ret = options_handle(options, 1, "ADL", &adl);
		if (adl)
			cursor->flags |= VDXGK_CURSOR_MEMORY;
		if (options->messages)
			cursor->flags |= VDXGK_CURSOR_MESSAGES;
		cursor->adl = adl;
		pattern_cursor(escape_data(), options->seed);
	} else if (strcmp(action, "hide")) {
		ret = output_error(EXIT_USAGE, "show, move or hide is missing");
	}
	if (!ret)
		ret = escape_call(VDXGK_CURSOR_SIDE * VDXGK_CURSOR_SIDE * 4,
				  &status);
	return ret ? ret : output_status(status);
}
