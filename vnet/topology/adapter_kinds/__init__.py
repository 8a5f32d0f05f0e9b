"""The ways out of a network, a file for each kind: how it is typed, its form in full, and how one becomes the other.

``choice.py`` has the list of them. What opens them in a live lab is ``vnet.adapters.registry``.
"""
