"""Topology files: read, check, resolve, draw."""
