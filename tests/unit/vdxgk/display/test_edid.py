"""The EDID, read back as the standard says (VESA E-EDID A2)."""

from __future__ import annotations

import pytest

from vdxgk.display.edid import Mode, edid


def detailed_timing(block: bytes) -> tuple[int, int, int, int, int]:
    """Clock in Hz, active and blank pixels, active and blank lines."""
    t = block[54:72]
    return (
        int.from_bytes(t[:2], "little") * 10_000,
        t[2] | t[4] >> 4 << 8,
        t[3] | (t[4] & 15) << 8,
        t[5] | t[7] >> 4 << 8,
        t[6] | (t[7] & 15) << 8,
    )


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (640, 480), (1280, 800), (1920, 1080), (3840, 2160)]
)
def test_the_preferred_mode_is_the_first_timing(width: int, height: int) -> None:
    block = edid(Mode(width, height))
    assert len(block) == 128
    assert sum(block) % 256 == 0
    assert block[:8] == bytes([0, 255, 255, 255, 255, 255, 255, 0])
    assert block[24] & 0x02  # the first detailed timing is preferred
    clock, columns, h_blank, lines, v_blank = detailed_timing(block)
    assert (columns, lines) == (width, height)
    frames = clock / ((columns + h_blank) * (lines + v_blank))
    assert frames == pytest.approx(60, rel=0.02)
    sync_start, sync_width = block[54 + 8], block[54 + 9]
    assert sync_start + sync_width < h_blank
    assert (block[54 + 10] >> 4) + (block[54 + 10] & 15) < v_blank
    if width > 100:
        assert v_blank / (frames * (lines + v_blank)) >= 460e-6


def test_the_largest_mode_keeps_its_size_and_loses_frames() -> None:
    clock, columns, _, lines, _ = detailed_timing(edid(Mode(4095, 4095)))
    assert (columns, lines, clock) == (4095, 4095, 655_350_000)


def test_standard_timings_are_what_they_say() -> None:
    block = edid(Mode(1280, 800))
    ratios = [(16, 10), (4, 3), (5, 4), (16, 9)]
    found = []
    for first, second in zip(block[38:54:2], block[39:54:2], strict=True):
        width = (first + 31) * 8
        across, down = ratios[second >> 6]
        found.append((width, width * down // across, 60 + (second & 63)))
    assert found == [
        *((1280, 720, 60), (1280, 800, 60), (1280, 1024, 60), (1440, 900, 60)),
        *((1600, 1200, 60), (1680, 1050, 60), (1920, 1080, 60), (1920, 1200, 60)),
    ]


def test_descriptors() -> None:
    block = edid(Mode(1280, 800))
    tags = [block[at : at + 5] for at in (72, 90, 108)]
    assert tags == [b"\0\0\0\xfd\0", b"\0\0\0\xfc\0", b"\0\0\0\x10\0"]
    assert block[95:108] == b"vdxgk\n       "


@pytest.mark.parametrize(("width", "height"), [(63, 480), (640, 63), (4096, 480), (0, -1)])
def test_modes_that_no_edid_can_name(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="each side"):
        Mode(width, height)
