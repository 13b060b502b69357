"""A private directory for a run: sockets and logs, kept when something fails."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class RunDirectory:
    """A context manager; its path is short, for Unix sockets have 108 bytes for theirs.

    When its block ends by an exception, or with `KEEP=1` in the environment,
    the regular files are copied to a directory below `results`, and the
    exception carries a note that says where.
    """

    def __init__(self, name: str, results: Path = Path("results")) -> None:
        """`name` tells a person what ran."""
        self._name = re.sub(r"[^\w.-]+", "-", name).strip("-") or "run"
        self._results = results
        self.path = Path()
        self.kept: Path | None = None

    def __enter__(self) -> Self:
        """Make it, for this user's eyes only."""
        self.path = Path(tempfile.mkdtemp(prefix="vdxgk-"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove it; keep what a person would want to see."""
        try:
            if error is not None or os.environ.get("KEEP") == "1":
                self.keep()
                if error is not None:
                    error.add_note(f"Logs: {self.kept}")
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def keep(self) -> Path:
        """Copy the files as they are now; answers where they are."""
        if self.kept is None:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            self._results.mkdir(parents=True, exist_ok=True)
            prefix = f"{stamp}-{self._name}-"
            self.kept = Path(tempfile.mkdtemp(prefix=prefix, dir=self._results)).absolute()
        for path in self.path.iterdir():
            if path.is_file():
                shutil.copy(path, self.kept)
        return self.kept
