"""Every input that fuzzing has kept, once more, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from . import targets

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize(
    "target", [targets.session, targets.table], ids=lambda target: target.__name__
)
def test_kept_inputs(target: Callable[[bytes], int]) -> None:
    inputs = sorted((CORPUS / target.__name__).iterdir())
    done = sum(target(path.read_bytes()) for path in inputs)
    assert done > 100


@pytest.mark.parametrize(
    "target", [targets.session, targets.table], ids=lambda target: target.__name__
)
def test_random_inputs(target: Callable[[bytes], int]) -> None:
    chance = random.Random(target.__name__)
    done = 0
    while done < 5_000:
        done += target(chance.randbytes(chance.randrange(1, 2000)))
