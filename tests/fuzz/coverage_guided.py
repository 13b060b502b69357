"""Coverage-guided fuzzing with Atheris: `make fuzz`.

    python -m tests.fuzz.coverage_guided TARGET CORPUS... [-runs=N] [-max_total_time=SECONDS]

What is new goes into the first corpus folder; how much was done is said now
and then, because the fuzzer leaves no time for it at its end.  Atheris is no
dependency: `make fuzz` installs it into an environment of its own.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["pyvfio_user", "vdxgk"]):
    from . import targets

SAY_EVERY = 100_000


def main() -> None:
    """Fuzz the target that is the first argument."""
    target = targets.ALL[sys.argv.pop(1)]
    done = 0

    def one(data: bytes) -> None:
        nonlocal done
        before, done = done, done + target(data)
        if before // SAY_EVERY != done // SAY_EVERY:
            print(f"{done} messages, operations or entries", file=sys.stderr)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
