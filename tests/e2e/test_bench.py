"""`vdxgk bench` runs; what it counts, rather than times, is as promised."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vdxgk_lab import cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_quick_run_measures_everything() -> None:
    result = CliRunner().invoke(cli.main, ["bench", "--quick", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    names = " ".join(figure["name"] for figure in record["figures"])
    for part in ("region read", "DMA_MAP", "engine copy", "CRC32", "create", "list", "1920x1080"):
        assert part in names
    assert all(figure["ratio"] > 0 for figure in record["figures"])
    guest = record["guest"]
    assert guest["mappings_of_a_64_MiB_list"] == 32
    # Each access stops the guest's processor: the doorbell, and one to spare.
    assert 0 < guest["register_accesses_per_create"] <= 2
