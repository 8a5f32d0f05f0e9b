"""The far end of traffic generators: takes their records over UDP and TCP, answers requests, and reports what came."""

from __future__ import annotations

from typing import Final, final

import msgspec
import trio

from vnet.errors import PeerError, WireError
from vnet.programs.both_protocols import answer_datagrams, listening
from vnet.programs.connections import bounded
from vnet.programs.traffic_records import (
    DEFAULT_PORT,
    HEADER_OCTETS,
    MAX_DATAGRAM,
    MAX_RECORD,
    FlowReport,
    FlowTally,
    Kind,
    Record,
    RecordStream,
    decode,
    now_ns,
)

MAX_FLOWS: Final = 1024
"""Flows that are counted; further ones are not, and get no report."""
MAX_CONNECTIONS: Final = 1024


@final
class Sink:
    """Counts flows. One sink may serve any number of generators."""

    def __init__(self) -> None:
        self._flows: dict[int, FlowTally] = {}
        self.ignored = 0
        """Datagrams that are no records, and records of flows beyond the limit."""

    def reports(self) -> list[FlowReport]:
        """Return what was seen of each flow until now, oldest flow first."""
        return [flow.report() for flow in self._flows.values()]

    async def serve(
        self,
        port: int = DEFAULT_PORT,
        *,
        host: str | None = None,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take traffic until cancelled; with ``nursery.start`` it returns the port. Raise OSError if the port is taken."""
        async with listening(port, host) as (port, listeners, socket), trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, bounded(self._serve_stream, MAX_CONNECTIONS), listeners)
            task_status.started(port)
            await answer_datagrams(socket, MAX_DATAGRAM, self._answer)

    def take(self, record: Record, octets: int, most: int) -> tuple[Record, bytes] | None:
        """Count a record; return the answer and its body, if there is to be one of at most *most* octets."""
        flow = self._flows.get(record.flow)
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                self.ignored += 1
                return None
            flow = self._flows[record.flow] = FlowTally()
        if record.kind in (Kind.DATA, Kind.REQUEST):
            flow.arrived(record.number, record.sent_at, octets, now_ns())
        if record.kind is Kind.REQUEST:
            length = min(max(record.reply, HEADER_OCTETS), most)
            number, sent_at = record.number, record.sent_at
            return Record(kind=Kind.RESPONSE, flow=record.flow, number=number, sent_at=sent_at, length=length), b""
        if record.kind is Kind.END:
            return Record(kind=Kind.REPORT, flow=record.flow), msgspec.json.encode(flow.report())
        return None

    def _answer(self, data: bytes, sender: int) -> bytes | None:
        try:
            answer = self.take(decode(data), len(data), MAX_DATAGRAM)
        except WireError:
            self.ignored += 1
            return None
        return None if answer is None else answer[0].encode(answer[1])

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        records = RecordStream(stream)
        try:
            while (received := await records.receive()) is not None:
                record, _ = received
                answer = self.take(record, record.length, MAX_RECORD)
                if answer is not None:
                    await records.send(*answer)
        except PeerError:
            self.ignored += 1
