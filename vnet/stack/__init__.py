"""The IP stack of emulated hosts, without I/O."""
