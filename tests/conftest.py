"""Fixtures of all tests."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_of_others() -> None:
    """Tests that count open descriptors must not see another module's garbage go."""
    gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Ours."""
    parser.addoption("--long", action="store_true", help="endurance tests at their full length")
