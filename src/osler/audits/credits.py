"""What blind answers earn on the questions of an evaluation, kept beside its records: the other side of every image gain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from osler import __version__
from osler.audits.baselines import BASELINES, blind_credits
from osler.config import DataConfig
from osler.data.select import load_split
from osler.data.splits.manifest import digest_sample
from osler.errors import DataError, OslerError
from osler.files import read_text, write_json
from osler.types import Sample

Credits = Mapping[str, Mapping[str, float]]
"""Title of a baseline -> sample id -> credit in [0, 1], less than 1 where it shares a tie."""

MAX_BYTES: Final = 256 << 20


def earn_credits(data: DataConfig, test: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """What every blind baseline, fitted on `[data.train]`, earns on test questions with choices.

    Only those that need no fit are left where there are no training questions at hand.
    """
    try:
        train = load_split(data, "train")
    except OslerError:  # an evaluation needs no training data
        train = []
    found = blind_credits(train, [sample for sample in test if sample.choices])
    return {BASELINES[name].title: earned for name, earned in found.items()}


def credits_file(records: Path) -> Path:
    """The file beside a records file, e.g. records/grpo.jsonl -> records/grpo.blind.json."""
    return records.with_suffix(".blind.json")


def keep_credits(records: Path, data: DataConfig, test: Sequence[Sample], *, fresh: bool = False) -> dict[str, dict[str, float]]:
    """The credits beside a records file where they are of the same questions, else earned and kept there.

    The same: the test questions with their targets, the `[data]` section, the manifest that it names, and the version of Osler. Training
    files that change in place are not opened to find out: `fresh` earns anew. Credits that no training questions were at hand for are not
    kept to.
    """
    digest = _digest_terms(data, test)
    path = credits_file(records)
    if not fresh and path.is_file():
        with suppress(DataError):  # a damaged file is written again
            earned_on, earned = _read(path)
            if earned_on == digest and earned.keys() >= {baseline.title for baseline in BASELINES.values()}:
                return earned
    write_credits(records, earn_credits(data, test), digest=digest)
    return read_credits(records)


def write_credits(records: Path, blind: Credits, *, digest: str | None = None) -> None:
    """Keep credits beside a records file, with a `digest` of what they were earned on."""
    asked = sorted({name for earned in blind.values() for name in earned})
    rows = {title: [round(earned[name], 6) for name in asked] for title, earned in blind.items()}
    write_json(credits_file(records), {"digest": digest, "samples": asked, "credits": rows})


def read_credits(records: Path) -> dict[str, dict[str, float]]:
    """The credits beside a records file; none where there is no such file. Raises DataError for one that is not as it was written."""
    path = credits_file(records)
    return _read(path)[1] if path.is_file() else {}


def _read(path: Path) -> tuple[str | None, dict[str, dict[str, float]]]:
    """The digest and the credits that `write_credits` wrote. Raises DataError for anything else."""
    text = read_text(path, MAX_BYTES, "delete it and evaluate again")
    try:
        content = json.loads(text)
        asked = [str(name) for name in content["samples"]]
        earned = {str(title): dict(zip(asked, map(float, row), strict=True)) for title, row in content["credits"].items()}
        return content.get("digest"), earned
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} does not hold blind credits: delete it and evaluate again") from None


def _digest_terms(data: DataConfig, test: Sequence[Sample]) -> str:
    """What credits depend on, but for the content of training files."""
    state = hashlib.sha256(f"{__version__}\0{data.model_dump_json()}".encode())
    if data.manifest is not None:
        state.update(Path(data.manifest).read_bytes())
    for sample in test:
        state.update(f"\0{sample.id}\0{digest_sample(sample, {})}".encode())
    return state.hexdigest()
