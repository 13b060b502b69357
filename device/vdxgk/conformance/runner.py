"""Runs vectors: substitutes, compares, and tidies up.

The core is a generator that yields calls and is sent answers, so that one
logic serves implementations that answer at once and those to which batches
are cheaper.  After its steps each vector gives back what it still holds, and
that must succeed too: a refused call has left everything as it was.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vdxgk.conformance.implementation import (
    Answer,
    BatchImplementation,
    Call,
    Implementation,
    carry_out,
)
from vdxgk.conformance.vector import CALLS, Step, Vector
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import PAGE_SHIFT, PAGE_SIZE

_STATUS_NAMES = {int(status): status.symbol for status in NtStatus}
_STATUS_VALUES = {status.symbol: int(status) for status in NtStatus}

TOGETHER = 128
"""Vectors side by side: a bound on the memory that they hold."""

Execution = Generator[Call, Answer, "Result"]


@dataclass(slots=True)
class Result:
    """How a vector went.  ``unobserved``: what the implementation could not show."""

    id: str
    failures: list[str] = field(default_factory=list)
    unobserved: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything that could be compared was as expected."""
        return not self.failures


def run(vector: Vector, implementation: Implementation) -> Result:
    """Run one vector.  The implementation must have the features that it requires."""
    execution = execute(vector, implementation.environment)
    try:
        call = next(execution)
        while True:
            call = execution.send(carry_out(implementation, call))
    except StopIteration as end:
        result: Result = end.value
        return result


def run_together(
    vectors: Iterable[Vector], implementation: BatchImplementation
) -> dict[str, Result]:
    """Run vectors side by side: first steps in one batch, then second steps, ...

    At most ``TOGETHER`` at once, and of those that disturb each other one.
    """
    results: dict[str, Result] = {}
    queues = [deque(group) for group in _by_alone(vectors)]
    waiting: list[tuple[Vector, Execution, Call]] = []
    while True:
        for queue, limit in zip(queues, (TOGETHER, 1), strict=True):
            running = sum(vector.alone == (limit == 1) for vector, _, _ in waiting)
            while queue and running < limit:
                execution = execute(queue[0], implementation.environment)
                waiting.append((queue.popleft(), execution, next(execution)))
                running += 1
        if not waiting:
            return results
        answers = implementation.carry_out([call for _, _, call in waiting])
        still = []
        for (vector, execution, _), answer in zip(waiting, answers, strict=True):
            try:
                still.append((vector, execution, execution.send(answer)))
            except StopIteration as end:
                results[vector.id] = end.value
        waiting = still


def _by_alone(vectors: Iterable[Vector]) -> tuple[list[Vector], list[Vector]]:
    together: list[Vector] = []
    alone: list[Vector] = []
    for vector in vectors:
        (alone if vector.alone else together).append(vector)
    return together, alone


def execute(vector: Vector, environment: Mapping[str, int]) -> Execution:
    """Yield the calls of ``vector``; to be sent their answers; returns its Result.

    Stops comparing at the first step that is not as expected: what follows
    would only repeat it.
    """
    result = Result(vector.id)
    scope = dict(environment)
    held = _Held()
    for number, step in enumerate(vector.steps, 1):
        arguments = {name: value.evaluate(scope) for name, value in step.arguments}
        wanted = frozenset(name for name, _ in step.outputs)
        call = Call(step.call, arguments, wanted)
        answer = yield call
        failures = _compare(step, answer, scope, result, held.pages_behind(call))
        held.note(call, answer)
        result.failures += [f"step {number}, {step.call}: {failure}" for failure in failures]
        if failures:
            break
        if step.save:
            scope |= {f"{step.save}.{name}": value for name, value in arguments.items()}
            scope |= {f"{step.save}.{name}": value for name, value in answer.outputs.items()}
    while (call_left := held.next_to_give_back()) is not None:
        answer = yield call_left
        if not answer.succeeded or answer.bugchecks:
            result.failures.append(f"afterwards, {call_left.name}: {_describe(answer)}")
            break
        held.note(call_left, answer)
    return result


def _compare(
    step: Step,
    answer: Answer,
    scope: Mapping[str, int],
    result: Result,
    behind: Sequence[int] | None,
) -> list[str]:
    failures = []
    if answer.status is not None and answer.status != _STATUS_VALUES[step.status]:
        failures.append(f"{_describe(answer)}, not {step.status}")
    expected = [] if step.bugcheck is None else [step.bugcheck]
    if list(answer.bugchecks) != expected:
        failures.append(
            f"bugchecks {_bugchecks(answer.bugchecks)}, expected {_bugchecks(expected)}"
        )
    if failures:
        return failures
    found = {**answer.outputs, **observe(answer)}
    if answer.pages and behind is not None:
        found["Adl.Identity"] = sum(map(operator.eq, answer.pages, behind))
    for name, conditions in step.outputs:
        if name not in found:
            if name in CALLS[step.call].observations:
                result.unobserved.append(name)
            else:
                failures.append(f"no {name}")
            continue
        failures += [
            f"{name} is {found[name]:#x}, not {condition.text}"
            for condition in conditions
            if not condition.holds(found[name], scope)
        ]
    return failures


def observe(answer: Answer) -> dict[str, int]:
    """The observations that an answer allows; see ``vector.OBSERVATIONS``."""
    seen: dict[str, int] = {}
    if answer.runs:
        first = min(base for base, _ in answer.runs)
        last = max(base + size for base, size in answer.runs) - 1
        divisor = math.gcd(*(number for run in answer.runs for number in run))
        seen |= {
            "Memory.Runs": len(answer.runs),
            "Memory.Size": sum(size for _, size in answer.runs),
            "Memory.Lowest": first,
            "Memory.Highest": last,
            "Memory.Block": 1 << (first ^ last).bit_length(),
            "Memory.Alignment": divisor & -divisor,
        }
    if answer.zeroed is not None:
        seen["Memory.Zeroed"] = int(answer.zeroed)
    if answer.cache is not None:
        seen["View.CacheType"] = answer.cache
    if answer.writable is not None:
        seen["View.Writable"] = int(answer.writable)
    if answer.contiguous is not None:
        seen["Adl.Contiguous"] = int(answer.contiguous)
    if answer.pages:
        seen |= {
            "Adl.PageCount": len(answer.pages),
            "Adl.LastByte": (max(answer.pages) << PAGE_SHIFT) + PAGE_SIZE - 1,
            "Adl.Distinct": len(set(answer.pages)),
            "Adl.Consecutive": int(all(b == a + 1 for a, b in pairwise(answer.pages))),
        }
    return seen


class _Held:
    """What a vector has got and not yet given back."""

    def __init__(self) -> None:
        self._objects: dict[int, int] = {}  # to the adapter object, 0 without
        self._lists: dict[int, int] = {}  # to the adapter object
        self._views: dict[int, dict[str, int]] = {}  # to the arguments of Unmap
        self._pinned: set[tuple[int, int]] = set()  # adapter and physical adapter
        self._runs: dict[int, Sequence[tuple[int, int]]] = {}  # of objects

    def note(self, call: Call, answer: Answer) -> None:
        """Keep the books after a call."""
        if not answer.succeeded:
            return
        arguments, outputs = call.arguments, answer.outputs
        match call.name:
            case "CreatePhysicalMemoryObject":
                handle = outputs.get("hPhysicalMemoryObject", 0)
                self._objects[handle] = outputs.get("hAdapterMemoryObject", 0)
                self._runs[handle] = answer.runs or ()
            case "OpenPhysicalMemoryObject":
                handle = arguments.get("hPhysicalMemoryObject", 0)
                self._objects[handle] = outputs.get("hAdapterMemoryObject", 0)
            case "ClosePhysicalMemoryObject":
                closed = arguments.get("hAdapterMemoryObject", 0)
                self._objects = {k: 0 if v == closed else v for k, v in self._objects.items()}
            case "DestroyPhysicalMemoryObject":
                self._objects.pop(arguments.get("hPhysicalMemoryObject", 0), None)
            case "AllocateAdl":
                self._lists[outputs.get("pAdl", 0)] = arguments.get("hAdapterMemoryObject", 0)
            case "FreeAdl":
                self._lists.pop(arguments.get("pAdl", 0), None)
            case "MapPhysicalMemory":
                base = outputs.get("pMappedAddress", 0)
                self._views[base] = {
                    "hPhysicalMemoryObject": arguments.get("hPhysicalMemoryObject", 0),
                    "pBaseAddress": base,
                    "Size": outputs.get("Size", 0),
                }
            case "UnmapPhysicalMemory":
                self._views.pop(arguments.get("pBaseAddress", 0), None)
            case "PinFrameBufferForSave2":
                self._pinned.add(_save_area(arguments))
            case "UnpinFrameBufferForSave":
                self._pinned.discard(_save_area(arguments))

    def pages_behind(self, call: Call) -> Sequence[int] | None:
        """The numbers of the object's own pages for AllocateAdl; None where they are unknown."""
        opening = call.arguments.get("hAdapterMemoryObject", 0)
        handle = next((k for k, v in self._objects.items() if v == opening), 0)
        runs = self._runs.get(handle)
        if call.name != "AllocateAdl" or not opening or not runs:
            return None
        pages = [
            (base + into) >> PAGE_SHIFT for base, size in runs for into in range(0, size, PAGE_SIZE)
        ]
        return pages[call.arguments.get("Offset", 0) >> PAGE_SHIFT :]

    def next_to_give_back(self) -> Call | None:
        """The call that gives one thing back: views, then lists, then objects."""
        for adapter, index in self._pinned:
            arguments = {"hAdapter": adapter, "PhysicalAdapterIndex": index}
            return Call("UnpinFrameBufferForSave", arguments)
        for view in self._views.values():
            return Call("UnmapPhysicalMemory", view)
        for adl, adapter_object in self._lists.items():
            return Call("FreeAdl", {"hAdapterMemoryObject": adapter_object, "pAdl": adl})
        for handle, adapter_object in self._objects.items():
            arguments = {"hPhysicalMemoryObject": handle, "hAdapterMemoryObject": adapter_object}
            return Call("DestroyPhysicalMemoryObject", arguments)
        return None


def _save_area(arguments: Mapping[str, int]) -> tuple[int, int]:
    return arguments.get("hAdapter", 0), arguments.get("PhysicalAdapterIndex", 0)


def _describe(answer: Answer) -> str:
    if answer.status is None:
        return f"bugchecks {_bugchecks(answer.bugchecks)}"
    return _STATUS_NAMES.get(answer.status, f"{answer.status:#010x}")


def _bugchecks(found: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{code:#x}/{subcode}" for code, subcode in found) or "none"
