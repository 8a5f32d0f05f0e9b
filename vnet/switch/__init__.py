"""The VLAN-aware learning switch, without I/O."""
