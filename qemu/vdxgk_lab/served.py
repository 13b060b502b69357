"""A device of one's own, served from this process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from pyvfio_user import Device, Server
from vdxgk_lab.errors import LabError

_STOP_SECONDS = 60


@contextlib.contextmanager
def served(device: Device, path: Path) -> Iterator[Path]:
    """Serve `device` at `path`, one client after the other, until the block ends.

    Raises LabError at the end if its handlers have not come back by then.
    """
    server = Server(device, str(path))
    server.open()
    thread = threading.Thread(target=server.serve, name=path.stem)
    thread.start()
    try:
        yield path
    finally:
        server.stop()
        thread.join(_STOP_SECONDS)
    if thread.is_alive():
        raise LabError(f"the device at {path} still works on a request.")
