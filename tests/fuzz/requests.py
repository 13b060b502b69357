"""What a guest asks for, how often, with which structures, and values at which things break."""

from __future__ import annotations

import ctypes

from vdxgk.channel import layout
from vdxgk.memory import ddi

PAGE = 0x1000
EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 257, 0xFFF, PAGE, PAGE + 1, 3 * PAGE, 1 << 16, 1 << 21),
    *((1 << 21) + PAGE, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF, 1 << 32, 1 << 47),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1),
)
ARGUMENTS: dict[int, type[ctypes.LittleEndianStructure]] = {
    layout.OP_START_ADAPTER: layout.StartArgs,
    layout.OP_STOP_ADAPTER: layout.StopArgs,
    layout.OP_RECLAIM: layout.ReclaimArgs,
    layout.OP_CREATE_OBJECT: ddi.CreatePhysicalMemoryObject,
    layout.OP_DESTROY_OBJECT: ddi.DestroyPhysicalMemoryObject,
    layout.OP_OPEN_OBJECT: ddi.OpenPhysicalMemoryObject,
    layout.OP_CLOSE_OBJECT: ddi.ClosePhysicalMemoryObject,
    layout.OP_MAP_OBJECT: ddi.MapPhysicalMemory,
    layout.OP_UNMAP_OBJECT: layout.UnmapArgs,
    layout.OP_ALLOCATE_ADL: ddi.AllocateAdl,
    layout.OP_COMMIT_ADL: layout.AdlArgs,
    layout.OP_FREE_ADL: layout.AdlArgs,
    layout.OP_RELEASE_ADL: layout.AdlArgs,
    layout.OP_QUERY_LIST: layout.QueryListArgs,
}
OPS = (
    *[layout.OP_STOP_ADAPTER, layout.OP_RECLAIM],
    *[layout.OP_START_ADAPTER, layout.OP_UNMAP_OBJECT] * 2,
    *[layout.OP_CREATE_OBJECT] * 6,
    *[layout.OP_DONATE] * 4,
    *[layout.OP_ALLOCATE_ADL] * 4,
    *[layout.OP_COMMIT_ADL, layout.OP_FREE_ADL, layout.OP_RELEASE_ADL] * 2,
    *[layout.OP_OPEN_OBJECT, layout.OP_CLOSE_OBJECT, layout.OP_DESTROY_OBJECT] * 2,
    *[layout.OP_MAP_OBJECT] * 2,
    layout.OP_QUERY_LIST,
)
"""How often a guest asks for what."""
KINDS = {
    "hAdapter": 0xA1,
    "adapter": 0xA1,
    "hPhysicalMemoryObject": 0xA2,
    "handle": 0xA2,
    "hAdapterMemoryObject": 0xA3,
    "adapter_object": 0xA3,
    "adl": 0xA4,
    "token": 0xA5,
}
"""Fields that hold a handle, and the top byte of the right ones."""
