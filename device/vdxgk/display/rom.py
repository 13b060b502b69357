"""The boot ROM: what a BIOS runs to show anything (PCI Firmware 3.0, 5.1)."""

from __future__ import annotations

from pathlib import Path

_SIGNATURE = b"\x55\xaa"
_DATA_POINTER = 0x18
_DATA_SIGNATURE = b"PCIR"
_UNIT = 512


class RomError(ValueError):
    """The file is no option ROM for this device."""


def read_rom(path: Path, vendor_id: int, device_id: int) -> bytes:
    """An option ROM's image.

    A BIOS ignores a ROM with another vendor or device ID, or with a wrong
    checksum, without a word; so both are checked here.

    Raises RomError with the reason, OSError if the file cannot be read.
    """
    image = path.read_bytes()
    if image[:2] != _SIGNATURE or len(image) < _UNIT:
        raise RomError(f"{path} is no option ROM: it does not begin with 55 aa")
    size = image[2] * _UNIT
    if not 0 < size <= len(image):
        raise RomError(f"{path} is cut off: it says {size} bytes, and has {len(image)}")
    if sum(image[:size]) & 0xFF:
        raise RomError(f"{path} is damaged: its checksum is not 0")
    data = int.from_bytes(image[_DATA_POINTER : _DATA_POINTER + 2], "little")
    if image[data : data + 4] != _DATA_SIGNATURE:
        raise RomError(f"{path} has no PCI data structure")
    ids = tuple(int.from_bytes(image[data + at : data + at + 2], "little") for at in (4, 6))
    if ids != (vendor_id, device_id):
        raise RomError(
            f"{path} is for the device {ids[0]:04x}:{ids[1]:04x}, "
            f"this one is {vendor_id:04x}:{device_id:04x}"
        )
    return image
