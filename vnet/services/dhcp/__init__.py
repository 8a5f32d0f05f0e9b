"""The virtual DHCP server: one for each network that wants one."""
