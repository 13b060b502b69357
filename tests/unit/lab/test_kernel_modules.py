"""Which modules a guest loads, in which order."""

from pathlib import Path

import pytest

from vdxgk_lab import kernel_modules
from vdxgk_lab.errors import SetupError

DEPENDENCIES = """
kernel/virtio_pci.ko.xz: kernel/virtio_ring.ko.xz kernel/virtio.ko.xz
kernel/virtio_ring.ko.xz: kernel/virtio.ko.xz
kernel/virtio.ko.xz:
kernel/virtio-iommu.ko.xz: kernel/virtio.ko.xz
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    (tmp_path / "modules.dep").write_text(DEPENDENCIES.lstrip())
    (tmp_path / "modules.builtin").write_text("kernel/drivers/char/virtio_console.ko\n")
    return tmp_path


def test_dependencies_come_first_and_once(modules: Path) -> None:
    order = kernel_modules.load_order(modules, ["virtio_pci", "virtio_iommu", "virtio_console"])
    assert [path.name.removesuffix(".ko.xz") for path in order] == [
        *("virtio", "virtio_ring", "virtio_pci", "virtio-iommu")
    ]


def test_a_module_that_the_kernel_lacks_is_named(modules: Path) -> None:
    with pytest.raises(SetupError, match="no module flux"):
        kernel_modules.load_order(modules, ["flux"])


@pytest.mark.parametrize(
    ("name", "there"), [("virtio_iommu", True), ("virtio_console", True), ("flux", False)]
)
def test_built_in_counts_as_there(modules: Path, name: str, there: bool) -> None:
    assert kernel_modules.exists(modules, name) == there
