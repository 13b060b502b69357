"""What a guest needs done to it before the proof, because of others' mistakes."""

from vdxgk_lab.command_line import Iommu
from vdxgk_lab.errors import GuestError
from vdxgk_lab.guest import Guest

# Clear "MSI enable" of every IOMMU function (PCI class 08-06), walking the
# capability list as PCI Local Bus 3.0, section 6.7, describes it.
_SILENCE_IOMMU = r"""
byte() { hexdump -s "$2" -n 1 -e '1/1 "%d"' "$1"; }
for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/class")" = 0x080600 ] || continue
    config=$device/config
    at=$(byte "$config" 52)
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
        [ "$at" -ge 64 ] || break
        if [ "$(byte "$config" "$at")" = 5 ]; then
            flags=$(($(byte "$config" $((at + 2))) & ~1))
            printf "\\$(printf %o $flags)" |
                dd of="$config" bs=1 seek=$((at + 2)) conv=notrunc 2>/dev/null && echo silenced
        fi
        at=$(byte "$config" $((at + 1)))
    done
done
"""


def iommu_must_be_silent(iommu: Iommu, kernel_release: str) -> bool:
    """Whether the first fault that this IOMMU reports would be the end of this guest.

    Linux 6.1's AMD driver acknowledges an interrupt by writing ones to all
    the status bits that it knows. QEMU 11.1 stores those of the guest virtual
    APIC log (GALOverflow, GALInt; AMD IOMMU specification, MMIO offset
    2020h), where hardware would clear them, and the driver never leaves its
    handler. Later drivers write only what they read.
    """
    return iommu == "amd" and kernel_release.startswith("6.1.")


def silence_iommu(guest: Guest) -> None:
    """Let the IOMMU raise no interrupts; its driver then logs nothing.

    Raises GuestError if there is none to silence.
    """
    if not guest.run(["sh", "-c", _SILENCE_IOMMU]).check().stdout:
        raise GuestError("the guest has no IOMMU whose interrupts could be switched off.")
