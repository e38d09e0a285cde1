"""`osler judge`: choose the answers that the rules leave open, ask the judge about each once, and keep every ruling."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.errors import ConfigError, DataError, EngineError
from osler.evaluation.endpoint import Endpoint, open_client, run_now
from osler.evaluation.judge.endpoint import MAX_TOKENS, check_judge, complete
from osler.evaluation.judge.prompt import PROMPT_SHA256, Case, read_ruling, render_case
from osler.evaluation.judge.rulings import MAX_REPLY, Judge, RulingRow, append_ruling, case_of, read_rulings, rulings_file
from osler.evaluation.judge.summary import JudgeSummary, decided_records, summarize_judge
from osler.evaluation.records import read_records
from osler.evaluation.replies import RequestFailure
from osler.grading.grade import is_undecided
from osler.types import Record

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_CONCURRENCY: Final = 64
MAX_FAILURES_IN_A_ROW: Final = 20
"""After so many the rest is not asked: the endpoint is down, or the model does not keep to the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be asked about one records file."""

    records: tuple[Record, ...]  # of open questions
    cases: Mapping[str, Case]  # sample id -> case, of the answers that are chosen and fit to be sent
    unfit: Counter[str]  # why answers are not sent -> number
    known: Mapping[str, RulingRow]  # key -> line of this judge, from an earlier call

    def to_ask(self, model: str) -> dict[str, tuple[str, Case]]:
        """Key -> (a sample id, case), without what the judge has ruled on; equal texts once."""
        found: dict[str, tuple[str, Case]] = {}
        for sample_id, case in self.cases.items():
            if (key := case.key(model)) not in self.known:
                found.setdefault(key, (sample_id, case))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeResult:
    """What a call of `judge_records` did, and what all rulings say."""

    path: Path  # the file of the rulings
    num_asked: int  # requests with a ruling in this call
    failures: Mapping[str, int]  # kind -> requests of this call that gave no ruling; they are asked again by the next call
    unfit: Mapping[str, int]  # why answers were not sent -> number
    num_left: int  # requests that were not made, because too many failed in a row
    summary: JudgeSummary


def plan_judging(path: Path, model: str, *, check_decided: int = 0) -> Plan:
    """The answers of a records file that the judge is asked about: all undecided ones, and `check_decided` of the decided ones.

    The sample of decided answers depends on their ids only. Raises DataError for a file without open questions.
    """
    if check_decided < 0:
        raise ConfigError(f"--check-decided {check_decided}: give 0 or a number of answers")
    records = tuple(record for record in read_records(path) if not record.choices)
    if not records:
        raise DataError(f"{path} holds no open question: the rules decide every question with choices, so there is nothing to judge")
    if len({record.sample_id for record in records}) < len(records):
        raise DataError(f"{path} holds a sample more than once: give a file of `osler eval`")
    chosen = [record for record in records if is_undecided(record.rule)]
    chosen += decided_records(records)[:check_decided]
    cases = {record.sample_id: case for record in chosen if (case := case_of(record)) is not None}
    judge = Judge(model=model, prompt=PROMPT_SHA256)
    return Plan(
        records=records,
        cases={name: case for name, case in cases.items() if case.unfit is None},
        unfit=Counter(str(case.unfit) for case in cases.values() if case.unfit is not None),
        known=read_rulings(rulings_file(path)).get(judge, {}),
    )


def judge_records(
    path: Path, endpoint: Endpoint, *, check_decided: int = 0, concurrency: int = 4, max_tokens: int = MAX_TOKENS
) -> JudgeResult:
    """Ask a judge about the open answers of a records file that no rule decides; the records are not changed.

    A reply has at most `max_tokens`. A call that was interrupted goes on where it stopped. Raises EngineError when the first request shows
    that none can succeed.
    """
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigError(f"--concurrency {concurrency}: give 1 to {MAX_CONCURRENCY} requests at a time")
    check_judge(endpoint, max_tokens)
    plan = plan_judging(path, endpoint.model, check_decided=check_decided)
    asked = plan.to_ask(endpoint.model)
    session = _Session(endpoint=endpoint, path=rulings_file(path), max_tokens=max_tokens)
    if asked:
        run_now(session.ask_all(asked, concurrency))
    judge = Judge(model=endpoint.model, prompt=PROMPT_SHA256)
    return JudgeResult(
        path=session.path,
        num_asked=len(session.rulings),
        failures=dict(session.failures),
        unfit=dict(plan.unfit),
        num_left=len(asked) - len(session.rulings) - session.failures.total(),
        summary=summarize_judge(plan.records, {**plan.known, **session.rulings}, judge),
    )


class _Session:
    """The requests of one call."""

    def __init__(self, *, endpoint: Endpoint, path: Path, max_tokens: int) -> None:
        self.endpoint = endpoint
        self.max_tokens = max_tokens
        self.path = path
        self.rulings: dict[str, RulingRow] = {}
        self.failures: Counter[str] = Counter()
        self._in_a_row = 0

    async def ask_all(self, asked: Mapping[str, tuple[str, Case]], concurrency: int) -> None:
        """Ask about every case. The first one goes alone, to find a wrong address, key or model before all others fail by it."""
        from tqdm import tqdm

        queue = iter(asked.items())
        with tqdm(total=len(asked), desc="judge", unit="answer", dynamic_ncols=True, disable=None) as bar:
            async with open_client(self.endpoint, extra="judge") as client:
                await self._ask(client, *next(queue), bar, is_first=True)
                await asyncio.gather(*(self._work(client, queue, bar) for _ in range(concurrency)))

    async def _work(self, client: AsyncOpenAI, queue: Iterable[tuple[str, tuple[str, Case]]], bar: Any) -> None:
        for key, named in queue:
            if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
                return
            await self._ask(client, key, named, bar)

    async def _ask(self, client: AsyncOpenAI, key: str, named: tuple[str, Case], bar: Any, *, is_first: bool = False) -> None:
        sample_id, case = named
        model = self.endpoint.model
        try:
            messages = render_case(case, model)
            reply = await complete(client, self.endpoint, messages, max_tokens=self.max_tokens, is_first=is_first)
            if (ruling := read_ruling(reply, case.code(model))) is None:
                raise RequestFailure("unparsable", "the reply has no ruling with the code")
        except RequestFailure as failure:
            self._count(failure, is_first=is_first)
        else:
            self._in_a_row = 0
            texts = {"question": case.question, "target": case.target, "answer": case.answer, "reply": reply[:MAX_REPLY]}
            row = RulingRow(key=key, ruling=ruling, model=model, prompt=PROMPT_SHA256, sample_id=sample_id, **texts)
            append_ruling(self.path, row)
            self.rulings[key] = row
        bar.update()

    def _count(self, failure: RequestFailure, *, is_first: bool) -> None:
        if is_first and failure.is_lasting:
            said = f", {failure}" if str(failure) != failure.kind else ""
            raise EngineError(
                f"{self.endpoint.url} does not answer ({failure.kind}{said}): check --base-url, --model and --api-key-file"
            ) from None
        self.failures[failure.kind] += 1
        self._in_a_row += 1
