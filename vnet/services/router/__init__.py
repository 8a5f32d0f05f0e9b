"""Routers between networks: forwarding (RFC 1812), NAT and a stateful firewall over an emulated host."""
