"""What the adapter holds right now, as plain data for status and reports.

Numbers are integers; addresses are bytes.
"""

from __future__ import annotations

from typing import Any

from vdxgk.adapter import Adapter
from vdxgk.display.display import Display
from vdxgk.memory.backend import Backend
from vdxgk.memory.objects import AddressDescriptorList, PhysicalMemoryObject

MAX_RUNS = 64
"""Runs shown of one object; their number is always told."""


def describe(adapter: Adapter) -> dict[str, Any]:
    """The whole adapter."""
    backend = adapter.backend
    with backend.lock:
        memory = _memory(backend)
        ram = {"bytes": backend.ram.size, "highest": backend.ram.highest}
    statistics = adapter.device.dma.statistics
    return {
        "connected": adapter.connected_now,
        "connections": adapter.connections,
        "dma_bits": adapter.options.dma_bits,
        "guest_ram": ram,
        "register_accesses": adapter.registers.accesses,
        "dma_mappings": len(adapter.device.dma),
        "dma_maps": statistics.maps,
        "dma_unmaps": statistics.unmaps,
        "display": _display(adapter.display),
        "faults": {
            "count": adapter.faults.count,
            "last": [
                {
                    "address": fault.address,
                    "size": fault.size,
                    "access": "write" if fault.write else "read",
                    "reason": fault.reason.name,
                }
                for fault in adapter.faults.history()[-MAX_RUNS:]
            ],
        },
        "exclusive_violations": adapter.exclusive_violations,
        **memory,
    }


def _display(display: Display) -> dict[str, Any]:
    area = display.registers.scanout()
    blank = display.registers.blank or area is None
    return {
        "vram": display.framebuffer.size,
        "preferred_mode": str(display.preferred),
        "blank": blank,
        "mode": f"{area.width}x{area.height}" if area else None,
        "format": area.format.label if area else None,
    }


def _memory(backend: Backend) -> dict[str, Any]:
    return {
        "adapters": [
            {"handle": a.handle, "mode": a.mode.name.lower(), "translated": a.translated}
            for a in backend.adapters
        ],
        "donated_bytes": backend.pool.donated,
        "free_bytes": backend.pool.free_bytes,
        "objects": [_object(target) for target in backend.objects if not target.system],
        "save_areas": [_object(target) for target in backend.objects if target.system],
    }


def _object(target: PhysicalMemoryObject) -> dict[str, Any]:
    opening = target.opening
    return {
        "handle": target.handle,
        "type": target.type.name,
        "cache": target.cache.name,
        "size": target.size,
        "locked": target.locked,
        "run_count": len(target.runs),
        "runs": [list(run) for run in target.runs[:MAX_RUNS]],
        "cpu_mappings": target.cpu_mappings,
        "adapter_object": opening.handle if opening else None,
        "lists": [_list(adl) for adl in opening.lists.values()] if opening else [],
    }


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
