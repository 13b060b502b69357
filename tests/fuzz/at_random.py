"""Random programs for the targets, without a guide: faster, and any number of them.

    python -m tests.fuzz.at_random table 5000000

The targets check themselves: the DMA table after every program against a list of pages.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from . import targets

LONGEST = {"session": 2000, "table": 2000, "channel": 20_000}  # bytes of a program


def run(target: Callable[[bytes], int], wanted: int, seed: int | str) -> int:
    """Run programs until so many messages or operations are done; return how many."""
    chance = random.Random(seed)
    done = 0
    while done < wanted:
        done += target(chance.randbytes(chance.randrange(1, LONGEST[target.__name__])))
    return done


def main() -> None:
    """Run a target, for so many operations, from a seed."""
    target = targets.ALL[sys.argv[1]]
    seed = sys.argv[3] if len(sys.argv) > 3 else "1"
    print(f"{run(target, int(sys.argv[2]), seed)} messages, operations or entries, nothing found")


if __name__ == "__main__":
    main()
