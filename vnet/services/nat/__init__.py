"""Network address and port translation (RFC 3022) that behaves as RFC 4787, RFC 5382 and RFC 5508 ask."""
