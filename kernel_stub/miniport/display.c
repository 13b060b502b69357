// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The display pipe: surfaces and cursors, which lists lead to.
 *
 * Dxgkrnl's framebuffer, the one that firmware uses, has the screen until the
 * first PRESENT and gets it back by SCREEN_RETURN or StopDevice.
 */
#include "miniport.h"

#define PAGE_SIZE_SHIFT 12
#define STATE_TRIES 1000

static volatile struct vdxgk_scanout *scanout(struct miniport *mp)
{
	return (volatile struct vdxgk_scanout *)(mp->engine.shared +
						 VDXGK_SHARED_SCANOUT);
}

static vdxgk_u32 control(struct miniport *mp)
{
	return mp->engine.registers[VDXGK_REG_SCANOUT_CONTROL / 4];
}

static void set_control(struct miniport *mp, vdxgk_u32 value)
{
	mp->engine.registers[VDXGK_REG_SCANOUT_CONTROL / 4] = value;
}

/* A state that the device didn't write meanwhile. */
static NTSTATUS read_state(struct miniport *mp, struct vdxgk_scanout_state *to)
{
	volatile struct vdxgk_scanout_state *from = &scanout(mp)->state;
	ULONG left;

	for (left = STATE_TRIES; left; left--) {
		vdxgk_u32 version = from->version;

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		__builtin_memcpy(to, (const void *)from, sizeof(*to));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(version & 1) && from->version == version)
			return STATUS_SUCCESS;
	}
	return STATUS_DEVICE_PROTOCOL_ERROR;
}

static vdxgk_u64 page_of(const DXGK_ADL *adl, ULONG i)
{
	return adl->Flags.Bits.Contiguous ? adl->BasePageNumber + i :
					    adl->Pages[i];
}

/* Pages in a row become one run. Answers how many there are, 0: too many. */
static vdxgk_u32 write_runs(const DXGK_ADL *adl, struct vdxgk_range *runs)
{
	struct vdxgk_range run = { 0 };
	vdxgk_u32 count = 0;
	ULONG i;

	for (i = 0; i < adl->PageCount; i++) {
		vdxgk_u64 address = page_of(adl, i) << PAGE_SIZE_SHIFT;

		if (count && run.base + run.size == address) {
			run.size += 1u << PAGE_SIZE_SHIFT;
		} else {
			if (count == VDXGK_SURFACE_MAX_RUNS)
				return 0;
			count++;
			run.base = address;
			run.size = 1u << PAGE_SIZE_SHIFT;
		}
		runs[count - 1] = run;
	}
	return count;
}

/* Whether the device hasn't answered the last flip; then its slot is in use. */
static NTSTATUS check_idle(struct miniport *mp)
{
	struct vdxgk_scanout_state state;
	NTSTATUS status;

	if (!mp->flip_pending)
		return STATUS_SUCCESS;
	status = read_state(mp, &state);
	if (!NT_SUCCESS(status))
		return status;
	if (state.sequence != mp->flip_sequence)
		return STATUS_DEVICE_BUSY;
	mp->flip_pending = 0;
	return STATUS_SUCCESS;
}

NTSTATUS miniport_present(struct miniport *mp,
			  struct vdxgk_escape_present *request)
{
	const DXGK_ADL *adl = miniport_adl(mp, request->adl);
	vdxgk_u32 slot = (mp->flip_sequence + 1) % VDXGK_SURFACES;
	struct vdxgk_surface *surface = &request->surface;
	struct vdxgk_range *runs;
	NTSTATUS status;

	if (!adl)
		return STATUS_NOT_FOUND;
	status = check_idle(mp);
	if (!NT_SUCCESS(status))
		return status;
	runs = (struct vdxgk_range *)(mp->engine.shared +
				      VDXGK_SHARED_SURFACE_RUNS) +
	       slot * VDXGK_SURFACE_MAX_RUNS;
	surface->run_count = write_runs(adl, runs);
	if (!surface->run_count)
		return STATUS_INSUFFICIENT_RESOURCES;
	surface->sequence = ++mp->flip_sequence;
	__builtin_memcpy((void *)&scanout(mp)->surfaces[slot], surface,
			 sizeof(*surface));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	mp->flip_pending = 1;
	if (!(control(mp) & VDXGK_SCANOUT_ENABLE))
		set_control(mp, control(mp) | VDXGK_SCANOUT_ENABLE);
	mp->engine.registers[VDXGK_REG_SCANOUT_FLIP / 4] = slot;
	return STATUS_SUCCESS;
}

NTSTATUS miniport_screen(struct miniport *mp,
			 struct vdxgk_escape_screen *request)
{
	vdxgk_u32 now = control(mp);

	switch (request->action) {
	case VDXGK_SCREEN_QUERY:
		break;
	case VDXGK_SCREEN_SHOW:
		set_control(mp, now & ~VDXGK_SCANOUT_BLANK);
		break;
	case VDXGK_SCREEN_BLANK:
		set_control(mp, now | VDXGK_SCANOUT_BLANK);
		break;
	case VDXGK_SCREEN_RETURN:
		miniport_display_stop(mp);
		break;
	case VDXGK_SCREEN_VBLANKS:
		set_control(mp, now | VDXGK_SCANOUT_VBLANK_INTERRUPT);
		break;
	case VDXGK_SCREEN_NO_VBLANKS:
		set_control(mp, now & ~VDXGK_SCANOUT_VBLANK_INTERRUPT);
		break;
	default:
		return STATUS_INVALID_PARAMETER;
	}
	request->control = control(mp);
	request->presented = mp->flip_sequence;
	return read_state(mp, &request->state);
}

NTSTATUS miniport_cursor(struct miniport *mp,
			 const struct vdxgk_escape_cursor *request,
			 const void *data, SIZE_T room)
{
	const SIZE_T size = VDXGK_CURSOR_SIDE * VDXGK_CURSOR_SIDE * 4;
	struct vdxgk_cursor cursor = {
		.flags = request->flags,
		.hot_x = request->hot_x,
		.hot_y = request->hot_y,
	};
	const DXGK_ADL *adl;
	ULONG i;

	if (!(control(mp) & VDXGK_SCANOUT_ENABLE))
		return STATUS_INVALID_DEVICE_STATE;
	mp->engine.registers[VDXGK_REG_SCANOUT_CURSOR_POSITION / 4] =
		request->position;
	if (request->move_only)
		return STATUS_SUCCESS;
	if (request->flags & VDXGK_CURSOR_MEMORY) {
		adl = miniport_adl(mp, request->adl);
		if (!adl)
			return STATUS_NOT_FOUND;
		if (adl->PageCount < 4)
			return STATUS_BUFFER_TOO_SMALL;
		for (i = 0; i < 4; i++)
			cursor.pages[i] = page_of(adl, i) << PAGE_SIZE_SHIFT;
	} else if (request->flags & VDXGK_CURSOR_VISIBLE) {
		if (room < size)
			return STATUS_BUFFER_TOO_SMALL;
		__builtin_memcpy(mp->engine.shared +
					 VDXGK_SHARED_CURSOR_PICTURE,
				 data, size);
	}
	__builtin_memcpy((void *)&scanout(mp)->cursor, &cursor,
			 sizeof(cursor));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	mp->engine.registers[VDXGK_REG_SCANOUT_CURSOR / 4] = 1;
	return STATUS_SUCCESS;
}

void miniport_display_stop(struct miniport *mp)
{
	set_control(mp, 0);
	mp->flip_pending = 0;
}
