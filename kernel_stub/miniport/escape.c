// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * DxgkDdiEscape: one command from user mode.  Dxgkrnl has copied the private
 * driver data; its content is the user's and is not trusted.
 */
#include "miniport.h"

NTSTATUS miniport_escape(HANDLE hAdapter, const DXGKARG_ESCAPE *args)
{
	struct miniport *mp = hAdapter;
	struct vdxgk_escape *escape = args->pPrivateDriverData;
	SIZE_T room;
	void *data;

	if (args->PrivateDriverDataSize < sizeof(*escape))
		return STATUS_BUFFER_TOO_SMALL;
	if (!mp->started || mp->exclusive)
		return STATUS_INVALID_DEVICE_STATE;
	data = escape + 1;
	room = args->PrivateDriverDataSize - sizeof(*escape);

	switch (escape->command) {
	case VDXGK_ESCAPE_CREATE:
		return miniport_create(mp, escape->flags, &escape->u.create);
	case VDXGK_ESCAPE_DESTROY:
		return miniport_destroy(mp, &escape->u.destroy);
	case VDXGK_ESCAPE_OPEN:
		return miniport_open(mp, escape->flags, &escape->u.open);
	case VDXGK_ESCAPE_CLOSE:
		return miniport_close(mp, &escape->u.close);
	case VDXGK_ESCAPE_ALLOCATE_ADL:
		return miniport_allocate_adl(mp, &escape->u.allocate_adl);
	case VDXGK_ESCAPE_QUERY_ADL:
		return miniport_query_adl(mp, &escape->u.query_adl, data, room);
	case VDXGK_ESCAPE_FREE_ADL:
		return miniport_free_adl(mp, &escape->u.free_adl);
	case VDXGK_ESCAPE_MAP:
		return miniport_map(mp, &escape->u.map);
	case VDXGK_ESCAPE_UNMAP:
		return miniport_unmap(mp, &escape->u.unmap);
	case VDXGK_ESCAPE_READ:
		return miniport_access(mp, &escape->u.access, 0, data, room);
	case VDXGK_ESCAPE_WRITE:
		return miniport_access(mp, &escape->u.access, 1, data, room);
	case VDXGK_ESCAPE_SUBMIT:
		return miniport_engine_submit(&mp->engine,
					      &escape->u.submit.command);
	case VDXGK_ESCAPE_POLL:
		return miniport_engine_poll(&mp->engine,
					    &escape->u.poll.completion);
	case VDXGK_ESCAPE_PIN:
		return miniport_pin(mp, escape->flags, &escape->u.pin, data,
				    room);
	case VDXGK_ESCAPE_UNPIN:
		return miniport_unpin(mp, escape->flags, &escape->u.unpin);
	case VDXGK_ESCAPE_OLDER:
		return miniport_older(mp, escape->flags, &escape->u.older);
	case VDXGK_ESCAPE_PRESENT:
		return miniport_present(mp, &escape->u.present);
	case VDXGK_ESCAPE_SCREEN:
		return miniport_screen(mp, &escape->u.screen);
	case VDXGK_ESCAPE_CURSOR:
		return miniport_cursor(mp, &escape->u.cursor, data, room);
	default:
		return STATUS_INVALID_PARAMETER;
	}
}
