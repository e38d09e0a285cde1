"""What blind answers earn on the questions of an evaluation, kept beside its records: the other side of every image gain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from osler.audit.blind import BASELINES, blind_credits
from osler.config import DataConfig
from osler.errors import DataError, OslerError
from osler.runs import write_json
from osler.selection import load_split
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


def write_credits(records: Path, blind: Credits) -> None:
    """Keep credits beside a records file."""
    asked = sorted({name for earned in blind.values() for name in earned})
    rows = {title: [round(earned[name], 6) for name in asked] for title, earned in blind.items()}
    write_json(credits_file(records), {"samples": asked, "credits": rows})


def read_credits(records: Path) -> dict[str, dict[str, float]]:
    """The credits beside a records file; none where there is no such file. Raises DataError for one that is not as it was written."""
    path = credits_file(records)
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes: delete it and evaluate again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        asked = [str(name) for name in content["samples"]]
        return {str(title): dict(zip(asked, map(float, row), strict=True)) for title, row in content["credits"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} does not hold blind credits: delete it and evaluate again") from None
