"""Servers and middleboxes: DHCP, NAT, firewall, router; without I/O."""
