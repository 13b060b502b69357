"""What the adapter holds right now, as plain data for status and reports.

Numbers are integers; addresses are bytes.  An answer is bounded, whatever the
guest makes: totals are always told, the newest are shown.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from vdxgk.adapter import Adapter
from vdxgk.display.display import Display
from vdxgk.memory.backend import Backend
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.objects import AddressDescriptorList, PhysicalMemoryObject

MAX_OBJECTS = 1024
"""Objects shown."""
MAX_RUNS = 64
"""Runs shown of one object, and faults shown."""
MAX_LISTS = 16
"""Lists shown of one object."""


def describe(adapter: Adapter, objects: int = MAX_OBJECTS, runs: int = MAX_RUNS) -> dict[str, Any]:
    """The whole adapter; ``objects`` and ``runs`` of each, if fewer than the limits will do."""
    backend = adapter.backend
    with backend.lock:
        memory = _memory(backend, min(objects, MAX_OBJECTS), min(runs, MAX_RUNS))
        ram = {"bytes": backend.ram.size, "highest": backend.ram.highest}
    statistics = adapter.device.dma.statistics
    return {
        "connected": adapter.connected_now,
        "connections": adapter.connections,
        "dma_bits": adapter.options.dma_bits,
        "link": {"index": adapter.link.index, "count": adapter.link.count},
        "guest_ram": ram,
        "register_accesses": adapter.registers.accesses,
        "dma_mappings": len(adapter.device.dma),
        "dma_maps": statistics.maps,
        "dma_unmaps": statistics.unmaps,
        "engine": {
            "commands": adapter.engine.commands,
            "bytes_read": adapter.engine.bytes_read,
            "bytes_written": adapter.engine.bytes_written,
        },
        "display": _display(adapter.display),
        "faults": {
            "count": adapter.faults.count,
            "last": [
                {
                    "address": fault.address,
                    "size": fault.size,
                    "access": "write" if fault.write else "read",
                    "reason": fault.reason.name,
                    "time": fault.time,
                }
                for fault in adapter.faults.history()[-MAX_RUNS:]
            ],
        },
        "exclusive_violations": adapter.exclusive_violations,
        **memory,
    }


def _display(display: Display) -> dict[str, Any]:
    pipe = display.pipe
    width, height = display.size()
    area = display.registers.scanout()
    if pipe and pipe.enabled:
        source, pixel_format, blank = "surface", pipe.format, pipe.blank
    else:
        source, pixel_format = "framebuffer", area.format if area else None
        blank = display.registers.blank or area is None
    return {
        "vram": display.framebuffer.size,
        "preferred_mode": str(display.preferred),
        "source": source,
        "blank": blank,
        "mode": f"{width}x{height}" if pixel_format else None,
        "format": pixel_format.label if pixel_format else None,
    }


def _memory(backend: Backend, objects: int, runs: int) -> dict[str, Any]:
    save_areas = [area.opening.target for a in backend.adapters for area in a.save_areas.values()]
    shown = backend.objects.newest(objects + len(save_areas))
    return {
        "adapters": [
            {
                "handle": a.handle,
                "mode": a.mode.name.lower(),
                "translated": a.translated,
                "space": _space(a.space) if a.space else None,
            }
            for a in backend.adapters
        ],
        "donated_bytes": backend.pool.donated,
        "free_bytes": backend.pool.free_bytes,
        "object_count": len(backend.objects) - len(save_areas),
        "list_count": len(backend.lists),
        "objects": [_object(target, runs) for target in shown if not target.system],
        "save_areas": [_object(target, runs) for target in save_areas],
    }


def _space(space: LogicalAddressSpace) -> dict[str, Any]:
    return {
        "start": space.start,
        "end": space.end,
        "free_bytes": space.free_bytes,
        "guard": space.GUARD,
        "reserved": [list(item) for item in space.reserved[:MAX_RUNS]],
    }


def _object(target: PhysicalMemoryObject, runs: int) -> dict[str, Any]:
    opening = target.opening
    return {
        "handle": target.handle,
        "type": target.type.name,
        "cache": target.cache.name,
        "size": target.size,
        "locked": target.locked,
        "run_count": len(target.runs),
        "runs": [list(run) for run in target.runs[:runs]],
        "cpu_mappings": target.cpu_mappings,
        "adapter_object": opening.handle if opening else None,
        "list_count": len(opening.lists) if opening else 0,
        "lists": [_list(adl) for adl in _newest(opening.lists)] if opening else [],
    }


def _newest(lists: dict[int, AddressDescriptorList]) -> list[AddressDescriptorList]:
    return list(islice(reversed(lists.values()), MAX_LISTS))[::-1]


def _list(adl: AddressDescriptorList) -> dict[str, Any]:
    return {
        "handle": adl.handle,
        "state": adl.state.value,
        "offset": adl.offset,
        "size": adl.size,
        "logical": adl.mappings[0].logical,
        "in_a_row": adl.in_a_row,
        "contiguous": adl.contiguous,
        "mappings": len(adl.mappings),
        "announced": adl.announced,
    }
