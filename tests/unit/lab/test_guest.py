"""Commands in a guest that answers as it likes."""

import base64
from collections.abc import Mapping
from typing import cast

import pytest

from vdxgk_lab.errors import GuestError, GuestTimeout
from vdxgk_lab.guest import Guest
from vdxgk_lab.qmp import Json, QmpPeer, Refused


class FakeAgent:
    """Answers guest-exec-status with `status`, and notes what it was asked."""

    def __init__(self, status: Json, pid: Json = 7) -> None:
        self.asked: list[tuple[str, Mapping[str, object]]] = []
        self._answers = {"guest-exec": {"pid": pid}, "guest-exec-status": status}

    def execute(self, command: str, arguments: Mapping[str, object], timeout: float) -> Json:
        assert timeout > 0
        self.asked.append((command, arguments))
        return self._answers[command]


def guest(agent: object) -> Guest:
    return Guest(cast("QmpPeer", agent), time_scale=1)


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_command() -> None:
    status = {"exited": True, "exitcode": 2, "out-data": coded(b"a\n"), "err-data": coded(b"\xff")}
    agent = FakeAgent(status)
    result = guest(agent).run(["p", "-x", "y z"], stdin=b"in")
    assert (result.exit_status, result.stdout, result.stderr) == (2, "a\n", "�")
    assert result.args == ("p", "-x", "y z")
    command, arguments = agent.asked[0]
    assert (command, arguments["path"], arguments["arg"]) == ("guest-exec", "p", ["-x", "y z"])
    assert arguments["input-data"] == coded(b"in")


def test_signals_count_as_shells_count_them() -> None:
    assert guest(FakeAgent({"exited": True, "signal": 9})).run(["p"]).exit_status == 137


@pytest.mark.parametrize(
    "status",
    [
        None,
        [],
        {"exited": True},
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": 0, "out-data": "not base 64!"},
        {"exited": True, "exitcode": 0, "out-data": "é"},
        {"exited": True, "exitcode": 0, "out-truncated": True, "out-data": ""},
        {"exited": True, "exitcode": 0, "err-truncated": True, "err-data": ""},
    ],
)
def test_nonsense_is_an_error_of_the_guest(status: Json) -> None:
    with pytest.raises(GuestError):
        guest(FakeAgent(status)).run(["p"])


@pytest.mark.parametrize("pid", [None, "7", {}])
def test_nonsense_instead_of_a_process_number(pid: Json) -> None:
    with pytest.raises(GuestError):
        guest(FakeAgent({"exited": True, "exitcode": 0}, pid)).run(["p"])


def test_a_command_that_does_not_end_is_killed() -> None:
    agent = FakeAgent({"exited": False})
    with pytest.raises(GuestTimeout, match="p q did not end"):
        guest(agent).run(["p", "q"], timeout=0)
    assert agent.asked[-1][1] == {"path": "kill", "arg": ["-KILL", "7"]}


def test_what_the_agent_refuses_the_guest_refuses() -> None:
    class Unwilling:
        def execute(self, command: str, arguments: object, timeout: float) -> Json:
            raise Refused("the guest refused guest-exec: no such file.")

    with pytest.raises(GuestError, match="no such file"):
        guest(Unwilling()).run(["p"])


class FakeFiles:
    """An agent with one file, which takes `room` bytes."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.content = b""
        self.closed = False
        self._room = room

    def execute(self, command: str, arguments: Mapping[str, object], timeout: float) -> Json:
        if command == "guest-file-open":
            assert (arguments["path"], arguments["mode"]) == ("/tmp/f", "w")
            return 1000
        assert arguments["handle"] == 1000
        if command == "guest-file-close":
            self.closed = True
            return {}
        chunk = base64.b64decode(str(arguments["buf-b64"]))[: self._room - len(self.content)]
        self.content += chunk
        return {"count": len(chunk), "eof": False}


def test_a_file_is_written_in_chunks() -> None:
    files = FakeFiles()
    content = bytes(range(256)) * (5 << 11)
    guest(files).put("/tmp/f", content)
    assert files.content == content
    assert files.closed


def test_a_full_file_system_is_noticed() -> None:
    files = FakeFiles(room=100)
    with pytest.raises(GuestError, match="in part only"):
        guest(files).put("/tmp/f", bytes(1000))
    assert files.closed
