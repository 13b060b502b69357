"""Figures, by matplotlib, which is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdxgk_lab.errors import Misconfigured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches of 100 pixels.  Raises Misconfigured without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Misconfigured(
            "figures need matplotlib, which is not installed.", "pip install 'vdxgk[plots]'"
        ) from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")
