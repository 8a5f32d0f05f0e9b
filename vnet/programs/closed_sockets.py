"""Tell the one error of a datagram socket that does not pass: that somebody closed it, as a crash of the guest does."""

from __future__ import annotations

from errno import EBADF

import trio


def raise_if_closed(error: OSError) -> None:
    """Raise ClosedResourceError for the error of a closed socket: whoever tries again would do so for ever."""
    if error.errno == EBADF:
        raise trio.ClosedResourceError("somebody closed the socket") from error
