"""Time limits, scaled by one factor: emulation on a busy machine is slow."""

import math
import os

from vdxgk_lab.errors import Misconfigured

_EMULATED = 4.0


def scale(emulated: bool) -> float:
    """`$VDXGK_TIMEOUT_SCALE`, else 4 for an emulated CPU and 1 for a real one.

    Raises Misconfigured if the variable is no positive number.
    """
    text = os.environ.get("VDXGK_TIMEOUT_SCALE")
    if text is None:
        return _EMULATED if emulated else 1.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise Misconfigured(f"VDXGK_TIMEOUT_SCALE={text} is no positive number.")
    return value
