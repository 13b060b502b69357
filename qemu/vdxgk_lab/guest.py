"""Commands in the guest, through QEMU's guest agent.

Protocol: QEMU's "Guest Agent Protocol Reference" (guest-sync, guest-exec,
guest-exec-status).
"""

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from vdxgk_lab.errors import GuestError, GuestTimeout
from vdxgk_lab.qmp import QmpPeer, Refused

_FIRST_POLL = 0.005
_LAST_POLL = 0.25
_CHUNK = 1 << 20
_ANSWER = 15.0  # seconds within which a living agent answers


@dataclass(frozen=True)
class CommandResult:
    """How a command in the guest ended."""

    args: tuple[str, ...]
    exit_status: int  # as a shell would say it: 128 + n for signal n
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the exit status is 0."""
        return self.exit_status == 0

    def check(self) -> "CommandResult":
        """Itself. Raises GuestError unless the exit status is 0."""
        if not self.ok:
            text = (self.stderr or self.stdout).strip()[-1000:]
            raise GuestError(
                f"{' '.join(self.args)} ended with status {self.exit_status} in the guest.", text
            )
        return self


class Guest:
    """The guest of a running machine."""

    def __init__(self, agent: QmpPeer, time_scale: float) -> None:
        """Talk through `agent`; all time limits are multiplied by `time_scale`."""
        self._agent = agent
        self._scale = time_scale

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the guest has booted and its agent answers.

        Raises VmLost if it does not within `timeout` (scaled) seconds.
        """
        number = secrets.randbits(31)
        answer = self._agent.execute("guest-sync", {"id": number}, timeout * self._scale)
        if answer != number:
            raise GuestError(f"the guest agent answered {answer!r} to a synchronisation.")

    def run(self, args: Sequence[str], timeout: float = 30, stdin: bytes = b"") -> CommandResult:
        """Run a program of the guest to its end; no shell is involved.

        Output that is not UTF-8 shows replacement characters. Raises
        GuestError if the program cannot be started, GuestTimeout if it runs
        longer than `timeout` (scaled) seconds, VmLost if the guest is gone.
        """
        program, *arguments = args
        request: dict[str, object] = {"path": program, "arg": arguments, "capture-output": True}
        if stdin:
            request["input-data"] = base64.b64encode(stdin).decode()
        pid = _integer(self._call("guest-exec", request), "pid")
        limit = time.monotonic() + timeout * self._scale
        pause = _FIRST_POLL
        while not (status := self._call("guest-exec-status", {"pid": pid})).get("exited"):
            if time.monotonic() > limit:
                self._kill(pid)
                raise GuestTimeout(
                    f"{' '.join(args)} did not end within {timeout * self._scale:.0f} s.",
                    "VDXGK_TIMEOUT_SCALE raises all time limits.",
                )
            time.sleep(pause)
            pause = min(2 * pause, _LAST_POLL)
        if "signal" in status:
            exit_status = 128 + _integer(status, "signal")
        else:
            exit_status = _integer(status, "exitcode")
        return CommandResult(
            args=tuple(args),
            exit_status=exit_status,
            stdout=_text(status, "out"),
            stderr=_text(status, "err"),
        )

    def put(self, path: str, content: bytes) -> None:
        """Write a file in the guest.  Raises GuestError if it cannot be written."""
        handle = self._call_for_value("guest-file-open", {"path": path, "mode": "w"})
        try:
            for start in range(0, len(content), _CHUNK):
                chunk = base64.b64encode(content[start : start + _CHUNK]).decode()
                written = self._call("guest-file-write", {"handle": handle, "buf-b64": chunk})
                if written.get("count") != len(content[start : start + _CHUNK]):
                    raise GuestError(f"{path} was written in part only.", "Is there space for it?")
        finally:
            self._call_for_value("guest-file-close", {"handle": handle})

    def _kill(self, pid: int) -> None:
        self._call("guest-exec", {"path": "kill", "arg": ["-KILL", str(pid)]})

    def _call(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        answer = self._call_for_value(command, arguments)
        if not isinstance(answer, dict):
            raise GuestError(f"the guest agent answered {answer!r} to {command}.")
        return answer

    def _call_for_value(self, command: str, arguments: dict[str, object]) -> object:
        try:
            return self._agent.execute(command, arguments, _ANSWER * self._scale)
        except Refused as error:
            raise GuestError(error.message) from error


# The answers are the guest's, and so not to be trusted.


def _integer(answer: dict[str, object], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise GuestError(f"the guest agent answered {name}={value!r}.")
    return value


def _text(status: dict[str, object], stream: str) -> str:
    if status.get(f"{stream}-truncated"):
        raise GuestError(f"the command wrote more to std{stream} than the guest agent keeps.")
    try:
        return base64.b64decode(str(status.get(f"{stream}-data", "")), validate=True).decode(
            errors="replace"
        )
    except ValueError as error:
        raise GuestError("the guest agent sent malformed output.") from error
