"""A topology as its author types it: the structs behind topology files, the JSON Schema and topologies built in Python.

Times, rates, sizes and addresses are still text here (``units`` and ``addressing`` read them), what is not given is ``None``
or empty, and nothing refers to anything yet: ``resolve`` does all that. The descriptions are the reference manual of the
format; ``vnet schema`` prints them, and editors show them while one types.

A struct built in Python may be sloppy (a list for a tuple, ``None`` for nothing): ``resolve`` checks it like a file.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, field

from vnet.topology.adapter_kinds.choice import AdapterChoice
from vnet.topology.program_model import Program
from vnet.topology.vocabulary import (
    AddressText,
    DurationText,
    InterfaceText,
    MacText,
    NetworkName,
    PrefixText,
    RateText,
    RatioText,
    SizeText,
    Strict,
    Vlan,
    VlanList,
    about,
)

ProfileName: TypeAlias = Literal["vnet", "virtual-server-2005r2", "virtual-pc", "vmware", "esx", "xen"]


class Impaired(Strict, frozen=True, kw_only=True):
    """What a cable may do to frames; shared by links and NICs."""

    rate: Annotated[RateText | None, about("Bits per second in each direction; not given: no limit.")] = None
    latency: Annotated[DurationText | None, about("One-way delay; not given: none.")] = None
    delay_variation: Annotated[
        DurationText | None, about("How much longer than latency frames may take; they keep their order.")
    ] = None
    loss: Annotated[RatioText | None, about("Share of the frames that get lost: 0.1% or 0.001.")] = None
    reordering: Annotated[RatioText | None, about("Share of the frames that overtake those on their way.")] = None
    duplication: Annotated[RatioText | None, about("Share of the frames that arrive twice.")] = None
    corruption: Annotated[RatioText | None, about("Share of the frames that arrive with one bit flipped.")] = None
    queue: Annotated[SizeText | None, about("How much may wait for a limited rate before frames are dropped.")] = None


class Dhcp(Strict, frozen=True, kw_only=True):
    """The network's virtual DHCP server. {} turns it on with everything derived from the subnet."""

    server: Annotated[
        AddressText | None,
        about("The server's own address, outside the range; not given: the first free address of the subnet."),
    ] = None
    range: Annotated[
        str | None,
        about(
            "First and last address to lease, such as 172.17.1.16-172.17.1.254. Not given: from .16 (of a subnet"
            " of at least 32 addresses) to the last one, or the longest run of it that no static address interrupts."
        ),
    ] = None
    gateway: Annotated[
        AddressText | None,
        about(
            "The router that clients are told (option 3). Not given: the address of the first router on the"
            " network; none: clients are told none."
        ),
    ] = None
    dns: Annotated[list[AddressText], about("DNS servers (option 6).")] = []
    wins: Annotated[list[AddressText], about("WINS servers (option 44).")] = []
    lease: Annotated[DurationText | None, about("How long a lease holds; not given: 36h.")] = None
    renew: Annotated[DurationText | None, about("T1, when clients renew; not given: half the lease.")] = None
    rebind: Annotated[DurationText | None, about("T2, when they ask any server; not given: 3/4 of the lease.")] = None
    domain: Annotated[str | None, about("The domain name that clients are told (option 15).")] = None
    reservations: Annotated[
        dict[str, AddressText],
        about("Addresses that are kept: by guest name or by MAC address (in quotes)."),
    ] = {}


class Network(Strict, frozen=True, kw_only=True):
    """A virtual network: one broadcast domain on its own VLAN."""

    vlan: Annotated[int | None, about("VLAN number, 1 to 4094; not given: one is allotted, from 101 up.")] = None
    subnet: Annotated[PrefixText | None, about("The network's IP prefix; without it, it is pure layer 2.")] = None
    adapter: AdapterChoice = "none"
    notes: Annotated[str, about("Anything worth knowing; shown by vnet show.")] = ""
    dhcp: Annotated[Dhcp | None, about("The virtual DHCP server; {} for all defaults, not given: none.")] = None
    switch: Annotated[
        str | None, about("The switch that the DHCP server and the adapter are plugged in; not given: the first one.")
    ] = None


class Route(Strict, frozen=True, kw_only=True):
    """A static route."""

    to: Annotated[PrefixText, about("The destination, such as 10.20.100.0/24.")]
    via: Annotated[AddressText, about("The next router, on a network that this node is on.")]


class RouterInterface(Impaired, frozen=True, kw_only=True):
    """A router's interface on one network."""

    address: Annotated[InterfaceText | list[InterfaceText], about("The address there, or several.")]
    mac: MacText | None = None
    mtu: Annotated[int | None, about("Largest IP packet; not given: 1500.")] = None
    switch: Annotated[str | None, about("The switch it is plugged in; not given: the router's.")] = None


class Forward(Strict, frozen=True, kw_only=True):
    """A port forward: connections to the outside address and port go to a host inside."""

    protocol: Annotated[Literal["tcp", "udp"], about("Not given: tcp.")] = "tcp"
    port: Annotated[int, about("Port on the router's outside address.")]
    to: Annotated[str, about('Where it goes: "172.17.1.26:80" or "web:80"; without a port, the same port.')]


class NatTimeouts(Strict, frozen=True, kw_only=True):
    """How long an unused mapping lives."""

    udp: Annotated[DurationText | None, about("Not given: 300s (RFC 4787).")] = None
    tcp_established: Annotated[DurationText | None, about("Not given: 124min (RFC 5382).")] = None
    tcp_transitory: Annotated[DurationText | None, about("Not given: 4min (RFC 5382).")] = None
    icmp: Annotated[DurationText | None, about("Not given: 60s (RFC 5508).")] = None


class Nat(Strict, frozen=True, kw_only=True):
    """Network address and port translation: networks inside share the router's address outside."""

    outside: Annotated[NetworkName, about("The network whose address is used: one of the router's interfaces.")]
    inside: Annotated[
        list[NetworkName],
        about("The networks that are translated: the router's own, or such as it has a route to."),
    ]
    forwards: Annotated[list[Forward], about("Ports of the outside address that lead inside.")] = []
    hairpin: Annotated[bool, about("Whether forwards work from inside too; not given: yes.")] = True
    timeouts: NatTimeouts | None = None


class Rule(Strict, frozen=True, kw_only=True):
    """What the firewall lets pass. Every condition that is given must hold; {} allows everything."""

    from_: Annotated[
        NetworkName | list[NetworkName] | None,
        about("Where packets come in: the router's network, or several; not given: any."),
    ] = field(default=None, name="from")
    to: Annotated[
        NetworkName | list[NetworkName] | None,
        about("Where packets go out: the router's network, or several; not given: any."),
    ] = None
    protocol: Annotated[Literal["any", "tcp", "udp", "icmp"], about("Not given: any.")] = "any"
    port: Annotated[
        int | str | list[int | str] | None,
        about("Destination ports, for tcp and udp: 80, 8000-8010, or a list of such."),
    ] = None
    source: Annotated[
        PrefixText | list[PrefixText] | None, about("Source addresses or prefixes, or names of guests or networks.")
    ] = None
    destination: Annotated[
        PrefixText | list[PrefixText] | None, about("Destination addresses or prefixes, or names of guests or networks.")
    ] = None


class Firewall(Strict, frozen=True, kw_only=True):
    """A stateful firewall between the router's networks; replies to what was allowed always pass."""

    policy: Annotated[
        Literal["drop", "accept", "reject"],
        about("What happens to packets that no rule allows; not given: drop."),
    ] = "drop"
    allow: Annotated[list[Rule], about("What passes, such as {from: internet, to: dmz, protocol: tcp, port: 80}.")] = []


class Router(Strict, frozen=True, kw_only=True):
    """A router: it forwards packets between its networks, with NAT and a firewall if wanted."""

    interfaces: Annotated[
        dict[NetworkName, InterfaceText | list[InterfaceText] | RouterInterface],
        about("By network: its address there, a list of addresses, or a mapping with more."),
    ]
    default_gateway: Annotated[AddressText | None, about("Where everything else goes.")] = None
    routes: Annotated[list[Route], about("Static routes, such as {to: 10.20.100.0/24, via: 172.17.1.254}.")] = []
    nat: Nat | None = None
    firewall: Annotated[Firewall | None, about("Not given: everything passes.")] = None
    switch: Annotated[str | None, about("The switch it is plugged in; not given: the first one.")] = None
    notes: Annotated[str, about("Anything worth knowing.")] = ""


class Switch(Strict, frozen=True, kw_only=True):
    """A VLAN-aware learning switch."""

    stp: Annotated[Literal["stp", "rstp"] | None, about("Spanning tree. Not built yet: has no effect.")] = None
    priority: Annotated[int | None, about("Bridge priority for spanning tree: 0 to 61440, in steps of 4096.")] = None
    ageing: Annotated[DurationText | None, about("How long a learnt address is kept; not given: 300s.")] = None
    fdb_size: Annotated[int | None, about("How many addresses are kept; not given: 8192.")] = None
    mtu: Annotated[int | None, about("Largest payload of a frame; not given: 9000.")] = None
    notes: Annotated[str, about("Anything worth knowing.")] = ""


class Link(Impaired, frozen=True, kw_only=True):
    """A cable between two switches: a trunk (all VLANs if nothing is said), or an access link of one VLAN."""

    between: Annotated[list[str], Meta(description="The two switches.", min_length=2, max_length=2)]
    trunk: VlanList | None = None
    native: Annotated[Vlan | None, about("The trunk's VLAN that travels untagged; not given: all are tagged.")] = None
    vlan: Annotated[Vlan | None, about("Makes it an access link: this VLAN only, untagged.")] = None


class SubInterface(Strict, frozen=True, kw_only=True):
    """A VLAN sub-interface of a NIC on a trunk; MAC address and MTU are the NIC's."""

    address: Annotated[InterfaceText | list[InterfaceText] | None, about("Static address, or several.")] = None
    gateway: Annotated[AddressText | None, about("As for a NIC.")] = None
    dhcp: Annotated[bool | None, about("As for a NIC.")] = None
    ipv6: Annotated[Literal["auto", "link-local"] | None, about("As for a NIC.")] = None
    name: Annotated[str | None, about("Not given: the NIC's and the VLAN's number, such as eth0.16.")] = None


class BondMember(Impaired, frozen=True, kw_only=True):
    """A member of a bond: a NIC with its cable, and nothing else of its own."""

    switch: Annotated[str | None, about("The switch it is plugged in; not given: the bond's.")] = None
    name: Annotated[str | None, about("Not given: eth0, eth1, ...")] = None


class Bond(Strict, frozen=True, kw_only=True):
    """Several NICs as one interface, of which one is in use; the options are those of the Linux bonding driver."""

    mode: Annotated[str, about("active-backup; others need link aggregation of switches, which is not built yet.")] = (
        "active-backup"
    )
    members: Annotated[
        list[str | BondMember], about("The NICs, at least two: a switch's name, or a mapping with more ({} will do).")
    ]
    miimon: Annotated[
        DurationText | None, about("How often carriers are looked at; not given: 100ms, or not at all with arp_interval.")
    ] = None
    updelay: Annotated[DurationText | None, about("How long a carrier has to be back before its link counts as up.")] = None
    downdelay: Annotated[DurationText | None, about("How long a carrier has to be gone before its link is down.")] = None
    primary: Annotated[str | None, about("The member that is used whenever it can be; not given: none is.")] = None
    primary_reselect: Annotated[
        Literal["always", "better", "failure"] | None,
        about(
            "When the primary that comes back is used again: always; if its cable's rate is better; at the other's failure."
            " Not given: always."
        ),
    ] = None
    num_grat_arp: Annotated[
        int | None, about("How often addresses are announced after a failover, 0 to 255, miimon apart; not given: 1.")
    ] = None
    arp_interval: Annotated[
        DurationText | None, about("Watch the links by ARP requests this often, instead of by carriers.")
    ] = None
    arp_ip_target: Annotated[
        AddressText | list[AddressText] | None, about("Whom to ask, up to 16 addresses; with arp_interval.")
    ] = None
    arp_validate: Annotated[
        Literal["none", "active", "backup", "all"] | None,
        about("Members of which only the right ARP packets show that the link is up. Not given: none, any frame does."),
    ] = None


class Nic(Impaired, frozen=True, kw_only=True):
    """A guest's NIC and its cable to a switch, or a bond of several."""

    network: Annotated[NetworkName | None, about("The network it is on; not for a trunk.")] = None
    address: Annotated[InterfaceText | list[InterfaceText] | None, about("Static address, or several.")] = None
    gateway: Annotated[
        AddressText | None,
        about(
            "Default gateway of a static address. Not given: the router's address if there is exactly one router on"
            " the network; none: no gateway."
        ),
    ] = None
    mac: Annotated[MacText | None, about("Not given: derived from the names of lab, guest and NIC.")] = None
    dhcp: Annotated[
        Literal["vnet"] | bool | None,
        about(
            "Whether the address comes from DHCP; not given: if the network has a DHCP server and no address is given."
            " In a namespace vnet asks for it only with dhcp: vnet."
        ),
    ] = None
    ipv6: Annotated[
        Literal["auto", "link-local"] | None,
        about(
            "IPv6: auto, with addresses and routers from router advertisements; link-local, with that address alone. Not"
            " given: as far as there is a static IPv6 address, which brings a link-local one."
        ),
    ] = None
    trunk: Annotated[VlanList | None, about("The NIC gets these VLANs, tagged, instead of one network.")] = None
    native: Annotated[Vlan | None, about("The trunk's VLAN that travels untagged.")] = None
    vlans: Annotated[
        dict[str, InterfaceText | list[InterfaceText] | SubInterface | None],
        about(
            "VLAN sub-interfaces of an emulated guest on a trunk, by VLAN (its number or its network's name): the address"
            " there, a list of addresses, or a mapping with more. They are called eth0.16 and send and receive tagged."
        ),
    ] = {}
    bond: Annotated[
        Bond | None,
        about(
            "The NIC is a bond of several, called bond0: one interface of an emulated guest with a cable for each member."
        ),
    ] = None
    name: Annotated[str | None, about("Not given: eth0, eth1, ..., or bond0, bond1, ...")] = None
    mtu: Annotated[int | None, about("Largest IP packet; not given: 1500.")] = None
    model: Annotated[
        str | None,
        about("QEMU: device model: virtio (the default), e1000, rtl8139, pcnet, ne2k, tulip, vmxnet3, ..."),
    ] = None
    switch: Annotated[str | None, about("The switch it is plugged in; not given: the guest's.")] = None


class Guest(Strict, frozen=True, kw_only=True):
    """A machine on the networks: emulated in process, a network namespace, that of a running process, or QEMU."""

    kind: Annotated[
        Literal["emulated", "namespace", "attach", "qemu"],
        about(
            "emulated (the default): an IP stack in process; namespace: real Linux processes behind a TAP; attach: a process"
            " that runs already, such as a container's; qemu: a virtual machine."
        ),
    ] = "emulated"
    nics: Annotated[list[NetworkName | Nic], about("The NICs in order: a network's name, or a mapping with more.")] = []
    switch: Annotated[str | None, about("The switch it is plugged in; not given: the first one.")] = None
    namespace: Annotated[str | None, about("Name of the network namespace; not given: LAB-GUEST.")] = None
    pid: Annotated[int | None, about("The process whose network namespace a guest of kind attach is.")] = None
    gateway: Annotated[AddressText | None, about("Default gateway; not given: that of its first NIC with one.")] = None
    routes: Annotated[list[Route], about("Static routes.")] = []
    dns: Annotated[list[AddressText], about("DNS servers, asked before those that DHCP tells.")] = []
    search: Annotated[
        list[str], about("Domains in which names without a dot are looked up; not given: what DHCP tells.")
    ] = []
    run: Annotated[
        list[str | Program],
        about(
            "Programs of an emulated guest: a name (echo, iperf3, sink), a name with options such as {http: {folder: www}},"
            " or module:function, an async function that is called with the guest."
        ),
    ] = []
    notes: Annotated[str, about("Anything worth knowing.")] = ""
    kernel: Annotated[str | None, about("QEMU: kernel image; as all paths, beside the topology file.")] = None
    initrd: Annotated[str | None, about("QEMU: initial RAM disk.")] = None
    append: Annotated[str | None, about("QEMU: kernel command line.")] = None
    disk: Annotated[str | None, about("QEMU: disk image, raw or qcow2; the machine writes to it.")] = None
    iso: Annotated[str | None, about("QEMU: CD image.")] = None
    memory: Annotated[SizeText | None, about("QEMU: memory; not given: 256MiB.")] = None
    cpus: Annotated[int | None, about("QEMU: number of CPUs; not given: 1.")] = None
    machine: Annotated[str | None, about("QEMU: machine type; not given: pc.")] = None
    accel: Annotated[
        Literal["tcg", "kvm"] | None, about("QEMU: tcg, emulation, which works everywhere (the default), or kvm.")
    ] = None
    console: Annotated[
        Literal["serial", "none"] | None, about("QEMU: a serial port that vnet console talks to (the default), or none.")
    ] = None
    args: Annotated[list[str] | None, about("QEMU: more arguments, as QEMU has them.")] = None
    start_order: Annotated[
        int | None, about("QEMU: machines start one after the other, the smallest number first; not given: 0.")
    ] = None
    start_delay: Annotated[
        DurationText | None, about("QEMU: how long after the machine before it runs; not given: at once.")
    ] = None
    start_action: Annotated[
        Literal["always", "never"] | None, about("QEMU: whether it starts with the lab; not given: always.")
    ] = None
    stop_action: Annotated[
        Literal["turn-off", "shutdown", "save"] | None,
        about("QEMU: how it ends with the lab: by its switch, by its power button, or saved; not given: turn-off."),
    ] = None


class Topology(Strict, frozen=True, kw_only=True):
    """A lab: its networks, what routes between them, the switches that carry them and the guests on them."""

    name: Annotated[str, about("The lab's name: letters, digits, - and _.")]
    profile: Annotated[ProfileName, about("Whose defaults and limits apply; not given: vnet's own.")] = "vnet"
    notes: Annotated[str, about("Anything worth knowing.")] = ""
    networks: Annotated[dict[str, Network | None], about("Networks by name.")] = {}
    routers: Annotated[dict[str, Router], about("Routers by name.")] = {}
    switches: Annotated[
        dict[str, Switch | None],
        about("Switches by name; the first is the default. Not given: one called switch carries everything."),
    ] = {}
    links: Annotated[list[Link], about("Cables between switches.")] = []
    guests: Annotated[dict[str, Guest | None], about("Guests by name.")] = {}
