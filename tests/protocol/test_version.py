"""VFIO_USER_VERSION: every rule, from a raw socket."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator

import pytest

from pyvfio_user import Client

from .rig import Raw, Rig

VERSION = 1


@pytest.fixture
def stranger(rig: Rig) -> Iterator[Raw]:
    """Connected, and nothing said."""
    raw = Raw(rig.path)
    yield raw
    raw.close()


def proposal(capabilities: object, major: int = 0, minor: int = 0) -> bytes:
    text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
    return struct.pack("=HH", major, minor) + text


def answered(stranger: Raw, payload: bytes) -> dict[str, object]:
    error, reply = stranger.ask(VERSION, payload)
    assert error == 0
    assert struct.unpack_from("=HH", reply) == (0, 0)
    assert reply[-1:] == b"\0"
    found: dict[str, object] = json.loads(reply[4:-1])["capabilities"]
    return found


class TestReply:
    def test_minor_is_at_most_the_proposed_one(self, stranger: Raw) -> None:
        answered(stranger, proposal({}, minor=0))

    def test_any_minor_of_our_major_is_served(self, stranger: Raw) -> None:
        answered(stranger, proposal({}, minor=7))

    def test_capabilities_are_a_subset_of_those_proposed(self, stranger: Raw) -> None:
        found = answered(stranger, proposal({"max_msg_fds": 4, "pgsizes": 4096}))
        assert set(found) == {"max_msg_fds"}

    def test_every_capability_of_ours_is_named_if_proposed(self, stranger: Raw) -> None:
        found = answered(
            stranger,
            proposal({"max_msg_fds": 4, "max_data_xfer_size": 1 << 20, "write_multiple": True}),
        )
        assert found == {"max_msg_fds": 16, "max_data_xfer_size": 131072, "write_multiple": True}

    def test_qemus_own_proposal_gets_an_answer_that_fits_its_buffer(self, stranger: Raw) -> None:
        """QEMU receives the reply into the buffer of its request: 214 bytes."""
        text = (
            b'{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,'
            b'"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,'
            b'"pgsize":4096},"write_multiple":true}}\0'
        )
        error, reply = stranger.ask(VERSION, struct.pack("=HH", 0, 0) + text)
        assert error == 0
        assert 16 + len(reply) <= 214

    def test_version_data_is_optional(self, stranger: Raw) -> None:
        assert answered(stranger, struct.pack("=HH", 0, 0)) == {}

    def test_capabilities_are_optional(self, stranger: Raw) -> None:
        assert answered(stranger, struct.pack("=HH", 0, 0) + b"{}\0") == {}

    def test_unknown_keys_are_ignored(self, stranger: Raw) -> None:
        found = answered(stranger, proposal({"twin_socket": {"supported": True}, "later": [1]}))
        assert found == {}


class TestRefusal:
    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            pytest.param(proposal({}, major=1), errno.ENOTSUP, id="other-major"),
            pytest.param(b"\0\0", errno.EINVAL, id="short"),
            pytest.param(b"\0\0\0\0{}", errno.EINVAL, id="no-nul"),
            pytest.param(b"\0\0\0\0{\0", errno.EINVAL, id="no-json"),
            pytest.param(b"\0\0\0\0\xff\xfe\0", errno.EINVAL, id="no-utf-8"),
            pytest.param(b"\0\0\0\0[]\0", errno.EINVAL, id="no-object"),
            pytest.param(b"\0\0\0\0" + b"[" * 4000 + b"\0", errno.EINVAL, id="deep"),
            pytest.param(b"\0\0\0\0" + b"9" * 4000 + b"\0", errno.EINVAL, id="long-number"),
            pytest.param(proposal([]), errno.EINVAL, id="capabilities-no-object"),
            pytest.param(proposal({"max_msg_fds": -1}), errno.EINVAL, id="negative"),
            pytest.param(proposal({"max_msg_fds": True}), errno.EINVAL, id="boolean"),
            pytest.param(proposal({"max_data_xfer_size": 0}), errno.EINVAL, id="zero"),
            pytest.param(proposal({"max_data_xfer_size": "1"}), errno.EINVAL, id="string"),
            pytest.param(proposal({"write_multiple": 1}), errno.EINVAL, id="no-boolean"),
        ],
    )
    def test_is_an_error_and_the_end(
        self, rig: Rig, stranger: Raw, payload: bytes, code: int
    ) -> None:
        error, _ = stranger.ask(VERSION, payload)
        assert error == code
        assert stranger.at_end()
        with Client(rig.path) as client:
            client.negotiate()

    def test_anything_else_before_it_is_refused(self, stranger: Raw) -> None:
        error, _ = stranger.ask(4, struct.pack("=IIII", 16, 0, 0, 0))
        assert error == errno.EINVAL
        assert stranger.at_end()

    def test_a_large_one_is_refused_without_being_kept(self, stranger: Raw) -> None:
        stranger.message(VERSION, b"\0\0\0\0", size=1 << 30)
        assert stranger.reply()[3] == errno.E2BIG
        assert stranger.at_end()

    def test_a_second_one_is_refused_but_not_the_end(self, raw: Raw) -> None:
        assert raw.ask(VERSION, proposal({}))[0] == errno.EINVAL
        assert raw.ask(13)[0] == 0
