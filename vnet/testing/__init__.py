"""The pytest plugin and helpers for tests."""
