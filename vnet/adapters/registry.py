"""Which code opens which kind of adapter; one line for each."""

from __future__ import annotations

from vnet.adapters.base import AdapterContext, HostAdapter
from vnet.errors import HostError
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.sockets import DgramSpec, StreamSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec


def open_adapter(spec: AdapterSpec, context: AdapterContext) -> HostAdapter:
    """Open the way out that *spec* describes, without passing frames yet; raise HostError if the machine cannot.

    Modules are loaded as they are wanted, so that a lab pays for none that it does not use. May block for some ms.
    """
    match spec:
        case LoopbackSpec():
            from vnet.adapters.loopback import LoopbackAdapter

            return LoopbackAdapter(spec, context)
        case StreamSpec():
            from vnet.adapters.qemu_stream import StreamAdapter

            return StreamAdapter(spec, context)
        case DgramSpec():
            from vnet.adapters.qemu_dgram import DgramAdapter

            return DgramAdapter(spec, context)
        case _:
            raise HostError(f"{context.port.name}: adapter {spec.describe()} is not built yet")
