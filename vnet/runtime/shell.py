"""Real time: the one trio task that moves frames between the operating system and the fabric.

It waits on a nested epoll descriptor, which holds every adapter's descriptor and a timer set to the timeline's head, so one
wake-up serves all that is ready. Between wake-ups the lab clock is brought up to date before each step of any trio task:
whoever calls into the fabric sees the present instant.

A turn of trio's loop costs as much as forwarding several frames. So after work the shell first waits by itself for more, in
epoll, for a millisecond, unless some task has become ready; whatever else trio watches is served a little later while
frames flow.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Callable
from typing import Final, final

import trio

from vnet.fabric.timeline import Timeline
from vnet.units import MILLISECOND, SECOND

EVENTS_A_TURN: Final = 4096
"""Timeline events run before the descriptors are looked at again."""
TURN: Final = 2 * MILLISECOND
"""How long the shell goes on while there is work before other tasks have their turn."""
DESCRIPTORS_A_LOOK: Final = 64
"""Ready descriptors taken from epoll at once; the others come first the next time."""
LINGER: Final = 0.001
"""Seconds to wait for more frames before trio waits for everything; epoll counts in milliseconds."""

_WRITABLE: Final = select.EPOLLOUT
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


@final
class _Timer:
    """A timerfd (timerfd_create(2)): a descriptor that becomes readable at an instant of the monotonic clock."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _Itimerspec()
        self._reference = ctypes.byref(self._spec)

    def set(self, instant: int) -> None:
        """Go off at *instant* (ns of the monotonic clock); setting it also takes back an expiry nobody has seen yet."""
        self._spec.value_s, self._spec.value_ns = divmod(max(instant, 1), SECOND)
        self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._reference, None)

    def clear(self) -> None:
        """Disarm."""
        self._spec.value_s = self._spec.value_ns = 0
        self._libc.timerfd_settime(self.fd, 0, self._reference, None)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


@final
class _PresentTime(trio.abc.Instrument):
    """Bring the lab clock up to date before each step of a trio task; count the tasks that wait for their step.

    One that was woken before the shell's own step began waits as well: trio runs what is ready in batches.
    """

    def __init__(self, timeline: Timeline, epoch: int) -> None:
        self._timeline = timeline
        self._epoch = epoch
        self.ready_tasks = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.ready_tasks += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.ready_tasks:  # who was woken before we counted is none of them
            self.ready_tasks -= 1
        self._timeline.now = time.monotonic_ns() - self._epoch


@final
class Shell:
    """Drives one lab in real time; also the ``Poller`` that adapters register their descriptors with."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self._epoll = select.epoll()
        self._timer = _Timer()
        self._epoll.register(self._timer.fd, select.EPOLLIN)
        self._readers: dict[int, Callable[[], None]] = {self._timer.fd: self._timer_expired}
        self._writers: dict[int, Callable[[], None]] = {}
        self._watched: dict[int, int] = {}
        self._armed: int | None = None
        self._epoch = time.monotonic_ns() - timeline.now
        self._present = _PresentTime(timeline, self._epoch)
        self.on_error: Callable[[Exception], None] | None = None
        """Told of an exception that came out of a handler, which is our bug; without it, the exception ends the lab."""

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call *on_readable* whenever *fd* has something to read."""
        self._readers[fd] = on_readable
        self._watched[fd] = select.EPOLLIN
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        """Forget *fd*; must be called before it is closed."""
        self._writers.pop(fd, None)
        self._readers.pop(fd, None)
        if self._watched.pop(fd, 0):
            self._epoll.unregister(fd)

    def wants_read(self, fd: int, on_readable: Callable[[], None] | None) -> None:
        """Call *on_readable* whenever *fd* has something to read; None stops that, until it is asked for again.

        A descriptor that is wanted for neither is not watched at all, or one that was hung up would wake us for ever.
        """
        if on_readable is None:
            self._readers.pop(fd, None)
        else:
            self._readers[fd] = on_readable
        self._watch(fd)

    def wants_write(self, fd: int, on_writable: Callable[[], None] | None) -> None:
        """Call *on_writable* when *fd* takes data again; None stops that."""
        if on_writable is None:
            self._writers.pop(fd, None)
        else:
            self._writers[fd] = on_writable
        self._watch(fd)

    def _watch(self, fd: int) -> None:
        before = self._watched.get(fd, 0)
        events = select.EPOLLIN * (fd in self._readers) | select.EPOLLOUT * (fd in self._writers)
        if events == before:
            return
        self._watched[fd] = events
        if not events:
            del self._watched[fd]
            self._epoll.unregister(fd)
        elif before:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    async def run(self) -> None:
        """Move frames and run events until cancelled."""
        timeline = self.timeline
        trio.lowlevel.add_instrument(self._present)
        timeline.on_earlier = self._arm
        try:
            while True:
                self._arm()
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                timeline.on_earlier = None
                while not self._turn():
                    await trio.lowlevel.checkpoint()
                timeline.on_earlier = self._arm
        finally:
            timeline.on_earlier = None
            trio.lowlevel.remove_instrument(self._present)

    def close(self) -> None:
        """Give the descriptors back, after ``run`` has ended."""
        self._timer.close()
        self._epoll.close()

    def _turn(self) -> bool:
        """Work until nothing comes for a while or a task is ready (return True), or until time is up (return False)."""
        timeline = self.timeline
        reader_of = self._readers.get
        poll = self._epoll.poll
        monotonic = time.monotonic_ns
        run_due = timeline.run_due
        epoch = self._epoch
        present = self._present
        patience: float = 0
        end = monotonic() + TURN
        while True:
            ready = poll(patience, DESCRIPTORS_A_LOOK)
            now = monotonic()
            timeline.now = now - epoch
            for fd, events in ready:
                try:
                    if events & _WRITABLE and fd in self._writers:
                        self._writers[fd]()
                    reader = reader_of(fd)  # an earlier reader may have unregistered it
                    if reader is not None and events != _WRITABLE:
                        reader()
                except Exception as error:
                    self._contain(error)
            try:
                head = run_due(EVENTS_A_TURN)
            except Exception as error:
                self._contain(error)
                head = timeline.now  # others may be due
            if present.ready_tasks:
                return True
            if now > end:
                return False
            if head is not None and head <= timeline.now:
                patience = 0
            elif ready or not patience:
                patience = LINGER
                if head != self._armed:
                    self._arm()
            else:
                return True

    def _contain(self, error: Exception) -> None:
        """Let one failing part not take the rest of the lab with it."""
        if self.on_error is None:
            raise error
        self.on_error(error)

    def _timer_expired(self) -> None:
        """Take the expiry back; the events that are due run anyway."""
        self._armed = None
        self._timer.clear()

    def _arm(self) -> None:
        """Set the timer to the timeline's head."""
        head = self.timeline.next_instant()
        if head != self._armed:
            self._armed = head
            if head is None:
                self._timer.clear()
            else:
                self._timer.set(head + self._epoch)
