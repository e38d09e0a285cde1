"""Read datasets into Samples. Each dataset layout has one reader; reading opens no image.

`READERS` lists the readers. `read` returns the samples of a dataset; `read_with_report` also returns the rows that were refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from osler.data.readers import huatuo, jsonl, med_r1, omnimedvqa, phantom, slake, vqa_rad
from osler.data.readers.base import Reader, ReaderCard, ReadReport, Refusal
from osler.errors import ConfigError
from osler.types import Sample

__all__ = ["COMMON_OPTIONS", "READERS", "ReadReport", "Reader", "ReaderCard", "Refusal", "read", "read_with_report"]

READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {module.READER.name: module.READER for module in (phantom, med_r1, omnimedvqa, huatuo, slake, vqa_rad, jsonl)}
)

COMMON_OPTIONS: Final = MappingProxyType(
    {
        "split": "train, validation or test; all splits when left out",
        "seed": "seed of all random choices of the reader, such as distractors; 0 when left out",
    }
)


def read(reader: str, root: str | Path | None = None, /, **options: Any) -> list[Sample]:
    """The samples of a dataset, e.g. `read("med_r1", "data/OmniMedVQA", axis="modality", name="ct", split="test")`.

    Rows that cannot become a sample are left out; `read_with_report` lists them. Raises ConfigError for an unknown reader or option and
    DataError for missing or unreadable files.
    """
    return list(read_with_report(reader, root, **options).samples)


def read_with_report(reader: str, root: str | Path | None = None, /, **options: Any) -> ReadReport:
    """The same as `read`, with the refused rows and the counts of repaired or unusual rows."""
    if (found := READERS.get(reader)) is None:
        raise ConfigError(f"unknown reader {reader!r}: use one of {', '.join(READERS)}")
    valid = (*COMMON_OPTIONS, *found.card.options)
    if unknown := sorted(set(options) - set(valid)):
        raise ConfigError(f"unknown option {unknown[0]!r} of reader {reader!r}: use {', '.join(valid)}")
    if root is None and found.needs_root:
        raise ConfigError(f"reader {reader!r} needs a root: {found.card.layout}")
    if not isinstance(seed := options.get("seed", 0), int) or isinstance(seed, bool):
        raise ConfigError(f"the seed of reader {reader!r} is {seed!r}: use a whole number")
    return found.read(None if root is None else Path(root), **options)
