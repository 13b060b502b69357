"""Runs the guest's module against the watching device, and reads the distribution."""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vdxgk.audit.observer import AuditObserver
from vdxgk.audit.writer import AuditWriter
from vdxgk_lab import guest_module, initramfs, stub_build, trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.cache import Cache
from vdxgk_lab.command_line import Iommu, MachineConfig
from vdxgk_lab.errors import VmError
from vdxgk_lab.guest import Guest
from vdxgk_lab.machine import Machine
from vdxgk_lab.progress import Reporter
from vdxgk_lab.served import served
from vdxgk_lab.staleness import device as watched
from vdxgk_lab.staleness.device import Sample, WatchedDevice

Domain = Literal["own", "dma-api"]
DOMAINS: tuple[Domain, ...] = ("own", "dma-api")
MODULE = "staleness"
SLOT = "0000:00:05.0"
_SECONDS_PER_SAMPLE = 0.5


@dataclass(frozen=True)
class Distribution:
    """Samples of one way: through which domain the guest mapped, by which path the device read.

    `group_type` is the guest kernel's word for how it invalidates the DMA
    API's mappings: DMA is strict, DMA-FQ lazy.
    """

    iommu: Iommu
    kernel: str
    asked: Literal["strict", "lazy"]
    group_type: str
    domain: Domain
    path: watched.Path
    samples: Sequence[Sample]

    @property
    def stale_samples(self) -> int:
        """Pages that were within reach after the unmap had returned."""
        return sum(sample.stale_reads > 0 for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            **{name: getattr(self, name) for name in ("iommu", "kernel", "asked", "group_type")},
            **{"domain": self.domain, "path": self.path, "count": len(self.samples)},
            "stale_count": self.stale_samples,
            "stale_seconds": summary([sample.stale for sample in self.samples]),
            "unmap_seconds": summary([sample.unmap for sample in self.samples]),
            "samples": [asdict(sample) for sample in self.samples],
        }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile (the smallest value that 99 % do not exceed) and maximum."""
    ordered = sorted(values)
    p99 = ordered[max(math.ceil(0.99 * len(ordered)) - 1, 0)]
    return {"median": statistics.median(ordered), "p99": p99, "max": ordered[-1]}


class Laboratory:
    """A running guest behind one IOMMU, with the device that watches it."""

    def __init__(
        self,
        guest: Guest,
        watching: WatchedDevice,
        config: MachineConfig,
        kernel: str,
        asked: Literal["strict", "lazy"],
        audit: AuditWriter | None,
    ) -> None:
        """See `open_laboratory`."""
        self._audit = audit
        self.guest = guest
        self._watching = watching
        self._config = config
        self._kernel = kernel
        self._asked = asked

    def measure(self, domain: Domain, path: watched.Path, samples: int) -> Distribution:
        """Map, watch, unmap, so many times.  Raises VmError if a page never went out of reach."""
        self._watching.samples.clear()
        number = next(number for number, name in watched.PATHS.items() if name == path)
        self.load(f"path={number}", f"own_domain={int(domain == 'own')}", samples=samples)
        found = tuple(self._watching.samples)
        if len(found) != samples:
            raise VmError(f"{samples} pages were unmapped, and {len(found)} were seen to go.")
        return Distribution(
            self._config.iommu,
            self._kernel,
            self._asked,
            self._group_type(),
            domain,
            path,
            found,
        )

    def mark(self, text: str) -> None:
        """Mark this moment in the audit, if there is one."""
        if self._audit is not None:
            self._audit.mark(text)

    def load(self, *parameters: str, samples: int) -> None:
        """Load the guest's module, which does it all, and take it out."""
        words = ["insmod", f"/lib/modules/{MODULE}.ko", *parameters, f"samples={samples}"]
        self.guest.run(words, timeout=30 + samples * _SECONDS_PER_SAMPLE).check()
        # What a driver's probe says is for the log; whether it holds the device is plain.
        held = self.guest.run(["test", "-e", f"/sys/bus/pci/devices/{SLOT}/driver"])
        log = self.guest.run(["dmesg"]).check().stdout
        self.guest.run(["rmmod", MODULE]).check()
        if not held.ok:
            raise VmError("the guest's module gave up.", log[-1500:])

    def _group_type(self) -> str:
        path = f"/sys/bus/pci/devices/{SLOT}/iommu_group/type"
        return self.guest.run(["cat", path]).check().stdout.strip()


@contextmanager
def open_laboratory(
    config: MachineConfig,
    kernel: trees.Kernel,
    artifacts: Artifacts,
    directory: Path,
    *,
    lazy: bool = False,
    audit: Path | None = None,
) -> Iterator[Laboratory]:
    """Boot a guest with the module and, behind its IOMMU, the device; logs go to `directory`.

    With `audit`, the device's mappings are recorded there.
    """
    made = with_module(artifacts, kernel)
    watching = WatchedDevice()
    with ExitStack() as stack:
        writer = None
        if audit is not None:
            writer = AuditWriter(str(audit))
            stack.callback(writer.close)
            watching.device.observer = AuditObserver(writer, watching)
        watching.start()
        stack.callback(watching.stop)
        path = stack.enter_context(served(watching.device, directory / "watched.sock"))
        config = replace(
            config,
            devices=(path,),
            kernel_args=(*config.kernel_args, f"iommu.strict={int(not lazy)}", "vdxgk_load=no"),
        )
        name = f"{config.iommu}-{'lazy' if lazy else 'strict'}"
        machine = stack.enter_context(Machine(config, made, directory, name))
        asked: Literal["strict", "lazy"] = "lazy" if lazy else "strict"
        yield Laboratory(machine.guest, watching, config, kernel, asked, writer)


def with_module(artifacts: Artifacts, kernel: trees.Kernel) -> Artifacts:
    """The same guest, with the module of this package."""
    cache = Cache()
    tree = trees.ensure(trees.GUESTS[kernel], cache, Reporter())
    with tempfile.TemporaryDirectory(prefix="vdxgk-staleness-") as temporary:
        # Laid over the stub's sources: the domain is the stub's own.
        sources = Path(temporary) / MODULE
        for part in (stub_build.sources(), Path(__file__).parent / "guest"):
            shutil.copytree(part, sources, dirs_exist_ok=True)
        module = guest_module.ensure(sources, tree, cache, Reporter())
    payload = initramfs.Payload(modules=(module,))
    return replace(artifacts, initramfs=initramfs.ensure(tree, payload, cache))
