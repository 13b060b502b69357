"""What a guest pays, measured by a guest: objects, lists, and a device that only sits there.

A trapped register access is the unit of what goes through the channel: it is
what a driver cannot avoid.  For a list the floor is what QEMU would need with the
leanest server: the same run, less the processor time of ours, and as many answers of the
C echo.  QEMU sends each mapping as a message and waits, whoever answers.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdxgk.control import ask
from vdxgk_lab import artifacts, firmware, guest_program, initramfs, stub_build, trees
from vdxgk_lab.bench import wire
from vdxgk_lab.bench.figures import Figure
from vdxgk_lab.bench.serve import IdleCost, cpu_seconds
from vdxgk_lab.cache import Cache
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.guest import Guest
from vdxgk_lab.machine import Machine
from vdxgk_lab.progress import Reporter

DRIVER = "/sys/bus/pci/drivers/vdxgk"
MEMORY = 512 << 20
LIST_MIB = 64
CREATES = 50
LISTS = 32
"""Allocated and freed in one repetition."""
ANSWERS = 2000
"""Of the C echo, to know what one costs."""


@dataclass(frozen=True, slots=True)
class GuestCost:
    """What was measured in one guest."""

    figures: list[Figure]
    idle: IdleCost
    accesses_per_create: float
    """Trapped register accesses for a create that is waited for."""
    list_mappings: int
    """DMA_MAPs for a list over 64 MiB."""

    def as_json(self) -> dict[str, Any]:
        """Without the figures, which have a place of their own."""
        return {
            "idle": self.idle.as_json(),
            "register_accesses_per_create": self.accesses_per_create,
            "mappings_of_a_64_MiB_list": self.list_mappings,
        }


def measure(floor: Path, directory: Path, repetitions: int, idle_seconds: float) -> GuestCost:
    """Boot a guest and measure, beside `floor`, which is floor.c.

    Raises LabError if the guest cannot do its part.
    """
    cache, reporter = Cache(), Reporter()
    made = artifacts.prepare(cache=cache, reporter=reporter)
    tree = trees.ensure(trees.GUESTS[trees.DEFAULT_KERNEL], cache, reporter)
    stub = stub_build.ensure(tree, cache, reporter)
    headers = sorted((stub_build.sources() / "include").glob("*.h"))
    source = importlib.resources.files("vdxgk_lab").joinpath("bench/guest_cost.c")
    with importlib.resources.as_file(source) as path:
        program = guest_program.ensure(path, tree, cache, headers)
    payload = initramfs.Payload(programs=(stub.control, program), modules=(stub.module,))
    made = replace(made, initramfs=initramfs.ensure(tree, payload, cache))
    options = ["--dma-bits", "36", *firmware.rom_options(made.qemu)]
    with DeviceProcess(directory, options, name="guest-cost") as device:
        config = MachineConfig(memory=MEMORY, devices=(device.socket,))
        with Machine(config, made, directory, "guest-cost") as machine:
            idle = IdleCost.of(device.pid, idle_seconds)
            with wire.echo_cost(floor, directory, ANSWERS) as echo_cost:
                return _measure(machine.guest, device, idle, repetitions, echo_cost)


def _measure(
    guest: Guest,
    device: DeviceProcess,
    idle: IdleCost,
    repetitions: int,
    echo_cost: Callable[[str], float],
) -> GuestCost:
    def counter(name: str) -> int:
        return int(ask(str(device.control), "query-status")[name])

    # The first object makes the guest donate memory.
    _script(guest, ["create --size 1M --type contiguous"])
    before = counter("register_accesses")
    _script(guest, ["create --size 4K --type contiguous --limit 0"] * CREATES)
    accesses = (counter("register_accesses") - before) / CREATES
    objects = _times(guest, "objects", repetitions)

    alone, answered, ours = [], [], []
    maps = counter("dma_maps")
    for _ in range(repetitions):
        others = counter("dma_unmaps") + counter("register_accesses")
        with_descriptor, busy = counter("dma_maps"), cpu_seconds(device.pid)
        seconds = sum(_times(guest, "list", LISTS, str(LIST_MIB))["list"])
        busy = cpu_seconds(device.pid) - busy
        with_descriptor = counter("dma_maps") - with_descriptor
        others = counter("dma_unmaps") + counter("register_accesses") - others
        echo = with_descriptor * echo_cost("map") + others * echo_cost("write")
        ours.append(seconds / LISTS)
        alone.append((seconds - busy) / LISTS)
        answered.append((seconds - busy + echo) / LISTS)
    mappings = (counter("dma_maps") - maps) / repetitions / LISTS

    shell = f"cd {DRIVER}; for device in 0000:*; do echo $device; echo $device >unbind; done"
    address = _run(guest, ["sh", "-c", shell]).strip()
    channel = _times(guest, "channel", repetitions, f"/sys/bus/pci/devices/{address}")
    trap = channel["trap"]
    figures = [
        Figure(f"{what} of a page object{how}", "register access", trap, times, budget)
        for what, how, times, budget in (
            ("create", ", batches of 256", channel["batch_create"], 0.3),
            ("destroy", ", batches of 256", channel["batch_destroy"], 0.3),
            ("create", ", one at a time, by the driver", objects["create"], None),
            ("destroy", ", one at a time, by the driver", objects["destroy"], None),
        )
    ]
    name = "list over 64 MiB, made and freed"
    figures.append(Figure(name, "QEMU, with the C echo", answered, ours, 1.3))
    figures.append(Figure(name, "QEMU and guest", alone, ours))
    return GuestCost(figures, idle, accesses, round(mappings))


def _run(guest: Guest, command: list[str], stdin: bytes = b"") -> str:
    return guest.run(command, timeout=120, stdin=stdin).check().stdout


def _script(guest: Guest, lines: list[str]) -> None:
    _run(guest, ["dxgkctl", "script", "-"], "\n".join([*lines, ""]).encode())


def _times(guest: Guest, mode: str, repetitions: int, *arguments: str) -> dict[str, list[float]]:
    """Seconds, a value for each repetition."""
    answer = _run(guest, ["guest_cost", mode, str(repetitions), *arguments])
    return {name: [ns / 1e9 for ns in values] for name, values in json.loads(answer).items()}
