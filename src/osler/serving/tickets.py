"""The way of the events of a request from the thread of the running batch to its asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable

from osler.serving.generation import Delta, Finished, GenerationRequest, Started
from osler.serving.running_batch import Member

TicketEvent = Started | Delta | Finished | Exception
"""An exception ends a request."""


class Ticket:
    """One request from its arrival to its last event. Made and read in its loop; the threads set the fields that they own."""

    def __init__(self, request: GenerationRequest, arrival: float) -> None:
        self.request, self.arrival = request, arrival
        self.loop = asyncio.get_running_loop()
        self.num_open = request.num_generations
        self.is_cancelled = False  # set by the loop: nobody reads its events any more
        self.is_over = False  # its last event has arrived in the loop
        self.member: Member | None = None  # set by the thread that prepares it
        self.prepared_at = 0.0  # on the clock of `arrival`
        self.is_running = False  # set by the thread of the batch
        self._events: list[TicketEvent] = []
        self._wake = asyncio.Event()

    def put(self, event: TicketEvent) -> None:
        """Add an event, in the loop."""
        if self.is_over:
            return
        self._events.append(event)
        if isinstance(event, Finished):
            self.num_open -= 1
        self.is_over = isinstance(event, Exception) or self.num_open == 0
        self._wake.set()

    async def events(self) -> AsyncGenerator[Started | Delta | Finished]:
        """The events until the last one. A slow reader gets the pieces that came meanwhile as one. Raises what ends the request."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            is_over, events, self._events = self.is_over, self._events, []
            for event in _joined(events):
                if isinstance(event, Exception):
                    raise event
                yield event
            if is_over:
                return


def _joined(events: Iterable[TicketEvent]) -> list[TicketEvent]:
    """The events with the neighbouring pieces of one completion joined."""
    joined: list[TicketEvent] = []
    latest: dict[int, int] = {}  # the place of the last piece of each completion
    for event in events:
        place = latest.get(event.index) if isinstance(event, Delta) else None
        if isinstance(event, Delta) and place is not None:
            before = joined[place]
            assert isinstance(before, Delta)
            joined[place] = Delta(index=event.index, text=before.text + event.text, logprobs=before.logprobs + event.logprobs)
            continue
        if isinstance(event, Delta):
            latest[event.index] = len(joined)
        joined.append(event)
    return joined


class Post:
    """Collects the events of one step and brings them to their loops with one call each."""

    def __init__(self) -> None:
        self._batches: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, TicketEvent]]] = {}

    def add(self, ticket: Ticket, event: TicketEvent) -> None:
        """One more event."""
        self._batches.setdefault(ticket.loop, []).append((ticket, event))

    def send(self) -> None:
        """Bring all events to their loops; what a closed loop waited for is lost."""
        batches, self._batches = self._batches, {}
        for loop, batch in batches.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_put_all, batch)


def _put_all(batch: list[tuple[Ticket, TicketEvent]]) -> None:
    for ticket, event in batch:
        ticket.put(event)
