"""Fixtures of all tests."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_of_others() -> None:
    """Tests that count open descriptors must not see another module's garbage go."""
    gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for the long versions of tests."""
    parser.addoption("--long", action="store_true", help="endurance tests at their full length")
    parser.addoption(
        "--life-cycles",
        type=int,
        default=2,
        help="how often guests reboot, unload and crash (tests/e2e/test_life_cycle.py)",
    )
    parser.addoption(
        "--matrix",
        action="store_true",
        help="every IOMMU with every kernel, not a selection (tests/e2e/test_proof.py)",
    )
