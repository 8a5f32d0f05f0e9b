"""``python -m vnet`` is ``vnet``."""

from vnet.cli.main import main

main()
