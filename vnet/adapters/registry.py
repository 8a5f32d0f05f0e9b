"""Which code opens which kind of adapter; one line for each."""

from __future__ import annotations

from vnet.adapters.base import AdapterContext, HostAdapter
from vnet.errors import HostError
from vnet.topology.adapter_kinds.bridge import BridgeSpec
from vnet.topology.adapter_kinds.gvproxy import GvproxySpec
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.pcap import PcapSpec
from vnet.topology.adapter_kinds.sockets import DgramSpec, StreamSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.adapter_kinds.tap import FdSpec, TapSpec
from vnet.topology.adapter_kinds.tunnels import TunnelSpec, UdpSpec
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.topology.adapter_kinds.vde import VdeSpec
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec


def open_adapter(spec: AdapterSpec, context: AdapterContext) -> HostAdapter:
    """Open the way out that *spec* describes, without passing frames yet; raise HostError if the machine cannot.

    Modules are loaded as they are wanted, so that a lab pays for none that it does not use. May block for some ms.
    """
    match spec:
        case LoopbackSpec():
            from vnet.adapters.loopback import LoopbackAdapter

            return LoopbackAdapter(spec, context)
        case TunnelSpec() | UdpSpec():
            from vnet.adapters.udp_tunnel import UdpTunnel

            return UdpTunnel(spec, context)
        case PcapSpec():
            from vnet.adapters.pcap_file import PcapAdapter

            return PcapAdapter(spec, context)
        case VdeSpec():
            from vnet.adapters.vde_client import VdeClient
            from vnet.adapters.vde_server import VdeServer

            return VdeServer(spec, context) if spec.listens else VdeClient(spec, context)
        case BridgeSpec():
            from vnet.adapters.bridge import BridgeAdapter

            return BridgeAdapter(spec, context)
        case TapSpec() | FdSpec():
            from vnet.adapters.tap_device import TapAdapter

            return TapAdapter(spec, context)
        case UserSpec():
            from vnet.adapters.user.gateway import UserAdapter

            return UserAdapter(spec, context)
        case StreamSpec():
            from vnet.adapters.qemu_stream import StreamAdapter

            return StreamAdapter(spec, context)
        case DgramSpec():
            from vnet.adapters.qemu_dgram import DgramAdapter

            return DgramAdapter(spec, context)
        case VhostUserSpec():
            from vnet.adapters.vhost_user import VhostUserAdapter

            return VhostUserAdapter(spec, context)
        case GvproxySpec():
            from vnet.adapters.gvproxy import GvproxyConnections, GvproxyDatagrams

            return GvproxyDatagrams(spec, context) if spec.protocol == "vfkit" else GvproxyConnections(spec, context)
        case _:
            raise HostError(f"{context.port.name}: adapter {spec.describe()} is not built yet")
