"""The examples of pyvfio-user as processes, as a user starts them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "device" / "pyvfio-user"

# The log is the sign that the socket is there.
_RUN = (
    "import logging, runpy, sys; logging.basicConfig(level='INFO');"
    " sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@contextlib.contextmanager
def running(name: str, path: str) -> Iterator[None]:
    """Serve an example at a socket path; it must end well."""
    script = PACKAGE / "examples" / f"{name}.py"
    command = [sys.executable, "-c", _RUN, str(script), path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = process.stderr.readline()
        try:
            assert "listening" in log
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            log += process.stderr.read()
        assert process.wait() == 0, log
        assert "Traceback" not in log, log
