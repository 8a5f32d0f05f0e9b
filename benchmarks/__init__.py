"""The speed of vnet beside that of its peers, measured in one run: ``python -m benchmarks.run``."""
