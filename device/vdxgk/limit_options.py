"""The options of `vdxgk serve` that say how much it gives at most: one for each limit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from vdxgk.cli_types import Size, size_text
from vdxgk.memory.limits import LIMITS, Limit, Quotas


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Declare them all; ``command`` gets them as ``quotas``."""

    @functools.wraps(command)
    def with_quotas(**values: Any) -> None:  # noqa: ANN401 - as click calls it
        chosen = {name: values.pop(_parameter(limit)) for name, limit in LIMITS.items()}
        command(quotas=Quotas(**chosen), **values)

    defaults = Quotas()
    for name, limit in reversed(LIMITS.items()):
        default = getattr(defaults, name)
        option = click.option(
            limit.option,
            _parameter(limit),
            type=_type(limit),
            default=size_text(default) if limit.in_bytes else default,
            show_default=True,
            help=f"{limit.what[0].upper()}{limit.what[1:]}.",
        )
        with_quotas = option(with_quotas)
    return with_quotas


def _parameter(limit: Limit) -> str:
    return limit.option.removeprefix("--").replace("-", "_")


def _type(limit: Limit) -> click.ParamType[int]:
    if limit.in_bytes:
        return Size(limit.lowest, limit.highest)
    return click.IntRange(limit.lowest, limit.highest)
