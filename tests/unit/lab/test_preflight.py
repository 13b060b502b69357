"""Preflight, against a QEMU that only answers."""

from typing import Any

import pytest

from vdxgk_lab import preflight
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.qmp import Json

SHARED = {"id": "ram", "share": True}


class FakeMonitor:
    """A machine made of objects with properties."""

    def __init__(
        self, *objects: tuple[str, dict[str, bool]], memory: list[dict[str, Any]] | None = None
    ) -> None:
        self.memory = [SHARED] if memory is None else memory
        self.objects = {
            f"/machine/peripheral{'-anon' if i % 2 else ''}/device{i}": entry
            for i, entry in enumerate(objects)
        }

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Json:
        path = str((arguments or {}).get("path"))
        if command == "query-memdev":
            return self.memory
        if command == "qom-list" and path in self.objects:
            return [{"name": name, "type": "bool"} for name in self.objects[path][1]]
        if command == "qom-list":
            return [{"name": "type", "type": "string"}] + [
                {"name": name.removeprefix(path + "/"), "type": f"child<{kind}>"}
                for name, (kind, _) in self.objects.items()
                if name.rpartition("/")[0] == path
            ]
        assert command == "qom-get"
        return self.objects[path][1][str((arguments or {})["property"])]


DEVICE: tuple[str, dict[str, bool]] = ("vfio-user-pci", {})


def intel(**properties: bool) -> tuple[str, dict[str, bool]]:
    given = {name.replace("_", "-"): value for name, value in properties.items()}
    return "intel-iommu", {"caching-mode": True, "snoop-control": False, "fsts": False} | given


@pytest.mark.parametrize(
    "objects",
    [
        (DEVICE,),
        (intel(), DEVICE),
        (DEVICE, intel()),
        (("intel-iommu", {"caching-mode": True}), DEVICE),  # a QEMU that lacks the others
        (("amd-iommu", {"dma-remap": True}), DEVICE),
        (("virtio-iommu-pci", {}), DEVICE),
    ],
)
def test_what_works_passes(objects: tuple[tuple[str, dict[str, bool]], ...]) -> None:
    preflight.check(FakeMonitor(*objects))


@pytest.mark.parametrize(
    ("objects", "memory", "hint"),
    [
        ((intel(caching_mode=False), DEVICE), None, "caching-mode=on"),
        ((DEVICE, intel(caching_mode=False)), None, "caching-mode=on"),
        ((intel(snoop_control=True), DEVICE), None, "snoop-control=off"),
        ((intel(fsts=True), DEVICE), None, "fsts=off"),
        ((("amd-iommu", {"dma-remap": False}), DEVICE), None, "dma-remap=on"),
        ((("amd-iommu", {}), DEVICE), None, "dma-remap=on"),
        ((DEVICE,), [], "memory-backend-memfd"),
        ((DEVICE,), [SHARED, {"id": "m2", "share": False}], "share=on on the memory backend m2"),
    ],
)
def test_what_fails_later_is_refused_now(
    objects: tuple[tuple[str, dict[str, bool]], ...],
    memory: list[dict[str, Any]] | None,
    hint: str,
) -> None:
    with pytest.raises(Misconfigured) as caught:
        preflight.check(FakeMonitor(*objects, memory=memory))
    assert hint in caught.value.hint
    assert caught.value.message.endswith(".")


def test_machines_without_our_device_are_nobody_elses_business() -> None:
    unshared = [{"id": "ram", "share": False}]
    preflight.check(FakeMonitor(intel(caching_mode=False), memory=unshared))
