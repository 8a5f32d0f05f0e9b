"""A stateful firewall between networks: rules, and the table of connections that NAT shares."""
