"""DHCP messages, options and frames, with scapy and dpkt as second opinions."""

import dpkt
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.l2 import Ether

from vnet.errors import WireError
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt
from vnet.wire.dhcpv4 import Message
from vnet.wire.dhcpv4_frame import dhcp_frame, dhcp_payload, is_dhcp

MAC = bytes.fromhex("525400123456")
DISCOVER = Message(
    dhcpv4.BOOTREQUEST, 0x12345678, MAC,
    {opt.MESSAGE_TYPE: b"\x01", opt.CLIENT_ID: b"\x01" + MAC, opt.HOST_NAME: b"web", opt.PARAMETER_REQUEST_LIST: b"\1\3\6"},
    flags=dhcpv4.BROADCAST_FLAG, secs=3,
)  # fmt: skip


def payload_with(options: bytes, sname: bytes = b"", file: bytes = b"", op: int = 1, hlen: int = 6) -> bytes:
    header = bytes((op, 1, hlen, 0)) + bytes(24) + MAC.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return header + dhcpv4.COOKIE + options


def test_a_message_survives_the_round_trip():
    assert dhcpv4.decode(dhcpv4.encode(DISCOVER)) == DISCOVER


def test_unknown_options_numbers_and_fields_survive():
    message = DISCOVER._replace(
        options={opt.MESSAGE_TYPE: b"\x63", 224: b"site", 254: b"", 128: bytes(300)},
        hops=4, htype=6, chaddr=bytes(range(16)),
        ciaddr=b"\x0a\0\0\1", yiaddr=b"\x0a\0\0\2", siaddr=b"\x0a\0\0\3", giaddr=b"\x0a\0\0\4", sname=b"boot", file=b"pxe.0",
        flags=0x7FFF,
    )  # fmt: skip
    assert dhcpv4.decode(dhcpv4.encode(message)) == message
    assert message.message_type == 0x63


def test_scapy_and_dpkt_read_the_same():
    payload = dhcpv4.encode(DISCOVER)
    theirs = BOOTP(payload)
    assert (theirs.xid, theirs.secs, theirs.chaddr[:6]) == (0x12345678, 3, MAC)
    options = dict(each for each in theirs[DHCP].options if isinstance(each, tuple))
    assert options["message-type"] == 1 and options["hostname"] == b"web" and options["param_req_list"] == [1, 3, 6]
    other = dpkt.dhcp.DHCP(payload)
    assert dict(other.opts) == dict(DISCOVER.options) and other.chaddr == MAC


def test_what_scapy_writes_is_read():
    theirs = BOOTP(op=2, xid=9, yiaddr="10.0.0.5", chaddr=MAC) / DHCP(
        options=[("message-type", "ack"), ("lease_time", 3600), ("router", "10.0.0.1", "10.0.0.2"), "end"]
    )
    message = dhcpv4.decode(bytes(theirs))
    assert message.message_type == dhcpv4.ACK and message.yiaddr == b"\x0a\0\0\5"
    assert opt.decode_seconds(message.options[opt.LEASE_TIME]) == 3600
    assert [str(each) for each in opt.decode_addresses(message.options[opt.ROUTER])] == ["10.0.0.1", "10.0.0.2"]


def test_pieces_of_an_option_are_put_together():
    # RFC 3396: one long value, cut where no meaning ends
    message = dhcpv4.decode(payload_with(b"\x06\x03\x0a\0\0" + b"\x35\x01\x01" + b"\x06\x05\x01\x0a\0\0\x02" + b"\xff"))
    assert message.options[opt.DNS_SERVERS] == b"\x0a\0\0\1\x0a\0\0\2"
    assert list(message.options) == [opt.DNS_SERVERS, opt.MESSAGE_TYPE]


def test_options_in_file_and_sname_come_out():
    message = dhcpv4.decode(payload_with(b"\x34\x01\x03\x0f\x02ab\xff", sname=b"\x0f\x02ef\xff", file=b"\0\x0f\x02cd\xff"))
    assert dict(message.options) == {opt.DOMAIN_NAME: b"abcdef"} and message.sname == b"" and message.file == b""


@pytest.mark.parametrize(("bit", "field"), [(1, "sname"), (2, "file")])
def test_a_field_that_is_not_overloaded_keeps_its_name(bit, field):
    message = dhcpv4.decode(payload_with(bytes((0x34, 1, bit, 0xFF)), **{field: b"name"}))
    assert getattr(message, field) == b"name"


def test_what_does_not_fit_goes_into_file_and_sname():
    message = DISCOVER._replace(options={opt.MESSAGE_TYPE: b"\x02", 200: bytes(290), 201: b"a" * 120, 202: b"b" * 60})
    payload = dhcpv4.encode(message, dhcpv4.DEFAULT_MAX_OCTETS)
    assert len(payload) <= dhcpv4.DEFAULT_MAX_OCTETS and dhcpv4.decode(payload) == message


def test_what_fits_nowhere_is_left_out_and_the_rest_is_not():
    message = DISCOVER._replace(options={opt.MESSAGE_TYPE: b"\x02", 200: bytes(290), 201: bytes(200), 202: b"b"}, file=b"f")
    got = dhcpv4.decode(dhcpv4.encode(message, dhcpv4.DEFAULT_MAX_OCTETS))
    assert set(got.options) == {opt.MESSAGE_TYPE, 200, 202} and got.file == b"f"


def test_short_messages_are_padded_to_bootp_size():
    assert len(dhcpv4.encode(DISCOVER)) == dhcpv4.MIN_OCTETS


def test_an_options_field_without_end_is_read():
    assert dhcpv4.decode(payload_with(b"\x35\x01\x03")).message_type == dhcpv4.REQUEST


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(239),
        payload_with(b"")[:236] + b"abcd",
        payload_with(b"\x35"),
        payload_with(b"\x35\x02\x01"),
        payload_with(b"\xff", op=3),
        payload_with(b"\xff", hlen=17),
        payload_with(b"\x34\x01\x04\xff"),
        payload_with(b"\x34\x02\x01\x01\xff"),
        payload_with(b"\x34\x01\x01\xff", file=b"\x0f\xff"),
        payload_with(b"\x34\x01\x01\xff", file=b"\x34\x01\x02\xff"),
    ],
)
def test_what_is_no_dhcp_message_is_refused(payload):
    with pytest.raises(WireError):
        dhcpv4.decode(payload)


def test_no_message_type_means_bootp():
    message = dhcpv4.decode(payload_with(b"\xff"))
    assert message.message_type == 0 and message.describe().startswith("DHCP BOOTP")
    assert DISCOVER.describe() == "DHCP DISCOVER xid 12345678"


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (opt.decode_address, b"\1\2\3"), (opt.decode_addresses, b""), (opt.decode_addresses, bytes(5)),
        (opt.decode_seconds, bytes(5)), (opt.decode_mask, b"\xff\0\xff\0"), (opt.decode_mask, b"\xff"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_size_are_refused(read, wrong):
    with pytest.raises(WireError):
        read(wrong)


def test_values():
    assert opt.decode_mask(b"\xff\xff\xfe\0") == 23 and opt.decode_mask(bytes(4)) == 0 and opt.decode_mask(b"\xff" * 4) == 32
    assert opt.encode_seconds(129600) == b"\x00\x01\xfa\x40" and opt.encode_seconds(1 << 40) == b"\xff" * 4
    assert opt.decode_text(b"dmz.example\0") == "dmz.example"
    assert opt.decode_text(b"\x1b[31m\xe4") == "?[31m?", "a name may be printed on a terminal as it is"


def frame(payload: bytes) -> bytes:
    return dhcp_frame(b"\xff" * 6, MAC, bytes(4), b"\xff" * 4, 68, 67, payload)


@pytest.mark.parametrize("size", [0, 1, 300, 301])
def test_frames_are_what_scapy_makes_of_them(size):
    ours = frame(bytes(range(1, 256))[:size].ljust(size, b"x"))
    theirs = Ether(ours)
    del theirs["IP"].chksum, theirs["UDP"].chksum
    assert bytes(theirs) == ours
    assert is_dhcp(ours, b"\0\x43") and dhcp_payload(ours, bytes(10)) == ours[42:]


def test_padding_behind_the_datagram_is_cut_off():
    assert dhcp_payload(frame(b"abc") + bytes(15), bytes(10)) == b"abc"


@pytest.mark.parametrize("at", [16, 17, 26, 33, 38, 39, 41, 50])
def test_a_changed_octet_is_found(at):
    good = frame(b"\1" * 20)
    bad = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
    assert dhcp_payload(bad, bytes(10)) is None


def test_a_checksum_that_is_still_to_be_completed_is_not_looked_at():
    partial = frame(b"abcd")[:40] + b"\x12\x34" + b"abcd"
    assert dhcp_payload(partial, bytes(10)) is None
    assert dhcp_payload(partial, b"\1" + bytes(9)) == b"abcd"
    assert dhcp_payload(frame(b"abcd")[:40] + b"\0\0abcd", bytes(10)) == b"abcd", "no checksum (RFC 768)"


@pytest.mark.parametrize(
    "change",
    [(12, b"\x86\xdd"), (14, b"\x46"), (20, b"\x20"), (21, b"\x01"), (23, b"\x06"), (36, b"\0\x45")],
)
def test_other_frames_are_not_taken(change):
    at, octets = change
    good = frame(b"abcd")
    assert not is_dhcp(good[:at] + octets + good[at + len(octets) :], b"\0\x43")
    assert not is_dhcp(good[:41], b"\0\x43") and not is_dhcp(b"", b"\0\x43")
