"""IPv6 of an emulated host: made when an interface is given an IPv6 address or told to configure itself, and not before."""
