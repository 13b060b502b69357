"""The layouts of kernel_stub/include/vdxgk_channel.h, for Python.

That header is the definition; a test compiles it and compares every size,
offset and constant with what stands here.  A structure ``Request`` is
``struct vdxgk_request``, a constant ``REG_MAGIC`` is ``VDXGK_REG_MAGIC``.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint32, c_uint64
from typing import ClassVar

PCI_CAP_ID = 0x09
PCI_CAP_VERSION = 1
LINKS_MAX = 4
MAGIC = 0x47584456
VERSION = 1

REG_MAGIC = 0x00
REG_VERSION = 0x04
REG_FEATURES = 0x08
REG_STATUS = 0x0C
REG_CONTROL = 0x10
REG_DMA_BITS = 0x14
REG_CHANNEL_DOORBELL = 0x18
REG_ENGINE_DOORBELL = 0x1C
REG_FAULT_COUNT = 0x20
REG_FAULT_INFO = 0x24
REG_FAULT_ADDRESS_LOW = 0x28
REG_FAULT_ADDRESS_HIGH = 0x2C
REG_FRAMEBUFFER_PAGES = 0x30
REG_SCANOUT_CONTROL = 0x40
REG_SCANOUT_FLIP = 0x44
REG_SCANOUT_CURSOR = 0x48
REG_SCANOUT_CURSOR_POSITION = 0x4C
REG_PAGE_SIZE = 0x1000

FEATURE_MESSAGE_DMA = 0x1
FEATURE_FAULT_INJECTION = 0x2

STATUS_READY = 0x1
STATUS_BROKEN = 0x2

CONTROL_RESET = 0x1

FAULT_VALID = 0x80000000
FAULT_WRITE = 0x40000000
FAULT_REASON_MASK = 0x000000FF

FAULT_UNMAPPED = 1
FAULT_FORBIDDEN = 2
FAULT_ADDRESS_WIDTH = 3
FAULT_BUS_MASTER_OFF = 4
FAULT_REFUSED = 5
FAULT_INACCESSIBLE = 6

VECTOR_CHANNEL = 0
VECTOR_EVENT = 1
VECTOR_ENGINE = 2
VECTOR_SCANOUT = 3
VECTORS = 4

RING_REQUESTS = 0
RING_COMPLETIONS = 1
RING_EVENTS = 2
RING_COMMANDS = 3
RING_COMMAND_COMPLETIONS = 4
RINGS = 5
RING_ENTRIES = 256

SHARED_REQUESTS = 0x01000
SHARED_COMPLETIONS = 0x09000
SHARED_EVENTS = 0x11000
SHARED_COMMANDS = 0x15000
SHARED_COMMAND_COMPLETIONS = 0x19000
SHARED_SCANOUT = 0x1D000
SHARED_SURFACE_RUNS = 0x20000
SHARED_CURSOR_PICTURE = 0xA0000
SHARED_BULK = 0xB0000

OP_START_ADAPTER = 1
OP_STOP_ADAPTER = 2
OP_DONATE = 3
OP_RECLAIM = 4
OP_CREATE_OBJECT = 5
OP_DESTROY_OBJECT = 6
OP_OPEN_OBJECT = 7
OP_CLOSE_OBJECT = 8
OP_MAP_OBJECT = 9
OP_UNMAP_OBJECT = 10
OP_ALLOCATE_ADL = 11
OP_COMMIT_ADL = 12
OP_FREE_ADL = 13
OP_RELEASE_ADL = 14
OP_QUERY_LIST = 15
OP_RESERVE_SAVE_AREA = 16
OP_PIN_SAVE_AREA = 17
OP_UNPIN_SAVE_AREA = 18
OP_OLDER_CALLBACK = 19
OP_BEGIN_EXCLUSIVE = 20
OP_END_EXCLUSIVE = 21

OLDER_ALLOCATE_CONTIGUOUS_MEMORY = 0
OLDER_FREE_CONTIGUOUS_MEMORY = 1
OLDER_ALLOCATE_PAGES_FOR_MDL = 2
OLDER_FREE_PAGES_FROM_MDL = 3
OLDER_PIN_FRAME_BUFFER_FOR_SAVE = 4
OLDER_MAP_FRAME_BUFFER_POINTER = 5
OLDER_UNMAP_FRAME_BUFFER_POINTER = 6
OLDER_MAP_MDL_TO_IOMMU = 7
OLDER_UNMAP_MDL_FROM_IOMMU = 8

IOMMU_NONE = 0
IOMMU_TRANSLATED = 1

MODE_AUTO = 0
MODE_PHYSICAL = 1
MODE_LOGICAL = 2

NT_MORE_MEMORY = 0xC0000016

EVENT_FAULT = 1
EVENT_REMAP_FAILURE = 2
EVENT_BUGCHECK = 3
EVENT_MEMORY_SURPLUS = 4
EVENT_EXCLUSIVE_VIOLATION = 5

ENGINE_NOP = 0
ENGINE_COPY = 1
ENGINE_FILL = 2
ENGINE_CRC32 = 3
ENGINE_MESSAGES = 0x1
ENGINE_MAX_SIZE = 0x40000000

SCANOUT_ENABLE = 0x1
SCANOUT_BLANK = 0x2
SCANOUT_VBLANK_INTERRUPT = 0x4
SCANOUT_HZ = 60

FORMAT_XRGB8888 = 1
FORMAT_ARGB8888 = 2
FORMAT_RGB565 = 3

SURFACES = 2
SURFACE_MAX_SIDE = 4096
SURFACE_MAX_SIZE = 0x4000000
SURFACE_MAX_RUNS = 16384
SURFACE_MESSAGES = 0x1

CURSOR_SIDE = 64
CURSOR_VISIBLE = 0x1
CURSOR_MEMORY = 0x2
CURSOR_MESSAGES = 0x4


class PciCap(ctypes.LittleEndianStructure):
    """The vendor-specific capability that locates the channel."""

    _fields_: ClassVar = [
        ("cap_id", c_uint8),
        ("cap_next", c_uint8),
        ("cap_length", c_uint8),
        ("version", c_uint8),
        ("magic", c_uint32),
        ("bar", c_uint8),
        ("dma_bits", c_uint8),
        ("link_index", c_uint8),
        ("link_count", c_uint8),
        ("registers_offset", c_uint32),
        ("shared_offset", c_uint32),
        ("shared_size", c_uint32),
        ("chain", c_uint32),
    ]


class Ring(ctypes.LittleEndianStructure):
    """Indices and notification of one ring."""

    _fields_: ClassVar = [
        ("producer", c_uint32),
        ("reserved0", c_uint32 * 15),
        ("consumer", c_uint32),
        ("notify", c_uint32),
        ("lost", c_uint32),
        ("reserved1", c_uint32 * 13),
    ]


class Request(ctypes.LittleEndianStructure):
    """A channel request."""

    _fields_: ClassVar = [
        ("op", c_uint32),
        ("flags", c_uint32),
        ("cookie", c_uint64),
        ("data_offset", c_uint32),
        ("data_size", c_uint32),
        ("args", c_uint8 * 104),
    ]


class Completion(ctypes.LittleEndianStructure):
    """A channel completion."""

    _fields_: ClassVar = [
        ("cookie", c_uint64),
        ("status", c_uint32),
        ("data_count", c_uint32),
        ("result", c_uint8 * 112),
    ]


class Range(ctypes.LittleEndianStructure):
    """A range of guest-physical memory."""

    _fields_: ClassVar = [("base", c_uint64), ("size", c_uint64)]


class Mapping(ctypes.LittleEndianStructure):
    """What the guest must map where."""

    _fields_: ClassVar = [("logical", c_uint64), ("physical", c_uint64), ("size", c_uint64)]


class StartArgs(ctypes.LittleEndianStructure):
    """START_ADAPTER's arguments."""

    _fields_: ClassVar = [
        ("highest_visible", c_uint64),
        ("iommu_caps", c_uint32),
        ("iommu", c_uint32),
        ("highest_ram", c_uint64),
        ("aperture_start", c_uint64),
        ("aperture_end", c_uint64),
        ("probe_gpa", c_uint64),
        ("probe_value", c_uint64),
        ("mode", c_uint32),
        ("reserved", c_uint32),
    ]


class StartResult(ctypes.LittleEndianStructure):
    """START_ADAPTER's result."""

    _fields_: ClassVar = [
        ("adapter", c_uint64),
        ("mode", c_uint32),
        ("reserved", c_uint32),
        ("logical_start", c_uint64),
        ("logical_end", c_uint64),
    ]


class StopArgs(ctypes.LittleEndianStructure):
    """STOP_ADAPTER's arguments."""

    _fields_: ClassVar = [("adapter", c_uint64)]


class StopResult(ctypes.LittleEndianStructure):
    """STOP_ADAPTER's result."""

    _fields_: ClassVar = [("leaked_objects", c_uint32), ("leaked_adls", c_uint32)]


class ReclaimArgs(ctypes.LittleEndianStructure):
    """RECLAIM's arguments."""

    _fields_: ClassVar = [("all", c_uint32), ("reserved", c_uint32)]


class MemoryWanted(ctypes.LittleEndianStructure):
    """CREATE_OBJECT's result with NT_MORE_MEMORY."""

    _fields_: ClassVar = [
        ("size", c_uint64),
        ("alignment", c_uint64),
        ("lowest", c_uint64),
        ("highest", c_uint64),
    ]


class CreateResult(ctypes.LittleEndianStructure):
    """CREATE_OBJECT's result."""

    _fields_: ClassVar = [
        ("object", c_uint64),
        ("adapter_object", c_uint64),
        ("size", c_uint64),
        ("run_count", c_uint32),
        ("zero", c_uint32),
    ]


class OpenResult(ctypes.LittleEndianStructure):
    """OPEN_OBJECT's result."""

    _fields_: ClassVar = [("adapter_object", c_uint64)]


class MapResult(ctypes.LittleEndianStructure):
    """MAP_OBJECT's result."""

    _fields_: ClassVar = [
        ("token", c_uint64),
        ("offset", c_uint64),
        ("size", c_uint64),
        ("cache_type", c_uint32),
        ("writable", c_uint32),
        ("run_count", c_uint32),
        ("reserved", c_uint32),
    ]


class UnmapArgs(ctypes.LittleEndianStructure):
    """UNMAP_OBJECT's arguments."""

    _fields_: ClassVar = [("token", c_uint64)]


class AllocateAdlResult(ctypes.LittleEndianStructure):
    """ALLOCATE_ADL's result."""

    _fields_: ClassVar = [
        ("adl", c_uint64),
        ("page_count", c_uint32),
        ("contiguous", c_uint32),
        ("mapping_count", c_uint32),
        ("map_needed", c_uint32),
        ("run_count", c_uint32),
        ("reserved", c_uint32),
    ]


class SaveAreaArgs(ctypes.LittleEndianStructure):
    """Arguments of RESERVE_, PIN_ and UNPIN_SAVE_AREA."""

    _fields_: ClassVar = [
        ("adapter", c_uint64),
        ("size", c_uint64),
        ("physical_adapter", c_uint32),
        ("flags", c_uint32),
    ]


class PinResult(ctypes.LittleEndianStructure):
    """PIN_SAVE_AREA's result."""

    _fields_: ClassVar = [
        ("list", AllocateAdlResult),
        ("object", c_uint64),
        ("adapter_object", c_uint64),
        ("object_size", c_uint64),
    ]


class OlderArgs(ctypes.LittleEndianStructure):
    """OLDER_CALLBACK's arguments."""

    _fields_: ClassVar = [("adapter", c_uint64), ("callback", c_uint32), ("reserved", c_uint32)]


class ExclusiveArgs(ctypes.LittleEndianStructure):
    """Arguments of BEGIN_EXCLUSIVE and END_EXCLUSIVE."""

    _fields_: ClassVar = [("adapter", c_uint64), ("mode", c_uint32), ("reserved", c_uint32)]


class EndExclusiveResult(ctypes.LittleEndianStructure):
    """END_EXCLUSIVE's result."""

    _fields_: ClassVar = [
        ("start", StartResult),
        ("violations", c_uint32),
        ("reserved", c_uint32),
    ]


class AdlArgs(ctypes.LittleEndianStructure):
    """Arguments of COMMIT_ADL, FREE_ADL and RELEASE_ADL."""

    _fields_: ClassVar = [("adapter_object", c_uint64), ("adl", c_uint64)]


class QueryListArgs(ctypes.LittleEndianStructure):
    """QUERY_LIST's arguments."""

    _fields_: ClassVar = [("handle", c_uint64), ("first", c_uint32), ("reserved", c_uint32)]


class Event(ctypes.LittleEndianStructure):
    """A backend event."""

    _fields_: ClassVar = [
        ("type", c_uint32),
        ("code", c_uint32),
        ("parameters", c_uint64 * 7),
    ]


class EngineCommand(ctypes.LittleEndianStructure):
    """A command to the DMA engine."""

    _fields_: ClassVar = [
        ("op", c_uint32),
        ("flags", c_uint32),
        ("fence", c_uint64),
        ("source", c_uint64),
        ("destination", c_uint64),
        ("size", c_uint64),
        ("value", c_uint64),
        ("step", c_uint64),
        ("reserved", c_uint64),
    ]


class EngineCompletion(ctypes.LittleEndianStructure):
    """What the DMA engine answers."""

    _fields_: ClassVar = [
        ("fence", c_uint64),
        ("status", c_uint32),
        ("fault", c_uint32),
        ("fault_address", c_uint64),
        ("done", c_uint64),
        ("result", c_uint64),
        ("reserved", c_uint64 * 3),
    ]


class Surface(ctypes.LittleEndianStructure):
    """A surface to be shown."""

    _fields_: ClassVar = [
        ("format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("pitch", c_uint32),
        ("flags", c_uint32),
        ("run_count", c_uint32),
        ("offset", c_uint64),
        ("sequence", c_uint64),
        ("reserved", c_uint64 * 3),
    ]


class Cursor(ctypes.LittleEndianStructure):
    """A cursor to be loaded."""

    _fields_: ClassVar = [
        ("flags", c_uint32),
        ("hot_x", c_uint32),
        ("hot_y", c_uint32),
        ("reserved0", c_uint32),
        ("pages", c_uint64 * 4),
        ("reserved1", c_uint64 * 2),
    ]


class ScanoutState(ctypes.LittleEndianStructure):
    """What the display pipe tells."""

    _fields_: ClassVar = [
        ("version", c_uint32),
        ("status", c_uint32),
        ("sequence", c_uint64),
        ("flip_time", c_uint64),
        ("flip_vblank", c_uint64),
        ("vblank", c_uint64),
        ("vblank_time", c_uint64),
        ("fault", c_uint32),
        ("cursor_status", c_uint32),
        ("fault_address", c_uint64),
    ]


class Scanout(ctypes.LittleEndianStructure):
    """The display pipe's part of the shared memory."""

    _fields_: ClassVar = [
        ("surfaces", Surface * 2),
        ("cursor", Cursor),
        ("state", ScanoutState),
    ]
