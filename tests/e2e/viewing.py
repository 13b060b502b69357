"""A person in front of a viewer."""

from __future__ import annotations

from tests.unit.vdxgk.vnc.viewer import SocketViewer

SHIFT, RETURN = 0xFFE1, 0xFF0D
SHIFTED = '!@#$%^&*()_+{}|:"~<>?'
"""What a US keyboard gives with the shift key only, besides capital letters."""


def type_in(viewer: SocketViewer, text: str) -> None:
    """As a person at a US keyboard, who waits for each character to appear; then Return.

    QEMU's keyboard has room for a few keys only. Of a space nobody would see the echo,
    but for the cursor that moves.
    """
    for character in text:
        viewer.request()
        shifted = character.isupper() or character in SHIFTED
        if shifted:
            viewer.key(True, SHIFT)
        viewer.key(True, ord(character))
        viewer.key(False, ord(character))
        if shifted:
            viewer.key(False, SHIFT)
        viewer.update()
    viewer.key(True, RETURN)
    viewer.key(False, RETURN)
