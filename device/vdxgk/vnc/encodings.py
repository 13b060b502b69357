"""How rectangles are sent (RFC 6143, 7.7): raw, or ZRLE; and cursors.

CURSOR_WITH_ALPHA is of the RFB community's list of extensions ("Cursor With Alpha").
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from vdxgk.display.changes import Change
from vdxgk.vnc.pixel_format import PixelFormat

RAW = 0
ZRLE = 16
DESKTOP_SIZE = -223
CURSOR = -239
CURSOR_WITH_ALPHA = -314

_TILE = 64
_TILE_RAW = b"\x00"
_TILE_SOLID = b"\x01"
_LEVEL = 2  # of ISA-L's three, as quick as the first here


def raw(change: Change, pixel_format: PixelFormat) -> memoryview:
    """Pixels, line by line (7.7.1); perhaps in place."""
    return np.ascontiguousarray(pixel_format.encode(change)).reshape(-1).data


def cursor(picture: NDArray[np.uint8], pixel_format: PixelFormat) -> bytes:
    """A cursor's pixels and its mask (7.8.1); what is more than half opaque is opaque.

    ``picture`` is height x width x 4: blue, green, red, alpha.
    """
    pixels = pixel_format.convert(picture[..., 2::-1])
    return pixels.tobytes() + np.packbits(picture[..., 3] > 127, axis=1).tobytes()


def cursor_with_alpha(picture: NDArray[np.uint8]) -> bytes:
    """A cursor's pixels, raw: red, green, blue, each times alpha, and alpha.

    Whatever the viewer's pixel format is.  ``picture`` as for ``cursor``.
    """
    alpha = picture[..., 3:].astype(np.uint16)
    colours = (picture[..., 2::-1] * alpha + 127) // 255
    pixels = np.concatenate((colours.astype(np.uint8), picture[..., 3:]), axis=2)
    return struct.pack(">i", RAW) + pixels.tobytes()


class Zrle:
    """Tiles of 64 x 64 pixels, of one colour or not, through one zlib stream (7.7.6).

    The stream lasts as long as the connection: every rectangle must be sent.
    """

    def __init__(self) -> None:
        self._compressor = isal_zlib.compressobj(_LEVEL)

    def encode(self, change: Change, pixel_format: PixelFormat) -> bytes:
        """One rectangle."""
        pixels = pixel_format.encode(change)
        whole = pixels.view(f"u{pixels.shape[2]}")[..., 0]
        compact = _contiguous(pixels[..., pixel_format.compact])
        parts = []
        for y in range(0, pixels.shape[0], _TILE):
            for x in range(0, pixels.shape[1], _TILE):
                tile = whole[y : y + _TILE, x : x + _TILE]
                if (tile == tile[0, 0]).all():
                    parts.append(_TILE_SOLID + compact[y, x].tobytes())
                else:
                    parts.append(_TILE_RAW + compact[y : y + _TILE, x : x + _TILE].tobytes())
        data = self._compressor.compress(b"".join(parts))
        data += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return struct.pack(">I", len(data)) + data


def _contiguous(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Without the bytes between; one after another, which numpy copies with one stride."""
    found = np.empty(pixels.shape, np.uint8)
    for byte in range(pixels.shape[2]):
        found[..., byte] = pixels[..., byte]
    return found
