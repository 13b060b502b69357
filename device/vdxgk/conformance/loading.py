"""The vector files: read, expanded, checked.

A file is about one call.  ``[defaults.<Call>]`` are arguments that a step may
leave out, ``[sequences]`` are steps that a vector names instead of repeating
them.  A vector with ``each`` stands for several: a table of lists gives every
combination, a list of tables one vector for each; ``{key}`` in any of its
strings is replaced.
"""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from vdxgk.conformance.expression import Value, parse_conditions, parse_value
from vdxgk.conformance.vector import (
    BASES,
    CALLS,
    FEATURES,
    Family,
    Step,
    Topic,
    Vector,
    names,
)
from vdxgk.memory.ddi import Bugcheck, SysmmFatalError
from vdxgk.memory.ntstatus import NtStatus

_STATUSES = {status.symbol for status in NtStatus}
_BUGCHECKS = {code.name: code.value for code in Bugcheck}
_SUBCODES = {code.name: code.value for code in SysmmFatalError}
STEP_KEYS = {"call", "status", "out", "save", "bugcheck"}
_VECTOR_KEYS = {"id", "title", "basis", "status_basis", "source", "requires", "each", "steps"}
_TOPIC_KEYS = {"call", "title", "about", "source", "defaults", "sequences", "vector"}
ENVIRONMENT = frozenset(
    {"adapter", "second_adapter", "highest_visible", "io_space", "save_area", "physical_adapter"}
)


class VectorError(ValueError):
    """A vector file says something that cannot be: where, and what."""


@cache
def load_topics() -> tuple[Topic, ...]:
    """All files that come with the package.  Raises VectorError."""
    folder = resources.files(__package__) / "vectors"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name
    )
    topics = tuple(parse_topic(file.name, file.read_text("utf-8")) for file in files)
    check_unique(vector.id for topic in topics for vector in topic.vectors)
    return topics


def check_unique(ids: Iterable[str]) -> None:
    """Raise VectorError if an id comes twice."""
    for name, count in Counter(ids).items():
        if count > 1:
            raise VectorError(f"{name}: there are {count} vectors of that id")


def load() -> tuple[Vector, ...]:
    """All vectors, in the order of the files."""
    return tuple(vector for topic in load_topics() for vector in topic.vectors)


def parse_topic(name: str, text: str) -> Topic:
    """One file's text.  Raises VectorError that begins with ``name``."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise VectorError(f"{name}: {error}") from error
    _known(name, raw, _TOPIC_KEYS)
    for key in ("call", "title", "about", "source"):
        _string(name, raw, key)
    if raw["call"] not in CALLS:
        raise VectorError(f"{name}: call: {raw['call']} is none of {', '.join(CALLS)}")
    reader = _Reader(name, raw.get("defaults", {}), raw.get("sequences", {}), raw["source"])
    return Topic(
        name=name.removesuffix(".toml"),
        call=raw["call"],
        title=raw["title"],
        about=raw["about"].strip(),
        defaults=reader.defaults,
        families=tuple(reader.family(item) for item in raw.get("vector", [])),
    )


def _known(where: str, raw: Mapping[str, Any], keys: set[str]) -> None:
    for key in raw:
        if key not in keys:
            raise VectorError(f"{where}: {key} is none of {', '.join(sorted(keys))}")


def _string(where: str, raw: Mapping[str, Any], key: str) -> str:
    if not isinstance(raw.get(key), str) or not raw[key]:
        raise VectorError(f"{where}: {key} must be a string")
    return str(raw[key])


def _choice(where: str, value: object, choices: Any) -> str:  # noqa: ANN401 - any collection
    if value not in choices:
        raise VectorError(f"{where}: {value!r} is none of {', '.join(sorted(choices))}")
    return str(value)


def flatten(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of nested tables by their dotted names."""
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _rows(where: str, each: object) -> list[dict[str, Any]]:
    if each is None:
        return [{}]
    if isinstance(each, dict) and each and all(isinstance(v, list) for v in each.values()):
        return [
            dict(zip(each, row, strict=True)) for row in itertools.product(*list(each.values()))
        ]
    if isinstance(each, list) and each and all(isinstance(row, dict) for row in each):
        return each
    raise VectorError(f"{where}: each must be a table of lists or a list of tables")


def _substitute(where: str, raw: Any, row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - TOML
    if isinstance(raw, str):
        try:
            return raw.format_map(row)
        except (KeyError, ValueError, IndexError) as error:
            raise VectorError(f"{where}: {raw!r}: {error} is not in each") from error
    if isinstance(raw, dict):
        return {key: _substitute(where, value, row) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_substitute(where, value, row) for value in raw]
    return raw


class _Reader:
    """What the vectors of one file share."""

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, Any],
        sequences: Mapping[str, list[Any]],
        source: str,
    ) -> None:
        self._name = name
        self._sequences = sequences
        self._source = source
        self.defaults: dict[str, dict[str, Any]] = {}
        for call, fields in defaults.items():
            where = f"{name}: defaults.{call}"
            _choice(where, call, CALLS)
            self.defaults[call] = dict(flatten(fields))

    def family(self, raw: Mapping[str, Any]) -> Family:
        """What one table of the file stands for."""
        where = f"{self._name}: {raw.get('id', 'a vector without id')}"
        _known(where, raw, _VECTOR_KEYS)
        body = {key: value for key, value in raw.items() if key != "each"}
        rows = _rows(where, raw.get("each"))
        return Family(
            id=_string(where, raw, "id"),
            title=_string(where, raw, "title"),
            steps=tuple(self._inlined(where, raw.get("steps"))),
            rows=tuple(rows),
            vectors=tuple(self._vector(_substitute(where, body, row)) for row in rows),
        )

    def _vector(self, raw: Mapping[str, Any]) -> Vector:
        where = f"{self._name}: {_string(self._name, raw, 'id')}"
        basis = _choice(f"{where}: basis", raw.get("basis"), BASES)
        # A failure's status is inferred unless the page names it.
        status_basis = raw.get("status_basis", "inferred")
        requires = raw.get("requires", [])
        for feature in requires:
            _choice(f"{where}: requires", feature, FEATURES)
        known = set(ENVIRONMENT)
        steps = []
        for number, item in enumerate(self._inlined(where, raw.get("steps")), 1):
            step = self._step(f"{where}: step {number}", item, known)
            steps.append(step)
            if step.save:
                known |= {f"{step.save}.{field}" for field, _ in step.arguments}
                known |= {f"{step.save}.{field}" for field in CALLS[step.call].outputs}
        return Vector(
            id=raw["id"],
            title=_string(where, raw, "title"),
            basis=basis,
            status_basis=_choice(f"{where}: status_basis", status_basis, BASES),
            source=raw.get("source", self._source),
            requires=frozenset(requires),
            steps=tuple(steps),
        )

    def _inlined(self, where: str, steps: object) -> Iterator[Mapping[str, Any]]:
        if not isinstance(steps, list) or not steps:
            raise VectorError(f"{where}: steps must be a list that is not empty")
        for step in steps:
            if isinstance(step, str):
                _choice(f"{where}: steps", step, self._sequences)
                yield from self._inlined(where, self._sequences[step])
            else:
                yield step

    def _step(self, where: str, raw: Mapping[str, Any], known: set[str]) -> Step:
        call = _choice(f"{where}: call", raw.get("call"), CALLS)
        shape = CALLS[call]
        fields = {key: value for key, value in raw.items() if key not in STEP_KEYS}
        arguments = self.defaults.get(call, {}) | dict(flatten(fields))
        values = []
        for field, value in arguments.items():
            _choice(where, field, shape.inputs)
            try:
                parsed = parse_value(value, names(call, field))
            except ValueError as error:
                raise VectorError(f"{where}: {field}: {error}") from error
            _check_references(f"{where}: {field}", parsed, known)
            values.append((field, parsed))
        status = _choice(f"{where}: status", raw.get("status", "STATUS_SUCCESS"), _STATUSES)
        return Step(
            call=call,
            arguments=tuple(values),
            status=status,
            outputs=tuple(self._outputs(where, call, raw.get("out", {}), known)),
            save=raw.get("save"),
            bugcheck=_bugcheck(where, raw.get("bugcheck")),
        )

    @staticmethod
    def _outputs(where: str, call: str, raw: Mapping[str, Any], known: set[str]) -> Iterator[Any]:
        shape = CALLS[call]
        for field, value in flatten(raw):
            _choice(f"{where}: out", field, shape.outputs + shape.observations)
            try:
                conditions = parse_conditions(value, names(call, field))
            except ValueError as error:
                raise VectorError(f"{where}: out: {field}: {error}") from error
            for condition in conditions:
                _check_references(f"{where}: out: {field}", condition.value, known)
            yield field, conditions


def _check_references(where: str, value: Value, known: set[str]) -> None:
    for reference in value.references - known:
        raise VectorError(f"{where}: ${reference} is not saved by an earlier step")


def _bugcheck(where: str, raw: object) -> tuple[int, int] | None:
    if raw is None:
        return None
    if not isinstance(raw, dict) or set(raw) != {"code", "P1"}:
        raise VectorError(f"{where}: bugcheck must have code and P1")
    code = _choice(f"{where}: bugcheck.code", raw["code"], _BUGCHECKS)
    subcode = _choice(f"{where}: bugcheck.P1", raw["P1"], _SUBCODES)
    return _BUGCHECKS[code], _SUBCODES[subcode]
