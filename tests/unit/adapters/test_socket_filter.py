"""What of an interface's traffic a packet socket is shown: the filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import pytest

from vnet.adapters.socket_filter import Instruction, of_vlan
from vnet.adapters.to_machine import OWN_MARKS, TURNED_MARK, own_mark

HOST, BROADCAST, OTHERHOST, OUTGOING, LOOPBACK = 0, 1, 3, 4, 5


def passes(program: list[Instruction], **of_frame: int) -> bool:
    metadata = {"type": HOST, "mark": 0, "tag": 0, "present": 0, "tpid": 0} | of_frame
    words = dict(zip((4, 20, 44, 48, 60), metadata.values(), strict=True))
    accumulator, at = 0, 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        if code == 0x20:
            accumulator = words[operand - 0xFFFFF000]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += true if accumulator == operand else false
        elif code == 0x25:
            at += true if accumulator > operand else false
        else:
            assert code == 0x06
            return operand > 0


def tagged(tci: int, tpid: int = 0x8100) -> dict[str, int]:
    return {"present": 1, "tag": tci, "tpid": tpid}


@pytest.mark.parametrize(
    ("vid", "frame", "expected"),
    [
        (None, {}, True),
        (None, tagged(0x6000), True),  # priority-tagged (IEEE 802.1Q, 9.6)
        (None, tagged(16), False),
        (None, tagged(16, 0x88A8), False),
        (16, {}, False),
        (16, tagged(16), True),
        (16, tagged(0xF010), True),  # PCP and DEI do not matter
        (16, tagged(20), False),
        (16, tagged(0x6000), False),
        (16, tagged(16, 0x88A8), False),  # an S-tag is another kind of VLAN
    ],
)
def test_a_network_sees_its_own_vlan(vid: int | None, frame: dict[str, int], expected: bool) -> None:
    assert passes(of_vlan(vid, outgoing=False), **frame) is expected


@pytest.mark.parametrize("vid", [None, 16])
def test_what_is_sent_here_is_seen_only_on_demand_and_never_our_own(vid: int | None) -> None:
    marks = [own_mark(bytes(2)), own_mark(b"\xff\xff"), own_mark(b"\xff\xfe")]
    assert OWN_MARKS not in marks and TURNED_MARK not in marks and len(set(marks)) == 3 - (marks[0] == marks[2])
    frame = {} if vid is None else tagged(vid)
    silent, seeing = of_vlan(vid, outgoing=False), of_vlan(vid, outgoing=True)
    for kind in (HOST, BROADCAST, OTHERHOST):
        assert passes(silent, type=kind, **frame) and passes(seeing, type=kind, **frame)
        # by a cable of this machine's, from another NIC that a lab sends by
        assert passes(seeing, type=kind, mark=marks[1], **frame) and passes(silent, type=kind, mark=marks[1], **frame)
        assert not passes(seeing, type=kind, mark=TURNED_MARK, **frame)
        assert not passes(silent, type=kind, mark=TURNED_MARK, **frame)
    assert not passes(silent, type=OUTGOING, **frame) and passes(seeing, type=OUTGOING, **frame)
    assert passes(seeing, type=OUTGOING, mark=1, **frame)  # the machine's own, for its routing
    assert not any(passes(seeing, type=OUTGOING, mark=mark, **frame) for mark in marks)
    assert not passes(silent, type=LOOPBACK, **frame) and not passes(seeing, type=LOOPBACK, **frame)
