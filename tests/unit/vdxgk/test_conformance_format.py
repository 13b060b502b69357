"""The vectors' format, the runner's judgement, and the page made from the vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vdxgk.conformance import Answer, Call, Result, Vector, VectorError, run, run_together
from vdxgk.conformance.expression import parse_conditions, parse_value
from vdxgk.conformance.loading import check_unique, parse_topic
from vdxgk.conformance.page import render
from vdxgk.conformance.runner import observe
from vdxgk.memory.ntstatus import NtStatus

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == render(), (
        "python -m vdxgk.conformance.page > docs/conformance.md"
    )


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (7, 7),
            ("4096", 4096),
            ("0x1f", 31),
            ("64K", 65536),
            ("4G-4K", (4 << 30) - 4096),
            ("MAX", (1 << 64) - 1),
            ("MAX+1", 0),
            ("0-1", (1 << 64) - 1),
            ("One|Two", 3),
            ("$a", 10),
            ("$a + 1", 11),
            ("$o.handle|1", 21),
        ],
    )
    def test_values(self, text: object, value: int) -> None:
        names = {"MAX": (1 << 64) - 1, "One": 1, "Two": 2}
        assert parse_value(text, names).evaluate({"a": 10, "o.handle": 20}) == value

    @pytest.mark.parametrize("text", ["", "4 4", "4*4", "Three", "4+", "$", True, 1.5, None])
    def test_what_is_no_value(self, text: object) -> None:
        with pytest.raises(ValueError, match=r"is (not|none|neither)"):
            parse_value(text, {"One": 1})

    @pytest.mark.parametrize(
        ("text", "good", "bad"),
        [
            ("4K", [4096], [4095]),
            (0, [0], [1]),
            ("!= 0", [1], [0]),
            (">= 2, < 4", [2, 3], [1, 4]),
            ("> 2, <= 4", [3, 4], [2, 5]),
            ("multiple of 4K", [0, 8192], [1, 4097]),
        ],
    )
    def test_conditions(self, text: object, good: list[int], bad: list[int]) -> None:
        conditions = parse_conditions(text, {})
        assert all(all(c.holds(number, {}) for c in conditions) for number in good)
        assert not any(all(c.holds(number, {}) for c in conditions) for number in bad)


HEAD = 'call = "AllocateAdl"\ntitle = "T"\nabout = "A"\nsource = "S"\n'
CREATE = '{ call = "CreatePhysicalMemoryObject", Type = "MDL", Size = "4K", save = "object" }'


def topic(steps: str, *, each: str = "", more: str = "", name: str = "v") -> tuple[Vector, ...]:
    text = f'{HEAD}{more}\n[[vector]]\nid = "{name}"\ntitle = "t"\nbasis = "inferred"\n'
    return parse_topic("x.toml", f"{text}{each}\nsteps = [{steps}]\n").vectors


class TestSchema:
    def test_each_as_a_table_of_lists_is_a_product(self) -> None:
        vectors = topic(CREATE, each="each = { a = [1, 2], b = [3, 4, 5] }", name="v/{a}-{b}")
        assert [v.id for v in vectors] == ["v/1-3", "v/1-4", "v/1-5", "v/2-3", "v/2-4", "v/2-5"]

    def test_each_as_a_list_of_tables_is_rows(self) -> None:
        vectors = topic(CREATE, each="each = [{ a = 1, b = 3 }, { a = 2, b = 4 }]", name="v/{a}{b}")
        assert [v.id for v in vectors] == ["v/13", "v/24"]

    def test_defaults_give_way_to_a_step(self) -> None:
        more = '[defaults.CreatePhysicalMemoryObject]\nSize = "8K"\nMdl.HighAddress = "MAX"'
        [vector] = topic(CREATE, more=more)
        values = {name: value.evaluate({}) for name, value in vector.steps[0].arguments}
        assert values == {"Size": 4096, "Mdl.HighAddress": (1 << 64) - 1, "Type": 0}

    def test_sequences_are_written_out(self) -> None:
        more = f"[sequences]\nmade = [{CREATE}]"
        free = '{ call = "FreeAdl", pAdl = "$object.Size" }'
        [vector] = topic(f'"made", {free}', more=more)
        assert [step.call for step in vector.steps] == ["CreatePhysicalMemoryObject", "FreeAdl"]

    @pytest.mark.parametrize(
        ("steps", "message"),
        [
            ('{ call = "Create" }', r"x.toml: v: step 1: call: 'Create' is none of"),
            ('{ call = "FreeAdl", Size = 1 }', r"x.toml: v: step 1: 'Size' is none of"),
            ('{ call = "FreeAdl", pAdl = "$x.pAdl" }', r"step 1: pAdl: \$x.pAdl is not saved"),
            ('{ call = "FreeAdl", status = "STATUS_X" }', r"step 1: status: 'STATUS_X' is none"),
            ('{ call = "FreeAdl", out = { Size = 1 } }', r"step 1: out: 'Size' is none of"),
            ('{ call = "AllocateAdl", out = { pAdl = "?" } }', r"step 1: out: pAdl: '\?' is not"),
            ('{ call = "AllocateAdl", Flags = "Reserved" }', r"step 1: Flags: Reserved is none of"),
            ('{ call = "FreeAdl", pAdl = 1.5 }', r"step 1: pAdl: 1.5 is neither"),
            ('{ call = "FreeAdl", bugcheck = { code = "X", P1 = "Y" } }', r"bugcheck.code: 'X'"),
            ('{ call = "FreeAdl", bugcheck = 7 }', r"bugcheck must have code and P1"),
            ('"nothing"', r"x.toml: v: steps: 'nothing' is none of"),
            ("", r"x.toml: v: steps must be a list"),
            (f'{CREATE}, {{ call = "FreeAdl", pAdl = "{{x}}" }}', r"'\{x\}': 'x' is not in each"),
        ],
    )
    def test_an_error_says_where_and_what(self, steps: str, message: str) -> None:
        with pytest.raises(VectorError, match=message):
            topic(steps)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("call = 7 7", r"x.toml: .*line 1"),
            ('call = "X"\ntitle = "T"\nabout = "A"\nsource = "S"', r"x.toml: call: X is none of"),
            ('call = "FreeAdl"\nabout = "A"\nsource = "S"', r"x.toml: title must be a string"),
            (f'{HEAD}colour = "red"', r"x.toml: colour is none of"),
            (f'{HEAD}[[vector]]\nid = "v"\nstepz = []', r"x.toml: v: stepz is none of"),
            (
                f'{HEAD}[[vector]]\nid = "v"\ntitle = "t"\nbasis = "rumour"\nsteps = [{CREATE}]',
                r"x.toml: v: basis: 'rumour' is none of documented",
            ),
            (
                f'{HEAD}[[vector]]\nid = "v"\ntitle = "t"\nbasis = "header"\n'
                f'requires = ["luck"]\nsteps = [{CREATE}]',
                r"x.toml: v: requires: 'luck' is none of",
            ),
            (f"{HEAD}[defaults.FreeAdl2]\npAdl = 1", r"x.toml: defaults.FreeAdl2: .* is none of"),
            (
                f'{HEAD}[[vector]]\nid = "v"\ntitle = "t"\neach = 7\nsteps = []',
                r"x.toml: v: each must be",
            ),
        ],
    )
    def test_an_error_in_a_file_says_where_and_what(self, text: str, message: str) -> None:
        with pytest.raises(VectorError, match=message):
            parse_topic("x.toml", text)

    def test_an_id_is_there_once(self) -> None:
        with pytest.raises(VectorError, match="b: there are 2"):
            check_unique(["a", "b", "c", "b"])


@dataclass
class Scripted:
    """Answers from a list, whatever is called."""

    answers: list[Answer]
    calls: list[Call] = field(default_factory=list)
    environment: Mapping[str, int] = field(default_factory=lambda: {"adapter": 1})
    features: frozenset[str] = frozenset()

    def _next(self, call: Call) -> Answer:
        self.calls.append(call)
        return self.answers.pop(0)

    create_physical_memory_object = _next
    open_physical_memory_object = _next
    close_physical_memory_object = _next
    destroy_physical_memory_object = _next
    map_physical_memory = _next
    unmap_physical_memory = _next
    allocate_adl = _next
    free_adl = _next
    pin_frame_buffer_for_save2 = _next
    unpin_frame_buffer_for_save = _next
    older_callback = _next

    def carry_out(self, calls: Sequence[Call]) -> list[Answer]:
        return [self._next(call) for call in calls]


OK = Answer(NtStatus.SUCCESS)
MADE = Answer(
    NtStatus.SUCCESS, {"hPhysicalMemoryObject": 5, "hAdapterMemoryObject": 6}, runs=[(4096, 4096)]
)
STOPPED = Answer(NtStatus.RESOURCE_IN_USE, bugchecks=[(0x1E4, 7)])
DESTROY = '{ call = "DestroyPhysicalMemoryObject", hPhysicalMemoryObject = "$object.%s"%s }'
STOPS = (
    ', status = "STATUS_RESOURCE_IN_USE", '
    'bugcheck = { code = "VIDEO_DXGKRNL_SYSMM_FATAL_ERROR", P1 = "ADL_LEAKED" }'
)


def judge(steps: str, *answers: Answer) -> tuple[Result, Scripted]:
    implementation = Scripted([*answers, OK, OK])
    [vector] = topic(steps)
    return run(vector, implementation), implementation


class TestRunner:
    def test_what_a_vector_holds_is_given_back(self) -> None:
        result, implementation = judge(CREATE, MADE)
        assert result.passed
        assert [call.name for call in implementation.calls][1:] == ["DestroyPhysicalMemoryObject"]
        assert implementation.calls[1].arguments == {
            "hPhysicalMemoryObject": 5,
            "hAdapterMemoryObject": 6,
        }

    def test_a_reference_is_what_was_answered(self) -> None:
        free = DESTROY % ("hPhysicalMemoryObject", "")
        result, implementation = judge(f"{CREATE}, {free}", MADE, OK)
        assert result.passed
        assert implementation.calls[1].arguments == {"hPhysicalMemoryObject": 5}
        assert len(implementation.calls) == 2

    def test_the_wrong_status(self) -> None:
        result, implementation = judge(CREATE, Answer(NtStatus.NO_MEMORY))
        assert "STATUS_NO_MEMORY, not STATUS_SUCCESS" in result.failures[0]
        assert len(implementation.calls) == 1

    def test_a_success_that_must_fail_is_tidied_up(self) -> None:
        refused = CREATE.replace('save = "object"', 'status = "STATUS_NO_MEMORY"')
        result, implementation = judge(refused, MADE)
        assert "STATUS_SUCCESS, not STATUS_NO_MEMORY" in result.failures[0]
        assert implementation.calls[1].name == "DestroyPhysicalMemoryObject"

    @pytest.mark.parametrize(
        ("wanted", "answer", "failure"),
        [
            (STOPS, Answer(NtStatus.RESOURCE_IN_USE), "bugchecks none, expected 0x1e4/7"),
            (STOPS, Answer(NtStatus.RESOURCE_IN_USE, bugchecks=[(0x1E4, 6)]), "bugchecks 0x1e4/6"),
            ("", Answer(NtStatus.SUCCESS, bugchecks=[(0x1E4, 7)]), "expected none"),
        ],
    )
    def test_bugchecks(self, wanted: str, answer: Answer, failure: str) -> None:
        step = DESTROY % ("hPhysicalMemoryObject", wanted)
        result, _ = judge(f"{CREATE}, {step}", MADE, answer)
        assert failure in result.failures[0]

    def test_a_call_without_a_status_is_judged_by_bugchecks(self) -> None:
        step = DESTROY % ("hPhysicalMemoryObject", STOPS)
        result, implementation = judge(
            f"{CREATE}, {step}", MADE, Answer(None, bugchecks=[(0x1E4, 7)])
        )
        assert result.passed
        assert len(implementation.calls) == 3, "refused, so the object is still there"

    def test_an_output_that_is_not_as_expected(self) -> None:
        wants = CREATE.replace("save", "out = { hAdapterMemoryObject = 0 }, save")
        result, _ = judge(wants, MADE)
        assert "hAdapterMemoryObject is 0x6, not == 0" in result.failures[0]

    def test_an_output_that_is_missing(self) -> None:
        wants = CREATE.replace("save", 'out = { hAdapterMemoryObject = "!= 0" }, save')
        result, _ = judge(wants, Answer(NtStatus.SUCCESS, {"hPhysicalMemoryObject": 5}))
        assert "no hAdapterMemoryObject" in result.failures[0]

    def test_an_observation_that_is_missing_is_told(self) -> None:
        wants = CREATE.replace("save", "out = { Memory.Runs = 1, Memory.Zeroed = 1 }, save")
        result, _ = judge(wants, MADE)
        assert result.passed
        assert result.unobserved == ["Memory.Zeroed"]

    def test_what_cannot_be_given_back(self) -> None:
        result, implementation = judge(CREATE, MADE, STOPPED)
        assert "afterwards, DestroyPhysicalMemoryObject" in result.failures[0]
        assert len(implementation.calls) == 2

    def test_together_is_as_alone(self) -> None:
        step = DESTROY % ("hPhysicalMemoryObject", "")
        vectors = [*topic(CREATE, name="a"), *topic(f"{CREATE}, {step}", name="b")]
        implementation = Scripted([MADE, Answer(NtStatus.NO_MEMORY), OK])
        results = run_together(vectors, implementation)
        assert results["a"].passed
        assert not results["b"].passed
        assert not implementation.answers


def test_observations() -> None:
    runs = [(0x8000, 0x2000), (0x4000, 0x2000)]
    seen = observe(
        Answer(
            0,
            runs=runs,
            zeroed=False,
            pages=[9, 10, 9],
            contiguous=True,
            cache=2,
            writable=False,
        )
    )
    assert seen == {
        "Memory.Runs": 2,
        "Memory.Size": 0x4000,
        "Memory.Lowest": 0x4000,
        "Memory.Highest": 0x9FFF,
        "Memory.Block": 0x10000,
        "Memory.Alignment": 0x2000,
        "Memory.Zeroed": 0,
        "View.CacheType": 2,
        "View.Writable": 0,
        "Adl.Contiguous": 1,
        "Adl.PageCount": 3,
        "Adl.LastByte": 0xAFFF,
        "Adl.Distinct": 2,
        "Adl.Consecutive": 0,
    }
    assert observe(Answer(0, runs=[(0x4000, 0x4000)]))["Memory.Block"] == 0x4000
