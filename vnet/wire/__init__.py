"""Octets to values and back: pure codecs, no state, no clock."""
