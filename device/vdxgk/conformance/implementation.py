"""What the runner asks of an implementation of the callbacks.

An implementation is anything that can carry out the calls: Dxgkrnl
behind a test driver, the backend's classes, a raw channel.  Arguments and
outputs go by the DDI's field names, members of the CREATE union with the
union member's name before them (``Mdl.LowAddress``).  Numbers are what the
header says: enumerations, flags, handles and pointers alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Arguments = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One callback with its arguments.  A field that is absent is 0.

    ``wanted``: the outputs and observations that will be looked at, for
    implementations to which an observation costs something.
    """

    name: str
    arguments: Arguments
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a callback did.

    ``status``: its NTSTATUS.  None where the callback returns nothing and the
    implementation cannot tell; then only bugchecks show a refusal.
    ``outputs``: the DDI's output fields, after success.
    ``runs``: of a created object, its guest-physical runs (base, size) in
    order; ``zeroed``: whether all of its bytes are 0; ``pages`` and
    ``contiguous``: a list's page numbers in order and its flag; ``cache`` and
    ``writable``: how a view is mapped, as DXGK_MEMORY_CACHING_TYPE has it, and
    whether it can be written.  Each may be None where the implementation
    cannot observe it.
    ``bugchecks``: (code, parameter 1) of what Windows would have stopped for.
    """

    status: int | None
    outputs: Mapping[str, int] = field(default_factory=dict)
    runs: Sequence[tuple[int, int]] | None = None
    zeroed: bool | None = None
    pages: Sequence[int] | None = None
    contiguous: bool | None = None
    cache: int | None = None
    writable: bool | None = None
    bugchecks: Sequence[tuple[int, int]] = ()

    @property
    def succeeded(self) -> bool:
        """Whether the call had its effect."""
        if self.status is None:
            return not self.bugchecks
        return self.status < 0x80000000


class Implementation(Protocol):
    """The callbacks, one method each.

    The machine behind it has at least 4 GiB of RAM: some of it free between
    16 MiB and 1 GiB, some between 4 GiB and 5 GiB.
    """

    @property
    def environment(self) -> Mapping[str, int]:
        """What vectors may refer to.

        ``adapter``: the DeviceHandle of a started adapter in logical mode;
        ``highest_visible``: its HighestVisibleAddress; ``io_space``: the
        address of 4 MiB that the driver may wrap, such as its framebuffer;
        ``save_area``: what the driver answered to
        DXGKQAITYPE_FRAMEBUFFERSAVESIZE, at least 64 KiB;
        with the feature ``second-adapter`` also ``second_adapter``, of
        another logical adapter, with ``physical-addressing`` also
        ``physical_adapter``, of one that was started in physical mode.
        """

    @property
    def features(self) -> frozenset[str]:
        """Which of ``vector.FEATURES`` it has."""

    def create_physical_memory_object(self, call: Call) -> Answer:
        """DxgkCbCreatePhysicalMemoryObject."""

    def open_physical_memory_object(self, call: Call) -> Answer:
        """DxgkCbOpenPhysicalMemoryObject."""

    def close_physical_memory_object(self, call: Call) -> Answer:
        """DxgkCbClosePhysicalMemoryObject."""

    def destroy_physical_memory_object(self, call: Call) -> Answer:
        """DxgkCbDestroyPhysicalMemoryObject."""

    def map_physical_memory(self, call: Call) -> Answer:
        """DxgkCbMapPhysicalMemory."""

    def unmap_physical_memory(self, call: Call) -> Answer:
        """DxgkCbUnmapPhysicalMemory."""

    def allocate_adl(self, call: Call) -> Answer:
        """DxgkCbAllocateAdl; ``pAdl`` is any number that names the list."""

    def free_adl(self, call: Call) -> Answer:
        """DxgkCbFreeAdl."""

    def pin_frame_buffer_for_save2(self, call: Call) -> Answer:
        """DxgkCbPinFrameBufferForSave2; ``pAdl`` is any number but 0."""

    def unpin_frame_buffer_for_save(self, call: Call) -> Answer:
        """DxgkCbUnpinFrameBufferForSave."""

    def older_callback(self, call: Call) -> Answer:
        """The callback of ``vector.OLDER`` that ``call`` names, with any arguments."""


class BatchImplementation(Protocol):
    """An implementation to which it is cheaper to carry out many calls at once."""

    @property
    def environment(self) -> Mapping[str, int]:
        """As Implementation has it."""

    @property
    def features(self) -> frozenset[str]:
        """As Implementation has them."""

    def carry_out(self, calls: Sequence[Call]) -> Sequence[Answer]:
        """Carry out ``calls`` in order; one answer for each."""


def carry_out(implementation: Implementation, call: Call) -> Answer:
    """One call by its name."""
    methods = {
        "CreatePhysicalMemoryObject": implementation.create_physical_memory_object,
        "OpenPhysicalMemoryObject": implementation.open_physical_memory_object,
        "ClosePhysicalMemoryObject": implementation.close_physical_memory_object,
        "DestroyPhysicalMemoryObject": implementation.destroy_physical_memory_object,
        "MapPhysicalMemory": implementation.map_physical_memory,
        "UnmapPhysicalMemory": implementation.unmap_physical_memory,
        "AllocateAdl": implementation.allocate_adl,
        "FreeAdl": implementation.free_adl,
        "PinFrameBufferForSave2": implementation.pin_frame_buffer_for_save2,
        "UnpinFrameBufferForSave": implementation.unpin_frame_buffer_for_save,
    }
    return methods.get(call.name, implementation.older_callback)(call)
