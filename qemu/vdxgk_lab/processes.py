"""Child processes: short commands, and those that must not outlive this process."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vdxgk_lab.errors import SetupError

_GRACE = 5.0
_TAIL = 800


def output(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, hint: str = ""
) -> str:
    """What a command writes; `environment` is added to ours.

    Raises SetupError with what it complained about, and `hint`, if it fails.
    """
    words = [str(word) for word in command]
    try:
        run = subprocess.run(
            words,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SetupError(f"{words[0]} cannot be started: {error}.", hint) from error
    if run.returncode:
        raise SetupError(
            f"{Path(words[0]).name} failed (status {run.returncode}): {complaint(run.stderr)}", hint
        )
    return run.stdout


def complaint(errors: str) -> str:
    """The part of an error output to show: apt's marked lines, else the end."""
    marked = [line for line in errors.splitlines() if line.startswith("E:")]
    return (" ".join(marked) if marked else errors.strip())[-_TAIL:]


def bound_to_parent(command: Sequence[str]) -> list[str]:
    """A command line that the kernel kills when the starting *thread* ends.

    See PR_SET_PDEATHSIG in prctl(2): start it from a thread that stays.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


def end(process: subprocess.Popen[bytes], grace: float = _GRACE) -> int:
    """End a process: politely, after `grace` seconds by force. Answers its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
