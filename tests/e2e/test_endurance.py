"""What only shows after many rounds: bounded here, at length with --long.

Fragmentation, loads and unloads, killed processes, and a backend without
memory at every step: nothing is lost on either side.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Bench
from tests.e2e.test_stub import available, kernel_trouble, lost_since, reload, script
from vdxgk.control import ask
from vdxgk_lab.guest import Guest
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import KIB, MIB, PAGE

pytestmark = [pytest.mark.e2e]

GIB = 1 << 30
Run = tuple[int, int]
PREFER_CONTIGUOUS, CHUNKS = 0x10, 0x20


@pytest.fixture(scope="module")
def many(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


# ---- fragmentation -----------------------------------------------------------


@dataclass
class Wanted:
    """A random object, and what must hold of where it lies."""

    kind: str
    size: int
    low: int = 0
    high: int = (1 << 64) - 1
    boundary: int = 0
    chunk: int = 0
    flags: int = 0
    object: str = ""
    opening: str = ""
    frames: list[Run] = field(default_factory=list)

    @property
    def command(self) -> str:
        words = f"create --type {self.kind} --size {self.size} --limit 4096"
        if self.kind == "section":
            return words
        words += f" --low {self.low:#x} --high {self.high:#x}"
        if self.kind == "contiguous":
            return f"{words} --boundary {self.boundary:#x}"
        return f"{words} --flags {self.flags:#x} --skip {self.chunk:#x}"

    def check(self, reported: Sequence[Run]) -> None:
        pages = -(-self.size // PAGE) * PAGE
        assert merged(reported) == merged(self.frames), "the kernel has other pages mapped"
        assert sum(size for _, size in self.frames) == pages
        for base, size in self.frames:
            assert base >= self.low
            assert base + size - 1 <= self.high
        if self.kind == "contiguous":
            ((base, size),) = self.frames
            assert not self.boundary or base // self.boundary == (base + size - 1) // self.boundary
        if self.chunk:
            assert all(base % self.chunk == 0 == size % self.chunk for base, size in self.frames)
        elif self.flags == CHUNKS:
            assert len(self.frames) == 1


def merged(runs: Sequence[Run]) -> list[Run]:
    """Neighbours in one run, in object order."""
    found: list[Run] = []
    for base, size in runs:
        if found and sum(found[-1]) == base:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((base, size))
    return found


def runs(raw: list[list[str]]) -> list[Run]:
    return [(int(base, 16), int(size, 16)) for base, size in raw]


def random_object(choice: random.Random) -> Wanted:
    kind = choice.choice(["mdl", "mdl", "contiguous", "contiguous", "section"])
    size = choice.choice([1, 100, PAGE, 3 * PAGE, 64 * KIB, 100_001, 256 * KIB])
    wanted = Wanted(kind, size)
    if kind == "section":
        return wanted
    # Windows of RAM below 2 GiB and above 4 GiB; the guest has some of each.
    wanted.low, wanted.high = choice.choice(
        [
            (0, (1 << 64) - 1),
            (0, 4 * GIB - 1),
            (4 * GIB, (1 << 64) - 1),
            (256 * MIB, GIB - 1),
            (4 * GIB + 256 * MIB, 4 * GIB + 768 * MIB - 1),
        ]
    )
    if kind == "contiguous":
        wanted.boundary = choice.choice([0, 0, 256 * KIB, MIB, 2 * MIB])
    elif choice.random() < 0.3:
        wanted.flags, wanted.chunk = CHUNKS, choice.choice([0, 16 * KIB, 64 * KIB])
        wanted.size = choice.choice([64 * KIB, 256 * KIB])
        wanted.low, wanted.high = 0, (1 << 64) - 1
    elif choice.random() < 0.3:
        wanted.flags = PREFER_CONTIGUOUS
    return wanted


def batches(total: int, size: int) -> Iterator[int]:
    for first in range(0, total, size):
        yield min(size, total - first)


@pytest.mark.timeout(7200)
def test_objects_under_fragmentation(bench: Bench, many: bool) -> None:
    """Random objects come and go; where each lies is read from the page tables."""
    choice = random.Random(5)
    live: list[Wanted] = []
    made = lacking = 0
    for count in batches(10_000 if many else 300, 100):
        wanted = [random_object(choice) for _ in range(count)]
        answers = script(bench.guest, [each.command for each in wanted])
        got = []
        for each, answer in zip(wanted, answers, strict=True):
            if answer["status"] != "0x00000000":
                assert answer["name"] == "STATUS_NO_MEMORY", (each, answer)
                lacking += 1
                continue
            each.object, each.opening = answer["object"], answer["adapter_object"]
            got.append((each, runs(answer.get("runs", []))))
        frames = script(bench.guest, [f"frames {each.object}" for each, _ in got])
        for (each, reported), answer in zip(got, frames, strict=True):
            each.frames = merged(runs(answer["frames"]))
            each.check(reported if each.kind != "section" else each.frames)
        live += [each for each, _ in got]
        made += len(got)
        everything = sorted(run for each in live for run in each.frames)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(everything)), (
            "a page is in two objects"
        )
        choice.shuffle(live)
        gone, live = live[100:], live[:100]
        ends = [f"destroy {each.object} {each.opening}" for each in gone]
        assert all(answer["status"] == "0x00000000" for answer in script(bench.guest, ends))
    ends = [f"destroy {each.object} {each.opening}" for each in live]
    assert all(answer["status"] == "0x00000000" for answer in script(bench.guest, ends))
    print(f"{made} objects where they should be, {lacking} for which there was no memory")
    assert made > 20 * lacking
    assert bench.stub.canary().damaged == 0
    assert bench.status()["objects"] == []
    assert kernel_trouble(bench.guest) == []


# ---- again and again -----------------------------------------------------------


@pytest.mark.timeout(14400)
def test_loads_and_unloads(bench: Bench, many: bool) -> None:
    """In one go: a shell in the guest loads, uses and unloads."""
    rounds = 1000 if many else 5
    guest = bench.guest
    assert scenarios.unload_stub(guest)
    use = "dxgkctl create --type mdl --size 256K --limit 0"
    loop = (
        f"i=0; while [ $i -lt $1 ]; do insmod {scenarios.MODULE} mode=logical || exit 1; "
        f"{use} >/dev/null || exit 2; rmmod vdxgk || exit 3; i=$((i+1)); done"
    )
    before = 0
    for count in [2, *batches(rounds, 25)]:  # the first ones fill caches
        guest.run(["sh", "-c", loop, "loop", str(count)], timeout=600).check()
        before = before or available(guest)
        assert bench.status()["donated_bytes"] == 0
        assert bench.status()["dma_mappings"] < 64
    lost = lost_since(guest, before)
    print(f"{rounds} loads, {lost / KIB:.0f} KiB less available than before")
    assert lost < 4 * MIB
    assert kernel_trouble(guest) == []
    assert scenarios.load_stub(guest, "logical")


HOLD = r"""
mkfifo /tmp/hold; i=0
field() { sed -n "s/.*\"$1\": \"\(0x[0-9a-f]*\)\".*/\1/p" /tmp/held | head -n 1; }
until_lines() { until [ "$(wc -l </tmp/held)" -ge $1 ]; do :; done; }
while [ $i -lt $1 ]; do
    : >/tmp/held
    dxgkctl script - </tmp/hold >/tmp/held 2>&1 &
    exec 9>/tmp/hold
    echo "create --type mdl --size 256K --limit 0" >&9; until_lines 1
    echo "map $(field object) --size 256K --user" >&9
    echo "adl $(field adapter_object) --size 256K --limit 0" >&9; until_lines 3
    kill -9 $!; wait $!; exec 9>&-
    i=$((i + 1))
done
rm /tmp/hold
"""


@pytest.mark.timeout(7200)
def test_killed_processes_with_views_and_lists(bench: Bench, many: bool) -> None:
    """A process that holds views is killed; its lists stay the adapter's, and go with it."""
    rounds = 500 if many else 5
    guest = bench.guest
    reload(guest)
    for count in batches(rounds, 10):
        guest.run(["sh", "-c", HOLD, "hold", str(count)], timeout=600).check()
        status = bench.stub.call("status")
        assert (status["views"], status["objects"], status["adls"]) == (0, count, count)
        reload(guest)
        assert bench.status()["objects"] == []
        assert bench.status()["donated_bytes"] == 0
    print(f"{rounds} processes killed")
    assert kernel_trouble(guest) == []


# ---- no memory -------------------------------------------------------------------


def everything(stub: Any) -> dict[str, int]:  # noqa: ANN401 - StatusReply has fewer fields
    status = stub.call("status")
    return {name: status[name] for name in ("objects", "adls", "views")}


def use(guest: Guest) -> int:
    """One of everything, in batches, whatever is refused; how many commands were."""
    refused = 0

    def call(lines: Sequence[str]) -> list[dict[str, Any]]:
        nonlocal refused
        answers = script(guest, lines)
        refused += sum(int(answer["status"], 16) >> 31 for answer in answers)
        return answers

    kinds = ("mdl", "section")
    made = call([f"create --type {kind} --size 300K --no-adapter --limit 0" for kind in kinds])
    objects = [answer["object"] for answer in made if "object" in answer]
    opened = call([f"open {target}" for target in objects])
    openings = [answer.get("adapter_object", "0") for answer in opened]
    lines = [f"adl {opening} --size 300K --limit 0" for opening in openings if opening != "0"]
    lines += [f"map {target} --size 300K" for target in objects]
    lines += [f"map {target} --size 300K --user" for target in objects]
    answers = call([*lines, "pin --size 1M --limit 1"])
    ends = [f"free {answer['adl']}" for answer in answers if "adl" in answer]
    ends += [
        f"unmap {answer['view']}"
        for answer, line in zip(answers, lines, strict=False)
        if "view" in answer and "--user" not in line  # those went with their process
    ]
    ends += ["unpin"] if "pages" in answers[-1] else []
    ends += [f"destroy {target} {o}" for target, o in zip(objects, openings, strict=True)]
    call(ends)
    return refused


@pytest.mark.timeout(1800)
def test_a_backend_without_memory_at_every_step(bench: Bench) -> None:
    guest, control = bench.guest, str(bench.device.control)
    reload(guest)
    steps = 0
    while True:
        ask(control, "misbehave", kind="starve", after=steps)
        refused = use(guest)
        assert everything(bench.stub) == {"objects": 0, "adls": 0, "views": 0}
        assert bench.status()["objects"] == []
        assert not bench.stub.call("status")["dead"]
        if not refused:
            break  # there are no more steps
        steps += 1
    print(f"no memory at each of {steps} requests")
    assert steps >= 10
    assert bench.stub.canary().damaged == 0
    ask(control, "misbehave", kind="starve", after=1 << 30)  # never again
    reload(guest)
    for after in range(2):
        assert scenarios.unload_stub(guest)
        ask(control, "misbehave", kind="starve", after=after)
        assert not scenarios.load_stub(guest, "logical"), "it was to have no memory"
        assert scenarios.unload_stub(guest)
        assert bench.status()["donated_bytes"] == 0
        assert scenarios.load_stub(guest, "logical")
    assert use(guest) == 0
    assert [line for line in kernel_trouble(guest) if "leaked" in line] == []
