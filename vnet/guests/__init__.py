"""Guests: emulated hosts and Linux namespaces, seen from a program."""
