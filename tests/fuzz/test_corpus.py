"""Every input that fuzzing has kept, once more, and random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import at_random, targets

CORPUS = Path(__file__).parent / "corpus"

each_target = pytest.mark.parametrize(
    "target",
    targets.ALL.values(),
    ids=targets.ALL.keys(),
)


@each_target
def test_kept_inputs(target: Callable[[bytes], int]) -> None:
    inputs = sorted((CORPUS / target.__name__).iterdir())
    done = sum(target(path.read_bytes()) for path in inputs)
    assert done > 100


@each_target
def test_random_inputs(target: Callable[[bytes], int]) -> None:
    at_random.run(target, 10_000, target.__name__)
