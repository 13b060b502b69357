"""docs/device.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from vdxgk.channel import layout

PAGE = Path(__file__).parents[3] / "docs/device.md"


def test_every_register_is_documented_at_its_offset() -> None:
    row = re.compile(r"^\| (0x[0-9a-f]{2})(?:, 0x[0-9a-f]{2})? \| \w+ \| (\w+) \|", re.MULTILINE)
    rows = row.findall(PAGE.read_text())
    documented = {name: int(offset, 16) for offset, name in rows}
    registers = {
        name.removeprefix("REG_"): value
        for name, value in vars(layout).items()
        if name.startswith("REG_") and name != "REG_PAGE_SIZE"
    }
    registers["FAULT_ADDRESS"] = registers.pop("FAULT_ADDRESS_LOW")
    assert registers.pop("FAULT_ADDRESS_HIGH") == registers["FAULT_ADDRESS"] + 4
    assert documented == registers


def test_the_shared_memory_map_is_documented() -> None:
    text = PAGE.read_text()
    for name, value in vars(layout).items():
        if name.startswith("SHARED_"):
            assert f"| {value:#07x} |" in text, name
