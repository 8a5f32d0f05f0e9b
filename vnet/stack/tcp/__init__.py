"""TCP of an emulated host (RFC 9293): ``Host.tcp`` is its ``TcpTable``."""

from __future__ import annotations

from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.ecn import Ecn
from vnet.stack.tcp.listener import TcpListener
from vnet.stack.tcp.probe import OnProbe, ProbeResult
from vnet.stack.tcp.states import State
from vnet.stack.tcp.tables import TcpSettings, TcpTable

__all__ = ["Ecn", "OnProbe", "ProbeResult", "State", "TcpConnection", "TcpListener", "TcpSettings", "TcpTable"]
