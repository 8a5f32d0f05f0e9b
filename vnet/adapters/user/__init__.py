"""The user adapter: a way to the outside by the machine's own sockets, with no privilege.

``gateway.py`` is the node on the network; ``tcp.py``, ``udp.py`` and ``echo.py`` carry what it ends on by sockets,
``dns.py`` questions for names; ``forwards.py`` is the way in. ``destinations.py`` says what may be reached, ``errors.py``
what becomes of a socket's error, ``versions.py`` what is different over IPv4 and IPv6.
"""
