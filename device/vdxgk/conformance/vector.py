"""A vector: what is called, and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vdxgk.conformance.expression import Condition, Value
from vdxgk.memory.ddi import (
    AccessMode,
    AllocateAdlFlags,
    CacheType,
    MdlFlags,
    PhysicalMemoryType,
    PinFrameBufferFlags,
)

Basis = Literal["documented", "header", "observed", "inferred"]
BASES: tuple[str, ...] = get_args(Basis)

FEATURES = {
    "second-adapter": "two independent logical adapters",
    "physical-addressing": "an adapter in physical mode, which can reach all of RAM",
    "unchecked-frees": "FreeAdl reaches Dxgkrnl with lists and adapter objects that are not live",
}
"""What a vector may require beyond the calls themselves."""


@dataclass(frozen=True, slots=True)
class CallShape:
    """The fields of a call's argument structure.

    ``observations`` are no fields: they are what can be learnt of the result
    (see ``runner.observe``).  ``returns``: whether it returns an NTSTATUS.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    returns: bool = True


OLDER = (
    *("AllocateContiguousMemory", "FreeContiguousMemory", "AllocatePagesForMdl"),
    *("FreePagesFromMdl", "PinFrameBufferForSave", "MapFrameBufferPointer"),
    *("UnmapFrameBufferPointer", "MapMdlToIoMmu", "UnmapMdlFromIoMmu"),
)
"""The callbacks of WDDM 2.4, of which only the adapter is given: any other arguments will do."""

CALLS = {
    "CreatePhysicalMemoryObject": CallShape(
        (
            *("hAdapter", "Size", "Context", "Type", "CacheType"),
            *("Mdl.LowAddress", "Mdl.HighAddress", "Mdl.SkipBytes", "Mdl.Flags"),
            "ContiguousMemory.LowestAcceptableAddress",
            "ContiguousMemory.HighestAcceptableAddress",
            "ContiguousMemory.BoundaryAddressMultiple",
            *("Section.DesiredAccess", "Section.PageProtection", "Section.AllocationAttributes"),
            "IOSpace.BaseAddress",
        ),
        ("hPhysicalMemoryObject", "hAdapterMemoryObject"),
        (
            *("Memory.Runs", "Memory.Size", "Memory.Lowest", "Memory.Highest"),
            *("Memory.Block", "Memory.Alignment", "Memory.Zeroed"),
        ),
    ),
    "OpenPhysicalMemoryObject": CallShape(
        ("hPhysicalMemoryObject", "hAdapter"), ("hAdapterMemoryObject",)
    ),
    "ClosePhysicalMemoryObject": CallShape(("hAdapterMemoryObject",), returns=False),
    "DestroyPhysicalMemoryObject": CallShape(
        ("hPhysicalMemoryObject", "hAdapterMemoryObject"), returns=False
    ),
    "MapPhysicalMemory": CallShape(
        ("hPhysicalMemoryObject", "AccessMode", "Offset", "Size"),
        ("Offset", "Size", "pMappedAddress"),
        ("View.CacheType", "View.Writable"),
    ),
    "UnmapPhysicalMemory": CallShape(
        ("hPhysicalMemoryObject", "pBaseAddress", "Size"), returns=False
    ),
    "AllocateAdl": CallShape(
        ("hAdapterMemoryObject", "Offset", "Size", "Flags"),
        ("pAdl",),
        (
            *("Adl.PageCount", "Adl.Contiguous", "Adl.LastByte"),
            *("Adl.Distinct", "Adl.Consecutive", "Adl.Identity"),
        ),
    ),
    "FreeAdl": CallShape(("hAdapterMemoryObject", "pAdl"), returns=False),
    "PinFrameBufferForSave2": CallShape(
        ("hAdapter", "PhysicalAdapterIndex", "CommitSize", "Flags"),
        ("pAdl",),
        (
            *("Adl.PageCount", "Adl.Contiguous", "Adl.LastByte"),
            *("Adl.Distinct", "Adl.Consecutive"),
        ),
    ),
    "UnpinFrameBufferForSave": CallShape(("hAdapter", "PhysicalAdapterIndex")),
    **{name: CallShape(("hAdapter",)) for name in OLDER},
    "UnmapMdlFromIoMmu": CallShape(("hAdapter",), returns=False),
}

OBSERVATIONS = {
    "Memory.Runs": "runs of neighbouring pages that the object's memory consists of",
    "Memory.Size": "their sum in bytes",
    "Memory.Lowest": "its lowest byte's guest-physical address",
    "Memory.Highest": "its highest byte's guest-physical address",
    "Memory.Block": "the smallest naturally aligned power of two of bytes that holds all of it",
    "Memory.Alignment": "the largest power of two that divides address and size of every run",
    "Memory.Zeroed": "1 if every byte is 0",
    "View.CacheType": "the cache attribute of the mapping, as a DXGK_MEMORY_CACHING_TYPE",
    "View.Writable": "1 if the mapping can be written through",
    "Adl.PageCount": "DXGK_ADL.PageCount",
    "Adl.Contiguous": "DXGK_ADL.Flags.Contiguous",
    "Adl.LastByte": "the address of the last byte of the highest page",
    "Adl.Distinct": "how many different page numbers there are",
    "Adl.Consecutive": "1 if each page number follows the one before it",
    "Adl.Identity": "how many page numbers are those of the object's own pages, each in its place",
}

_PROTECTIONS = {
    "PAGE_NOACCESS": 0x01,
    "PAGE_READONLY": 0x02,
    "PAGE_READWRITE": 0x04,
    "PAGE_WRITECOPY": 0x08,
    "PAGE_EXECUTE": 0x10,
}
_SECTION_ACCESS = {
    "SECTION_QUERY": 0x1,
    "SECTION_MAP_WRITE": 0x2,
    "SECTION_MAP_READ": 0x4,
    "SECTION_MAP_EXECUTE": 0x8,
    "SECTION_EXTEND_SIZE": 0x10,
}

CONSTANTS = {"NULL": 0, "MAX": (1 << 64) - 1}
NAMES: dict[str, dict[str, int]] = {
    "Type": {member.name: member.value for member in PhysicalMemoryType},
    "CacheType": {member.name: member.value for member in CacheType},
    "Mdl.Flags": {
        f"MM_{'' if member is MdlFlags.DONT_ZERO_ALLOCATION else 'ALLOCATE_'}{member.name}": (
            member.value
        )
        for member in MdlFlags
    },
    "AccessMode": {f"{member.name}_MODE": member.value for member in AccessMode},
    "AllocateAdl.Flags": {
        "RequireContiguous": AllocateAdlFlags.REQUIRE_CONTIGUOUS.value,
        "PreferContiguous": AllocateAdlFlags.PREFER_CONTIGUOUS.value,
    },
    "PinFrameBufferForSave2.Flags": {
        "PreferContiguous": PinFrameBufferFlags.PREFER_CONTIGUOUS.value
    },
    "View.CacheType": {member.name: member.value for member in CacheType},
    "Section.PageProtection": _PROTECTIONS,
    "Section.DesiredAccess": _SECTION_ACCESS,
    "Section.AllocationAttributes": {"SEC_COMMIT": 0x08000000, "SEC_RESERVE": 0x04000000},
}
"""The symbols that a field knows, or one call's field; CONSTANTS are known everywhere."""


def names(call: str, field: str) -> dict[str, int]:
    """The symbols that may stand for values of ``field`` in ``call``."""
    return CONSTANTS | NAMES.get(field, {}) | NAMES.get(f"{call}.{field}", {})


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a vector.

    ``status``: the NTSTATUS expected, by name.  For a call that returns
    nothing it is what an implementation that can tell must tell.
    ``outputs``: conditions on output fields and observations.
    ``save``: the name under which later steps refer to the fields.
    ``bugcheck``: (code, parameter 1) expected; otherwise there must be none.
    """

    call: str
    arguments: tuple[tuple[str, Value], ...]
    status: str
    outputs: tuple[tuple[str, tuple[Condition, ...]], ...]
    save: str | None
    bugcheck: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Vector:
    """One case.

    ``basis`` is that of the rule; ``status_basis`` that of the status where it
    is a failure: documentation names almost none.  ``source``: the page.
    """

    id: str
    title: str
    basis: str
    status_basis: str
    source: str
    requires: frozenset[str]
    steps: tuple[Step, ...]

    @property
    def alone(self) -> bool:
        """Whether it uses what there is once only: two such vectors disturb each other."""
        return any(step.call == "PinFrameBufferForSave2" for step in self.steps)


@dataclass(frozen=True, slots=True)
class Family:
    """Vectors that differ in a few values, as the file has them.

    ``id`` and ``title`` and the strings of ``steps`` hold ``{key}`` where the
    ``rows`` differ.  ``steps`` have sequences written out, and are for
    reading: what runs are the ``vectors``, one for each row.
    """

    id: str
    title: str
    steps: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]
    vectors: tuple[Vector, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """One file of vectors, about one call.  ``defaults``: arguments by call and field."""

    name: str
    call: str
    title: str
    about: str
    defaults: Mapping[str, Mapping[str, Any]]
    families: tuple[Family, ...]

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """All of them, in order."""
        return tuple(vector for family in self.families for vector in family.vectors)
