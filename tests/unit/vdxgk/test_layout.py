"""The header is the definition: Python's declarations are compared with it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from tests.unit.conftest import Constants
from vdxgk.channel import layout, service
from vdxgk.memory import ddi

HEADER = Path(__file__).parents[3] / "kernel_stub/include/vdxgk_channel.h"
DDI_HEADER = HEADER.with_name("vdxgk_ddi.h")


def structures(module: object) -> dict[str, type[ctypes.LittleEndianStructure]]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, ctypes.LittleEndianStructure)
        and value is not ctypes.LittleEndianStructure
        and not name.startswith("_")
    }


def fields(kind: type[ctypes.Structure]) -> list[str]:
    return [field[0] for field in kind._fields_]


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def expressions() -> dict[str, int]:
    """C expressions over the headers, with the values that Python believes in."""
    wanted: dict[str, int] = {}
    for name, value in vars(layout).items():
        if name.isupper() and isinstance(value, int):
            wanted[f"VDXGK_{name}"] = value
    for name, kind in structures(layout).items():
        c_name = f"struct vdxgk_{snake(name)}"
        wanted[f"sizeof({c_name})"] = ctypes.sizeof(kind)
        for field in fields(kind):
            wanted[f"offsetof({c_name}, {field})"] = getattr(kind, field).offset
    for name, kind in structures(ddi).items():
        c_name = f"DXGKARGCB_{snake(name).upper()}"
        wanted[f"sizeof({c_name})"] = ctypes.sizeof(kind)
        for field in fields(kind):
            if field not in ("u", "Padding"):
                wanted[f"offsetof({c_name}, {field})"] = getattr(kind, field).offset
    for union in ("Mdl", "ContiguousMemory", "Section", "IOSpace"):
        kind = type(getattr(ddi.CreatePhysicalMemoryObject(), union))
        for field in fields(kind):
            if not field.startswith("Padding"):
                wanted[f"offsetof(DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT, {union}.{field})"] = (
                    getattr(ddi.CreatePhysicalMemoryObject, union).offset
                    + getattr(kind, field).offset
                )
    return wanted


def test_python_and_c_agree(c_constants: Constants) -> None:
    wanted = expressions()
    assert len(wanted) > 200
    lines = ",\n".join(f"(unsigned long long)({expression})" for expression in wanted)
    data = c_constants(
        f'#include "{HEADER.name}"\n#include "{DDI_HEADER.name}"\n'
        "#define offsetof __builtin_offsetof\n"
        f"const unsigned long long values[] = {{\n{lines}\n}};\n"
    )
    values = memoryview(data).cast("Q")
    found = dict(zip(wanted, values, strict=True))
    assert found == wanted


def test_every_constant_and_structure_of_the_header_is_declared() -> None:
    text = HEADER.read_text()
    constants = set(re.findall(r"#define VDXGK_(\w+) ", text)) - {"CHANNEL_H"}
    assert constants == {name for name, value in vars(layout).items() if name.isupper()}
    names = set(re.findall(r"^struct vdxgk_(\w+) \{", text, re.MULTILINE))
    assert names == {snake(name) for name in structures(layout)}


def test_what_each_request_passes_is_as_declared() -> None:
    entry = bytes(range(1, 129))
    request = layout.Request.from_buffer_copy(entry)
    assert service.REQUEST.unpack(entry) == tuple(
        bytes(value) if isinstance(value, ctypes.Array) else value
        for value in (getattr(request, name) for name in fields(layout.Request))
    )
    completion = layout.Completion(cookie=1, status=2, data_count=3, result=(4, 5))
    assert service.COMPLETION.pack(1, 2, 3, b"\4\5") == bytes(completion)
