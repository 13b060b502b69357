"""The page's files, all of them in memory: a path is a key, and there is nothing to traverse."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from aiohttp import web

from vdxgk_lab.trees import Tree

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_NOVNC = "usr/share/novnc"


class Files:
    """The page, and noVNC's modules from the tree that set-up made."""

    def __init__(self, novnc: Tree) -> None:
        self.contents: dict[str, tuple[bytes, str]] = {}
        """By path: bytes and media type."""
        page = importlib.resources.files(__package__).joinpath("static")
        with importlib.resources.as_file(page) as directory:
            self._add("", directory, ".")
        for folder in ("core", "vendor"):
            self._add("novnc/", novnc.root / _NOVNC, folder)

    def _add(self, prefix: str, root: Path, folder: str) -> None:
        for path in (root / folder).rglob("*"):
            if path.suffix in _TYPES and path.is_file():
                name = prefix + path.relative_to(root).as_posix()
                self.contents[name] = (path.read_bytes(), _TYPES[path.suffix])

    async def serve(self, request: web.Request) -> web.Response:
        """One file; `/` is the page."""
        found = self.contents.get(request.match_info["name"] or "index.html")
        if found is None:
            raise web.HTTPNotFound(text="There is no such file.\n")
        return web.Response(body=found[0], content_type=found[1], charset="utf-8")
