"""Exclusive access: between Begin and End no device touches memory, and the domain is switched.

Rules are tagged with their basis: [D] documented, [I] inferred by us.
"""

from __future__ import annotations

from collections.abc import Callable

from vdxgk.memory import remapping
from vdxgk.memory.ddi import SysmmFatalError
from vdxgk.memory.handles import HandleTable
from vdxgk.memory.lists import Lists
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import (
    AddressDescriptorList,
    Addressing,
    AddressingMode,
    ListState,
    LogicalAdapter,
)
from vdxgk.memory.reporter import Reporter


class ExclusiveAccess:
    """The windows of all adapters.

    ``address`` tells how an adapter addresses memory in a mode, or refuses;
    ``bugcheck`` reports one.
    """

    def __init__(
        self,
        adapters: HandleTable[LogicalAdapter],
        lists: Lists,
        reporter: Reporter,
        address: Callable[[LogicalAdapter, AddressingMode], Addressing],
        bugcheck: Callable[[SysmmFatalError, str], None],
    ) -> None:
        self._adapters = adapters
        self._lists = lists
        self._reporter = reporter
        self._address = address
        self._bugcheck = bugcheck

    def begin(self, handle: int, mode: AddressingMode | None) -> None:
        """DxgkDdiBeginExclusiveAccess has returned: from now on no DMA.

        ``mode``: how memory is addressed afterwards, None for as before.

        [D] A list that names physical memory cannot outlive the switch, so
        there must be none: STATUS_RESOURCE_IN_USE [I].  Logical lists stay,
        and the guest maps them in the new domain as they are.
        """
        adapter = self._adapters.get(handle)
        adapter.check_not_exclusive()
        wanted = mode or adapter.mode
        lists = self._lists_of(adapter)
        if lists and (wanted is not adapter.mode or wanted is AddressingMode.PHYSICAL):
            raise Refused(
                NtStatus.RESOURCE_IN_USE,
                f"{len(lists)} lists name addresses that the switch would make stale",
            )
        if any(adl.state is not ListState.LIVE for adl in lists):
            raise Refused(NtStatus.DEVICE_BUSY, "a list is being mapped or unmapped")
        adapter.exclusive = self._address(adapter, wanted)
        self._reporter.exclusive_access(True)

    def end(self, handle: int) -> LogicalAdapter:
        """The new domain is attached: every list must be mapped as before.

        [D] A failed reattach is bugcheck 0x1E4, 0xA.  STATUS_UNSUCCESSFUL
        then [I]; the window is over all the same.
        """
        adapter = self._adapters.get(handle)
        if adapter.exclusive is None:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "exclusive access has not begun")
        if adapter.exclusive.mode is not adapter.mode:
            adapter.addressing = adapter.exclusive
        adapter.exclusive = None
        self._reporter.exclusive_access(False)
        for adl in self._lists_of(adapter):
            failure = self._lists.check_mapped(adl)
            if failure is not None:
                self._report(adl, failure)
        return adapter

    def _report(self, adl: AddressDescriptorList, failure: remapping.RemapFailure) -> None:
        self._reporter.remap_failure(adl.handle, failure)
        reason = f"list {adl.handle:#x}: page {failure.logical:#x} {failure.reason}"
        self._bugcheck(SysmmFatalError.DOMAIN_REATTACH_FAILED, reason)
        raise Refused(NtStatus.UNSUCCESSFUL, reason)

    def _lists_of(self, adapter: LogicalAdapter) -> list[AddressDescriptorList]:
        return [adl for adl in self._lists.handles if adl.opening.adapter is adapter]
