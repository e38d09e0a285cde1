"""The generator of a policy: requests of many callers in one running batch.

Three kinds of threads work together. The caller's asyncio loop takes requests and gives events. A few threads prepare requests: images,
template, tokens. One thread runs the model: between two tokens it lets prepared requests join and drops those that nobody reads.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Final

import torch

from osler.config import PolicyConfig
from osler.errors import EngineError
from osler.policies.load import Policy, load_policy
from osler.policies.precision import spare_core, without_gradient
from osler.policies.sources import fingerprint
from osler.serving.batch_settings import BatchSettings
from osler.serving.generation import (
    Delta,
    Draining,
    Finished,
    GenerationRequest,
    Load,
    QueueFull,
    Started,
)
from osler.serving.image_cache import ImageCache
from osler.serving.prepare import Preparer
from osler.serving.running_batch import Event, Member, RunningBatch, max_positions, to_failure
from osler.serving.tickets import Post, Ticket
from osler.types import LETTERS

GATHER_PROMPTS: Final = 16
"""Prompts that are computed together rather than one by one while more are being prepared."""
GATHER_SECONDS: Final = 0.03
"""How long a prepared request waits for others at most where nothing runs."""
GATHER_SECONDS_BESIDE: Final = 0.1
"""The same beside running completions, which go on meanwhile."""
MAX_TOP: Final = 20
"""Most likely tokens that a request may ask for."""
RECENT: Final = 32
"""Finished requests by which the time until a place is free is estimated."""


class BatchGenerator:
    """A `Generator` that runs `policy`. `policy_fingerprint`: see `policies.sources.fingerprint`.

    The policy's model is used by this generator alone, from now on. Raises EngineError for a policy that cannot be served.
    """

    def __init__(self, policy: Policy, settings: BatchSettings | None = None, *, policy_fingerprint: str) -> None:
        settings = settings or BatchSettings()
        self.policy, self.policy_fingerprint = policy, policy_fingerprint
        self.settings = settings
        self.max_context = min(settings.max_context, max_positions(policy))
        images = ImageCache(settings.max_feature_bytes)
        self._preparer = Preparer(policy, images, self.max_context)
        with self._mode():
            self._batch = RunningBatch(policy, settings, images)
        self._changed = threading.Condition()  # guards what follows; notified when the model's thread has something to do
        self._unprepared: deque[Ticket] = deque()
        self._num_preparing = 0
        self._ready: deque[Ticket] = deque()
        self._is_draining = self._is_closed = False
        self._tickets: set[Ticket] = set()  # of the loop
        self._finishes: deque[float] = deque(maxlen=RECENT)  # when the latest requests ended, of the loop
        self._empty: list[asyncio.Future[None]] = []  # of the loop: who waits for the last request to end
        self._running: dict[Member, Ticket] = {}  # of the model's thread
        self._pool = ThreadPoolExecutor(settings.num_preparers, thread_name_prefix="osler-prepare")
        self._thread = threading.Thread(target=self._run, name="osler-batch", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that runs when the interpreter ends would abort the process

    @property
    def policy_name(self) -> str:
        """The name of the policy."""
        return self.policy.name

    @property
    def load(self) -> Load:
        """What runs and what waits."""
        open_tickets = [ticket for ticket in self._tickets if not ticket.is_over]
        running = sum(ticket.is_running for ticket in open_tickets)
        return Load(running=running, queued=len(open_tickets) - running, rows=self._batch.num_rows, is_draining=self._is_draining)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Started | Delta | Finished]:
        """See `Generator.stream`."""
        self._check(request)
        ticket = self._accept(request)
        try:
            async with aclosing(ticket.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._leave(ticket)

    async def drain(self) -> None:
        """See `Generator.drain`."""
        self._is_draining = True
        if self._tickets:
            waiting = asyncio.get_running_loop().create_future()
            self._empty.append(waiting)
            await waiting

    def close(self) -> None:
        """See `Generator.close`."""
        atexit.unregister(self.close)
        with self._changed:
            self._is_draining = self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown()

    def _check(self, request: GenerationRequest) -> None:
        """Refuse settings that cannot be met. Raises EngineError."""
        settings, number = self.settings, request.num_generations
        if number < 1 or request.max_tokens < 1:
            raise EngineError(f"num_generations = {number} and max_tokens = {request.max_tokens}: give numbers from 1 on")
        if number > 1 and request.sampling is None:
            raise EngineError("greedy completions of one prompt are all the same: give sampling settings for num_generations above 1")
        length = min(request.max_tokens, self.max_context) if request.may_clip else request.max_tokens
        if number > settings.max_rows or number * length > settings.max_cache_tokens:
            raise EngineError(
                f"{number} completions of {length} tokens are more than this server has room for "
                f"({settings.max_rows} completions, {settings.max_cache_tokens} tokens): ask for fewer"
            )
        if not 0 <= request.num_choices <= len(LETTERS) or not 0 <= (request.top_logprobs or 0) <= MAX_TOP:
            raise EngineError(f"num_choices is at most {len(LETTERS)} and top_logprobs at most {MAX_TOP}")

    def _accept(self, request: GenerationRequest) -> Ticket:
        """Queue a request. Raises Draining and QueueFull."""
        if self._is_draining:
            raise Draining("the server is shutting down: send the request to another one")
        if (queued := self.load.queued) >= self.settings.max_queued:
            raise QueueFull(self._estimate_wait(queued))
        ticket = Ticket(request, time.monotonic())
        self._tickets.add(ticket)
        with self._changed:
            self._unprepared.append(ticket)
            self._prepare_next()
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        """The reader of a request is gone."""
        self._tickets.discard(ticket)
        if ticket.is_over:
            self._finishes.append(time.monotonic())
        else:
            with self._changed:
                ticket.is_cancelled = True
                for waiting in (self._unprepared, self._ready):
                    if ticket in waiting:
                        waiting.remove(ticket)
                self._prepare_next()  # where patches of this request left no room for those of others
                self._changed.notify_all()
        if not self._tickets:
            for future in self._empty:
                if not future.done():
                    future.set_result(None)
            self._empty = []

    def _estimate_wait(self, queued: int) -> float:
        """Seconds until `queued` requests have ended, by the latest ones: 1 to 60."""
        if len(self._finishes) < 2:
            return 5.0
        each = (time.monotonic() - self._finishes[0]) / len(self._finishes)
        return min(60.0, max(1.0, queued * each))

    def _prepare_next(self) -> None:
        """Give the next requests to threads that prepare them; `_changed` is held."""
        held = sum(ticket.member.prompt.num_bytes for ticket in self._ready if ticket.member is not None)
        if self._is_closed or held >= self.settings.max_prepared_bytes:  # closed: `_end_all` tells those that wait
            return
        while self._unprepared and self._num_preparing < self.settings.num_preparers:
            ticket = self._unprepared.popleft()
            if not ticket.is_cancelled:
                self._num_preparing += 1
                self._pool.submit(self._prepare, ticket)

    def _prepare(self, ticket: Ticket) -> None:
        """Prepare a request, in a thread of the pool."""
        failure: Exception | None = None
        try:
            if not ticket.is_cancelled and not self._is_closed:
                prompt = self._preparer.prepare(ticket.request)
                ticket.member = Member(request=self._preparer.clip(ticket.request, prompt), prompt=prompt)
                self._check_room(ticket.member)
        except Exception as error:
            failure = to_failure(error, "prepared this request")
        with self._changed:
            self._num_preparing -= 1
            if self._is_closed:
                failure = failure or _stopped()
            elif failure is None and ticket.member is not None and not ticket.is_cancelled:
                ticket.prepared_at = time.monotonic()
                self._ready.append(ticket)
            self._prepare_next()
            self._changed.notify_all()
        if failure is not None:
            _send(ticket, failure)

    def _check_room(self, member: Member) -> None:
        if (needed := member.num_rows * member.length) > self.settings.max_cache_tokens:
            raise EngineError(
                f"{member.num_rows} completions with their prompt take up to {needed} tokens, more than the "
                f"{self.settings.max_cache_tokens} of this server: ask for fewer or shorter ones"
            )

    def _run(self) -> None:
        """The model's thread."""
        with self._mode(), spare_core(self.policy.device):
            while self._wait():
                post, taken = Post(), list[Ticket]()
                try:
                    self._drop_cancelled()
                    taken = self._take_ready()
                    if taken:
                        self._join(taken, post)
                    if self._batch.num_rows:
                        self._pass_on(self._batch.step(), post)
                except Exception as error:
                    self._give_up(taken, to_failure(error, "generated this completion"), post)
                post.send()
        self._end_all()

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """The mode in which the model computes."""
        mixed = torch.autocast(self.policy.device.type, dtype=torch.bfloat16, enabled=self.settings.is_bf16)
        with mixed, without_gradient(self.policy.model):
            yield

    def _wait(self) -> bool:
        """Wait until there is something to do. False when the generator is closed."""
        with self._changed:
            while not self._is_closed:
                if self._batch.num_rows or self._pause() == 0:
                    return True
                self._changed.wait(self._pause())
            return False

    def _pause(self) -> float | None:
        """Seconds until prepared requests should join: 0 for now, None for not before something changes; `_changed` is held."""
        if not self._ready:
            return None
        if len(self._ready) >= GATHER_PROMPTS or not (self._num_preparing or self._unprepared):
            return 0
        longest = GATHER_SECONDS_BESIDE if self._batch.num_rows else GATHER_SECONDS
        return max(0.0, self._ready[0].prepared_at + longest - time.monotonic())

    def _drop_cancelled(self) -> None:
        """Free the places of requests that nobody reads."""
        gone = [member for member, ticket in self._running.items() if ticket.is_cancelled]
        if gone:
            self._batch.drop(gone)
            for member in gone:
                del self._running[member]

    def _take_ready(self) -> list[Ticket]:
        """The prepared requests that may join now, first come, first served."""
        with self._changed:
            if self._pause() != 0:
                return []
            taken: list[Ticket] = []
            members: list[Member] = []
            longest = 0
            while self._ready:
                ticket = self._ready[0]
                member = ticket.member
                if not ticket.is_cancelled and member is not None:
                    longest = max(longest, len(member.prompt))
                    num_tokens = longest * (len(taken) + 1)  # attention pads the others to the longest
                    if not self._batch.has_room(member, members) or (taken and num_tokens > self.settings.max_prefill_tokens):
                        break
                    taken.append(ticket)
                    members.append(member)
                self._ready.popleft()
            self._prepare_next()
            return taken

    def _join(self, tickets: Sequence[Ticket], post: Post) -> None:
        """Let requests join. Where that fails each is tried alone, so that only those at fault fail."""
        now = time.monotonic()
        members = {ticket.member: ticket for ticket in tickets if ticket.member is not None}
        try:
            events = self._batch.join(list(members))
        except Exception as error:
            if len(members) > 1:
                for ticket in tickets:
                    self._join([ticket], post)
                return
            post.add(tickets[0], to_failure(error, "computed this prompt"))
            return
        for member, ticket in members.items():
            ticket.is_running = True
            self._running[member] = ticket
            prompt = member.prompt
            waited = now - ticket.arrival
            post.add(ticket, Started(prompt_tokens=len(prompt), image_tokens=prompt.num_image_tokens, queued_seconds=waited))
        self._pass_on(events, post)

    def _give_up(self, taken: Sequence[Ticket], failure: Exception, post: Post) -> None:
        """End all that run or have just been taken, after an unexpected fault. The next requests run again."""
        for ticket in {*self._running.values(), *taken}:
            post.add(ticket, failure)
        self._running = {}
        self._batch.clear()

    def _pass_on(self, events: Sequence[tuple[Member, Event]], post: Post) -> None:
        for member, event in events:
            post.add(self._running[member], event)
        if ended := {member for member, event in events if not isinstance(event, Delta)}:
            for member in ended - self._batch.members:
                del self._running[member]

    def _end_all(self) -> None:
        """Tell all requests that the generator is closed."""
        post = Post()
        with self._changed:
            left = {*self._running.values(), *self._ready, *self._unprepared}
            self._running = {}
            self._ready.clear()
            self._unprepared.clear()
        self._batch.clear()
        for ticket in left:
            post.add(ticket, _stopped())
        post.send()


def open_generator(config: PolicyConfig, settings: BatchSettings | None = None) -> BatchGenerator:
    """The generator of the policy that a `[policy]` section names. Raises PolicyError and EngineError."""
    return BatchGenerator(load_policy(config), settings, policy_fingerprint=fingerprint(config.path))


def _stopped() -> Draining:
    return Draining("the server has stopped: send the request to another one")


def _send(ticket: Ticket, event: Exception) -> None:
    post = Post()
    post.add(ticket, event)
    post.send()
