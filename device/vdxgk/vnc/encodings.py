"""How rectangles are sent (RFC 6143, 7.7): raw, or ZRLE; and cursors.

CURSOR_WITH_ALPHA is of the RFB community's list of extensions ("Cursor With Alpha").
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
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
_FASTEST = 1


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
        self._compressor = zlib.compressobj(_FASTEST)

    def encode(self, change: Change, pixel_format: PixelFormat) -> bytes:
        """One rectangle."""
        pixels = pixel_format.encode(change)[..., pixel_format.compact]
        parts = []
        for y in range(0, pixels.shape[0], _TILE):
            for x in range(0, pixels.shape[1], _TILE):
                tile = pixels[y : y + _TILE, x : x + _TILE]
                first = tile[0, 0]
                if (tile == first).all():
                    parts.append(_TILE_SOLID + first.tobytes())
                else:
                    parts.append(_TILE_RAW + tile.tobytes())
        data = self._compressor.compress(b"".join(parts))
        data += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return struct.pack(">I", len(data)) + data
