"""Credits of the blind baselines on the questions of an evaluation, in a file beside its records; image gains are computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from osler import __version__
from osler.audits.baselines import ALL_BASELINES, BASELINES, blind_credits
from osler.audits.open_baselines import open_credits
from osler.config import DataConfig
from osler.data.select import load_split
from osler.data.splits.manifest import digest_sample
from osler.errors import DataError, OslerError
from osler.files import read_text, write_json
from osler.metrics.estimates import Share
from osler.types import Sample

Credits = Mapping[str, Mapping[str, float]]
"""Title of a baseline -> sample id -> credit in [0, 1], less than 1 where options tie."""

MAX_BYTES: Final = 256 << 20
REMEDY: Final = "delete it and evaluate again"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsFile:
    """The layout of the file."""

    digest: str | None = None  # of the data that the credits depend on
    samples: list[str]  # ids
    credits: dict[str, list[Share]]  # title of a baseline -> credits in the order of the samples

    def by_sample(self) -> dict[str, dict[str, float]]:
        """Title of a baseline -> sample id -> credit. Raises ValueError where credits are missing."""
        return {title: dict(zip(self.samples, row, strict=True)) for title, row in self.credits.items()}


_ADAPTER: Final = TypeAdapter(CreditsFile)


def compute_credits(data: DataConfig, test: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """The credits of every blind baseline, fitted on `[data.train]`, on the test questions.

    Without training questions only the baselines that need no fit are included. On open questions the option prior gives the most frequent
    answer of the question type, the question prior that of the same question, and the other baselines earn nothing.
    """
    try:
        train = load_split(data, "train")
    except OslerError:  # an evaluation needs no training data
        train = []
    closed = {ALL_BASELINES[name].title: by_sample for name, by_sample in blind_credits(train, test).items()}
    answered = open_credits(train, test)
    nothing = {sample.id: 0.0 for sample in test}
    titles = [baseline.title for baseline in ALL_BASELINES.values() if baseline.title in closed or baseline.title in answered]
    return {title: nothing | closed.get(title, {}) | answered.get(title, {}) for title in titles}


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
            if content.digest == digest and content.credits.keys() >= {baseline.title for baseline in BASELINES.values()}:
                return content.by_sample()
    write_credits(records, compute_credits(data, test), digest=digest)
    return read_credits(records)


def write_credits(records: Path, blind: Credits, *, digest: str | None = None) -> None:
    """Write credits beside a records file, with a `digest` of the data that they depend on."""
    samples = sorted({name for by_sample in blind.values() for name in by_sample})
    rows = {title: [round(by_sample[name], 6) for name in samples] for title, by_sample in blind.items()}
    write_json(credits_file(records), asdict(CreditsFile(digest=digest, samples=samples, credits=rows)))


def read_credits(records: Path) -> dict[str, dict[str, float]]:
    """The credits beside a records file, {} when there is no such file. Raises DataError for a damaged one."""
    path = credits_file(records)
    return _read(path).by_sample() if path.is_file() else {}


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
