"""Credits of the blind baselines on the questions of an evaluation, in a file beside its records; image gains are computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from osler import __version__
from osler.audits.baselines import ALL_BASELINES, BASELINES, blind_credits
from osler.audits.open_baselines import OPEN_BASELINES, open_answers
from osler.config import DataConfig
from osler.data.select import load_split
from osler.data.splits.manifest import digest_sample
from osler.errors import DataError, OslerError
from osler.files import read_text, write_json
from osler.grading.comparison import compare
from osler.metrics.estimates import Share
from osler.types import Sample

Credits = Mapping[str, Mapping[str, float]]
"""Title of a baseline -> sample id -> credit in [0, 1], less than 1 where options tie."""

Answers = Mapping[str, Mapping[str, str]]
"""Title of a baseline -> id of an open question -> answer."""

MAX_BYTES: Final = 256 << 20
REMEDY: Final = "delete it and evaluate again"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsFile:
    """The layout of the file."""

    digest: str | None = None  # of the data that the credits depend on
    samples: list[str]  # ids
    credits: dict[str, list[Share]]  # title of a baseline -> credits in the order of the samples
    answers: dict[str, dict[str, str]] = field(default_factory=dict)  # title -> id of an open question -> answer

    def by_sample(self) -> dict[str, dict[str, float]]:
        """Title of a baseline -> sample id -> credit. Raises ValueError where credits are missing."""
        return {title: dict(zip(self.samples, row, strict=True)) for title, row in self.credits.items()}


_ADAPTER: Final = TypeAdapter(CreditsFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """What the blind baselines do on some test questions."""

    credits: dict[str, dict[str, float]]  # as Credits
    answers: dict[str, dict[str, str]]  # as Answers


def compute_credits(data: DataConfig, test: Sequence[Sample]) -> Blind:
    """The credits of every blind baseline, fitted on `[data.train]`, on the test questions, and the answers to open ones.

    Without training questions only the baselines that need no fit are included. On open questions those of `OPEN_BASELINES` answer, and the
    others earn nothing. On questions with choices the nearest question earns what the question prior earns.
    """
    try:
        train = load_split(data, "train")
    except OslerError:  # an evaluation needs no training data
        train = []
    closed = {ALL_BASELINES[name].title: by_sample for name, by_sample in blind_credits(train, test).items()}
    answers = {OPEN_BASELINES[name].title: by_sample for name, by_sample in open_answers(train, test).items()}
    if answers and (same := closed.get(BASELINES["question_prior"].title)) is not None:
        closed[OPEN_BASELINES["nearest_question"].title] = same
    targets = {sample.id: sample.target for sample in test}
    nothing = dict.fromkeys(targets, 0.0)
    titles = dict.fromkeys([one.title for one in ALL_BASELINES.values()] + [one.title for one in OPEN_BASELINES.values()])
    earned = {
        title: nothing | closed.get(title, {}) | {name: _credit(text, targets[name]) for name, text in answers.get(title, {}).items()}
        for title in titles
        if title in closed or title in answers
    }
    return Blind(credits=earned, answers=answers)


def _credit(answer: str, target: str) -> float:
    """1.0 where the rules call an open answer right, else 0.0: what they cannot decide counts as for a policy."""
    return float(compare(answer, target).is_right is True)


def credits_file(records: Path) -> Path:
    """The file beside a records file, e.g. records/grpo.jsonl -> records/grpo.blind.json."""
    return records.with_suffix(".blind.json")


def update_credits(records: Path, data: DataConfig, test: Sequence[Sample], *, fresh: bool = False) -> dict[str, dict[str, float]]:
    """The credits beside a records file if they belong to the same questions; otherwise computed and written there.

    The same: the test questions with their targets, the `[data]` section, the manifest that it names, and the version of Osler. Training
    files that changed in place are not detected: `fresh` computes anew. So does a file without the baselines that need training questions.
    """
    digest = _digest_inputs(data, test)
    path = credits_file(records)
    if not fresh and path.is_file():
        with suppress(DataError):  # a damaged file is replaced
            content = _read(path)
            if content.digest == digest and _has_every_baseline(content, test):
                return content.by_sample()
    blind = compute_credits(data, test)
    write_credits(records, blind.credits, blind.answers, digest=digest)
    return read_credits(records)


def _has_every_baseline(content: CreditsFile, test: Sequence[Sample]) -> bool:
    has_answers = content.answers.keys() >= {baseline.title for baseline in OPEN_BASELINES.values()}
    is_closed = all(sample.choices for sample in test)
    return content.credits.keys() >= {baseline.title for baseline in BASELINES.values()} and (has_answers or is_closed)


def write_credits(records: Path, blind: Credits, answers: Answers | None = None, *, digest: str | None = None) -> None:
    """Write credits, and answers to open questions, beside a records file, with a `digest` of the data that they depend on."""
    samples = sorted({name for by_sample in blind.values() for name in by_sample})
    rows = {title: [round(by_sample[name], 6) for name in samples] for title, by_sample in blind.items()}
    write_json(
        credits_file(records),
        asdict(
            CreditsFile(
                digest=digest, samples=samples, credits=rows, answers={title: dict(texts) for title, texts in (answers or {}).items()}
            )
        ),
    )


def read_credits(records: Path) -> dict[str, dict[str, float]]:
    """The credits beside a records file, {} when there is no such file. Raises DataError for a damaged one."""
    path = credits_file(records)
    return _read(path).by_sample() if path.is_file() else {}


def read_answers(records: Path) -> dict[str, dict[str, str]]:
    """Title of a blind baseline -> id of an open question -> its answer; {} without a file. Raises DataError for a damaged one."""
    path = credits_file(records)
    return _read(path).answers if path.is_file() else {}


def _read(path: Path) -> CreditsFile:
    try:
        content = _ADAPTER.validate_json(read_text(path, MAX_BYTES, REMEDY), strict=True)
        content.by_sample()
    except ValueError:
        raise DataError(f"{path} does not hold blind credits: {REMEDY}") from None
    return content


def _digest_inputs(data: DataConfig, test: Sequence[Sample]) -> str:
    """A SHA-256 of everything that credits depend on, except the content of training files."""
    state = hashlib.sha256(f"{__version__}\0{data.model_dump_json()}".encode())
    if data.manifest is not None:
        state.update(Path(data.manifest).read_bytes())
    for sample in test:
        state.update(f"\0{sample.id}\0{digest_sample(sample, {})}".encode())
    return state.hexdigest()
