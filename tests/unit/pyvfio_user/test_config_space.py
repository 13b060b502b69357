"""PCI configuration space and capabilities, without a client."""

from __future__ import annotations

import struct

import pytest

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    ExpressCapability,
    IrqType,
    MsiCapability,
    MsixCapability,
    PowerManagementCapability,
    SerialNumberCapability,
    SharedMemory,
    VendorCapability,
)


def make(**options: int) -> ConfigSpace:
    return ConfigSpace(0x1234, 0x11E8, 0x038000, **options)


def word(config: ConfigSpace, offset: int) -> int:
    return int.from_bytes(config.read(offset, 2), "little")


def dword(config: ConfigSpace, offset: int) -> int:
    return int.from_bytes(config.read(offset, 4), "little")


class TestHeader:
    def test_identifies_the_function(self) -> None:
        config = make(revision=2, subsystem_vendor_id=0x1AF4, subsystem_id=0x1100, interrupt_pin=1)
        assert config.read(0, 4) == struct.pack("<HH", 0x1234, 0x11E8)
        assert config.read(8, 4) == bytes([2, 0x00, 0x80, 0x03])
        assert config.read(0x2C, 4) == struct.pack("<HH", 0x1AF4, 0x1100)
        assert config.read(0x3C, 2) == b"\x00\x01"
        assert len(config.read(0, 256)) == 256

    def test_identity_is_read_only(self) -> None:
        config = make()
        before = config.read(0, 256)
        for offset in (0, 8, 0x2C, 0x34, 0x3D):
            config.write(offset, b"\xff\xff")
        assert config.read(0, 0x3C).replace(b"\xff", b"\0") == before[:0x3C].replace(b"\xff", b"\0")
        assert config.read(0, 4) == before[:4]

    def test_command_says_what_is_enabled(self) -> None:
        config = make()
        assert not config.memory_enabled
        assert not config.bus_master_enabled
        config.write(4, b"\x02\x00")
        assert (config.memory_enabled, config.bus_master_enabled) == (True, False)
        config.write(4, b"\xff\xff")
        assert word(config, 4) == 0x0547
        config.reset()
        assert word(config, 4) == 0

    def test_status_errors_are_cleared_by_a_one(self) -> None:
        config = make()
        config.add_capability(VendorCapability(b""))
        config.set_status(0xA800)
        assert word(config, 6) == 0xA810
        config.write(6, b"\x00\x20")
        assert word(config, 6) == 0x8810
        config.write(6, b"\xff\xff")
        assert word(config, 6) == 0x0010
        with pytest.raises(ValueError, match="STATUS"):
            config.set_status(0x0010)

    @pytest.mark.parametrize(
        "options",
        [{"interrupt_pin": 5}, {"revision": 256}, {"subsystem_id": 1 << 16}, {"size": 512}],
    )
    def test_values_out_of_range_are_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            make(**options)


class TestCapabilities:
    def test_form_a_list(self) -> None:
        config = make()
        vendor = config.add_capability(VendorCapability(b"\x01VDXGmore"))
        msix = config.add_capability(MsixCapability(3, 2, 0x1000, 2, 0x1800))
        assert word(config, 6) & 0x10
        assert config.read(0x34, 1) == bytes([vendor])
        assert config.read(vendor, 12) == bytes([0x09, msix, 12]) + b"\x01VDXGmore"
        assert config.read(msix, 12) == struct.pack("<BBHII", 0x11, 0, 2, 0x1000 | 2, 0x1800 | 2)
        assert not vendor % 4
        assert not msix % 4

    def test_msix_can_be_enabled_and_masked_and_nothing_else(self) -> None:
        config = make()
        offset = config.add_capability(MsixCapability(3, 2, 0x1000, 2, 0x1800))
        config.write(offset, b"\xff" * 12)
        assert config.read(offset, 2) == b"\x11\x00"
        assert word(config, offset + 2) == 0xC002
        assert dword(config, offset + 4) == 0x1002

    def test_the_space_ends(self) -> None:
        config = make()
        config.add_capability(VendorCapability(bytes(150)))
        with pytest.raises(ValueError, match="no room"):
            config.add_capability(VendorCapability(bytes(50)))
        assert len(config.capabilities) == 1

    def test_msi_lets_the_guest_choose_address_and_data(self) -> None:
        config = make()
        offset = config.add_capability(MsiCapability(4))
        assert config.read(offset, 4) == b"\x05\x00\x84\x00"
        config.write(offset, b"\xff" * 14)
        assert config.read(offset, 14) == b"\x05\x00\xf5\x00\xfc" + b"\xff" * 9
        device = Device(config, {})
        assert device.irqs.info(IrqType.MSI)[1] == 4
        for vectors in (0, 3, 64):
            with pytest.raises(ValueError, match="MSI vectors"):
                MsiCapability(vectors)

    def test_power_management_has_two_states(self) -> None:
        config = make()
        offset = config.add_capability(PowerManagementCapability())
        config.write(offset + 4, b"\xff\xff")
        assert word(config, offset + 4) == 0x000B
        assert word(config, offset + 2) == 0x0003

    def test_express_is_an_endpoint(self) -> None:
        config = make(size=4096)
        offset = config.add_capability(ExpressCapability())
        assert config.read(offset, 4) == b"\x10\x00\x02\x00"
        assert config.add_capability(VendorCapability(b"")) == offset + 60
        config.write(offset + 8, b"\xff\xff")
        assert word(config, offset + 8) == 0x7FFF
        assert dword(config, offset + 4) == 1 << 15

    def test_extended_ones_form_a_list_of_their_own(self) -> None:
        config = make(size=4096)
        first = config.add_extended_capability(SerialNumberCapability(0x0123456789ABCDEF))
        assert (first, dword(config, first)) == (0x100, 0x00010003)
        assert config.read(first + 4, 8) == struct.pack("<Q", 0x0123456789ABCDEF)
        second = config.add_extended_capability(SerialNumberCapability(1))
        assert dword(config, first) == second << 20 | 0x00010003
        assert dword(config, second) == 0x00010003
        config.write(first, b"\xff" * 12)
        assert dword(config, first) == second << 20 | 0x00010003

    def test_extended_ones_need_the_larger_space(self) -> None:
        with pytest.raises(ValueError, match="no room"):
            make().add_extended_capability(SerialNumberCapability(1))

    @pytest.mark.parametrize(
        "arguments", [(0, 0, 0, 0, 0), (2049, 0, 0, 0, 0), (1, 6, 0, 0, 0), (1, 0, 4, 0, 0)]
    )
    def test_impossible_msix_is_refused(self, arguments: tuple[int, int, int, int, int]) -> None:
        with pytest.raises(ValueError, match="MSI-X"):
            MsixCapability(*arguments)

    def test_the_msix_table_must_lie_in_a_bar(self) -> None:
        config = make()
        config.add_capability(MsixCapability(256, 0, 0, 0, 0x1000))
        with pytest.raises(ValueError, match="outside their BAR"):
            Device(config, {0: Bar(0x1000)})


class TestBars:
    def test_answer_the_sizing_protocol(self) -> None:
        config = make()
        Device(config, {0: Bar(1 << 24, prefetchable=True), 2: Bar(0x1000)})
        for offset, expected in ((0x10, 0xFF000008), (0x18, 0xFFFFF000), (0x14, 0), (0x30, 0)):
            config.write(offset, b"\xff" * 4)
            assert dword(config, offset) == expected

    def test_of_64_bits_take_two_registers(self) -> None:
        config = make()
        Device(config, {0: Bar(1 << 33, is_64bit=True), 2: Bar(16)})
        config.write(0x10, b"\xff" * 8)
        assert (dword(config, 0x10), dword(config, 0x14)) == (0x00000004, 0xFFFFFFFE)

    @pytest.mark.parametrize(
        "bars",
        [
            {6: Bar(16)},
            {-1: Bar(16)},
            {5: Bar(16, is_64bit=True)},
            {0: Bar(16, is_64bit=True), 1: Bar(16)},
        ],
    )
    def test_that_do_not_fit_are_refused(self, bars: dict[int, Bar]) -> None:
        with pytest.raises(ValueError, match="does not fit"):
            Device(make(), bars)

    @pytest.mark.parametrize("size", [0, 8, 24, 0x1001, 1 << 32])
    def test_sizes_that_qemu_would_assert_on_are_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="BAR"):
            Bar(size)

    @pytest.mark.parametrize(
        "areas",
        [
            [(0, 0x800)],
            [(0x10, 0x1000)],
            [(0, 0x3000)],
            [(0x1000, 0x1000), (0, 0x2000)],
            [(0, 0)],
            [(-0x1000, 0x1000)],
        ],
    )
    def test_impossible_areas_are_refused(self, areas: list[tuple[int, int]]) -> None:
        with (
            SharedMemory(0x2000, "areas") as memory,
            pytest.raises(ValueError, match="mmap area"),
        ):
            Bar(0x2000, memory=memory, mmap_areas=areas)

    def test_areas_need_memory(self) -> None:
        with pytest.raises(ValueError, match="without memory"):
            Bar(0x2000, mmap_areas=[(0, 0x1000)])

    def test_memory_may_be_smaller_than_its_bar(self) -> None:
        with SharedMemory(0x1000, "small") as memory:
            bar = Bar(0x4000, memory=memory)
            assert bar.areas == ((0, 0x1000),)
            bar.write(0xFFE, b"abcd")
            assert bytes(memory.view[0xFFE:]) == b"ab"
            assert bar.read(0xFFE, 4) == b"ab\0\0"
            assert bar.capabilities()
