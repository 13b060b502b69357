"""The API page names everything that is public, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pyvfio_user

PAGE = Path(__file__).parents[3] / "docs" / "pyvfio-user.md"


def test_every_public_name_is_on_the_page() -> None:
    words = set(re.findall(r"\w+", PAGE.read_text()))
    assert set(pyvfio_user.__all__) <= words


def test_every_name_on_the_page_is_public() -> None:
    quoted = re.findall(r"`([A-Z]\w*[a-z]\w*)(?:\(|`|\.(\w+))", PAGE.read_text())
    assert len(quoted) > 40
    for name, attribute in quoted:
        found = getattr(pyvfio_user, name)
        if attribute and name not in ("Device", "IrqType"):  # attributes of instances
            assert hasattr(found, attribute), f"{name}.{attribute}"
