"""From X11 keysyms, which viewers send, to QEMU's key codes, on a US keyboard.

Keysyms: X11's keysymdef.h. Key codes: QEMU's QKeyCode (QMP reference).
"""

_SHIFTED = dict(zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True))
_PUNCTUATION = {
    **{" ": "spc", "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right"},
    **{"\\": "backslash", ";": "semicolon", "'": "apostrophe", "`": "grave_accent"},
    **{",": "comma", ".": "dot", "/": "slash"},
}
_NAMED = {
    **{0xFF08: "backspace", 0xFF09: "tab", 0xFF0D: "ret", 0xFF13: "pause", 0xFF14: "scroll_lock"},
    **{0xFF1B: "esc", 0xFF50: "home", 0xFF51: "left", 0xFF52: "up", 0xFF53: "right"},
    **{0xFF54: "down", 0xFF55: "pgup", 0xFF56: "pgdn", 0xFF57: "end", 0xFF61: "print"},
    **{0xFF63: "insert", 0xFF67: "menu", 0xFF7F: "num_lock", 0xFFFF: "delete"},
    **{0xFF8D: "kp_enter", 0xFFAA: "kp_multiply", 0xFFAB: "kp_add", 0xFFAD: "kp_subtract"},
    **{0xFFAE: "kp_decimal", 0xFFAF: "kp_divide", 0xFE03: "alt_r", 0xFE20: "tab"},
    **{0xFFE1: "shift", 0xFFE2: "shift_r", 0xFFE3: "ctrl", 0xFFE4: "ctrl_r", 0xFFE5: "caps_lock"},
    **{0xFFE7: "meta_l", 0xFFE8: "meta_r", 0xFFE9: "alt", 0xFFEA: "alt_r"},
    **{0xFFEB: "meta_l", 0xFFEC: "meta_r"},
    **{0xFFB0 + digit: f"kp_{digit}" for digit in range(10)},
    **{0xFFBE + number: f"f{number + 1}" for number in range(12)},
}


def key_code(keysym: int) -> str | None:
    """QEMU's name for the key; None for one that a US keyboard lacks.

    The viewer sends shift as a key of its own, so `A` and `a` are the same.
    """
    if name := _NAMED.get(keysym):
        return name
    if not 0x20 <= keysym < 0x7F:
        return None
    character = _SHIFTED.get(chr(keysym), chr(keysym)).lower()
    return _PUNCTUATION.get(character, character)
