"""The report as one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from rich.console import Console

from vdxgk_lab.audit import pictures, text
from vdxgk_lab.audit.report import Analysis

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 1240px; margin: 2em auto; }}
pre {{ line-height: 1.25; overflow-x: auto; }}
img {{ width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
{report}
<img alt="Bytes within reach, logical and guest-physical addresses over time" src="{picture}">
</body>
</html>
"""


def write(
    analysis: Analysis, path: Path, title: str, start: float = 0, end: float | None = None
) -> None:
    """Write it.  Raises Misconfigured without matplotlib."""
    console = Console(file=io.StringIO(), record=True, width=124, highlight=False)
    text.show(analysis.report, console)
    report = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    png = io.BytesIO()
    pictures.draw(analysis, png, title, start, end)
    picture = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    page = _PAGE.format(title=html.escape(title), report=report, picture=picture)
    path.write_text(page, encoding="utf-8")
