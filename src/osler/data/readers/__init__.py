"""Read datasets into Samples. Each dataset layout has one reader; reading decodes no image.

`READERS` lists the readers. `read` returns the samples of a dataset; `read_with_report` also returns the rows that were refused.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from osler.data.readers import (
    huatuo,
    jsonl,
    m3d_vqa,
    med_r1,
    medxpertqa_mm,
    mimic_cxr_vqa,
    mni152,
    omnimedvqa,
    path_vqa,
    phantom,
    phantom_study,
    pmc_vqa,
    slake,
    vqa_rad,
)
from osler.data.readers.base import Reader, ReaderCard, ReadReport, Refusal
from osler.data.readers.read_files import pausing_collection
from osler.errors import ConfigError, DataError
from osler.registry import Registry
from osler.types import Sample

__all__ = [
    "COMMON_OPTIONS",
    "GENERAL_READERS",
    "READERS",
    "ReadReport",
    "Reader",
    "ReaderCard",
    "Refusal",
    "read",
    "read_with_report",
    "register_reader",
    "tell_refusals",
]

GENERAL_READERS: Final = ("jsonl",)
"""Readers of anybody's data: they describe no dataset, and ids and names of files may name patients."""

COMMON_OPTIONS: Final = MappingProxyType(
    {
        "split": "train, validation or test, or all",
        "seed": "seed of all random choices of the reader, such as distractors; 0 when left out",
    }
)


def _as_reader(name: str, part: Any, card: ReaderCard | None = None) -> Reader:
    """The reader of a function `read(root, *, split=None, **options)` that returns samples or a ReadReport; a Reader as it is."""
    if isinstance(part, Reader):
        return part
    if not inspect.isroutine(part):
        raise ConfigError(f"the reader {name!r} is a {type(part).__name__}: register a function or an osler.data.readers.Reader")
    try:
        parameters = inspect.signature(part).parameters
        root, *options = (key for key in parameters if key not in COMMON_OPTIONS)
        parameters["split"]
    except (KeyError, ValueError):  # a built-in function may have no signature
        raise ConfigError(f"the reader {name!r} lacks the parameters root or split: define it as read(root, *, split=None, ...)") from None

    is_built_in = card is not None

    def read_root(root: Path | None, **options: Any) -> ReadReport:
        if "seed" not in parameters:
            options.pop("seed", None)
        result = part(root, **options)
        if not isinstance(result, ReadReport | Iterable):
            raise DataError(f"the reader {name!r} returned a {type(result).__name__} where samples are expected")
        report = result if isinstance(result, ReadReport) else ReadReport(samples=tuple(result))
        if is_built_in:  # `Rows` has seen to both
            return report
        if wrong := [sample for sample in report.samples if not isinstance(sample, Sample)]:
            raise DataError(f"the reader {name!r} returned a {type(wrong[0]).__name__} where an osler.Sample is expected")
        if len(report.samples) > len({sample.id for sample in report.samples}):
            twice = Counter(sample.id for sample in report.samples).most_common(1)[0][0]
            raise DataError(f"the reader {name!r} returned the id {twice!r} twice: records are told apart by it")
        return report

    card = card or ReaderCard(
        title=name,
        source=f"{part.__module__}.{part.__qualname__}",
        licence="not stated",
        counts="not stated",
        layout=(inspect.getdoc(part) or "see the reader's documentation").splitlines()[0],
        options=dict.fromkeys(options, "see the reader's documentation"),
    )
    return Reader(card=card, read=read_root, needs_root=parameters[root].default is inspect.Parameter.empty)


_MODULES: Final = (
    *(phantom, phantom_study, mni152, med_r1, omnimedvqa, huatuo, slake, vqa_rad),
    *(path_vqa, pmc_vqa, medxpertqa_mm, mimic_cxr_vqa, m3d_vqa, jsonl),
)
_BUILT_IN: Final = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
READERS: Final[Registry[Reader]] = Registry(
    "reader", {name: _as_reader(name, module.read, module.CARD) for name, module in _BUILT_IN.items()}, adapt=_as_reader, takes_paths=True
)
"""Every reader, by name; `register_reader` and the entry points `osler.readers` add to it."""

register_reader = READERS.register

_TOLD: Final[set[str]] = set()  # of this process


def read(reader: str, root: str | Path | None = None, /, **options: Any) -> list[Sample]:
    """The samples of a dataset, e.g. `read("med_r1", "data/OmniMedVQA", axis="modality", name="ct", split="test")`.

    Rows that cannot become a sample are left out, with one line of the logger "osler"; `read_with_report` lists them.

    Raises ConfigError for an unknown reader or option, and for several splits of which none is named; DataError for missing or unreadable
    files.
    """
    report = read_with_report(reader, root, **options)
    if options.get("split") is None and len(report.splits) > 1:
        raise ConfigError(f"{reader} has the splits {', '.join(report.splits)}: name one, or split='all' for one list of all questions")
    tell_refusals(reader, report)
    return list(report.samples)


def tell_refusals(reader: str, report: ReadReport) -> None:
    """Warn of refused rows in one line, once for each reading. Without a handler Python writes it to standard error."""
    if not report.refused:
        return
    total = len(report.samples) + len(report.refused)
    first = report.refused[0]
    line = (
        f"osler: {len(report.refused):,} of {total:,} rows of {reader} are refused and left out, the first {first.row}: {first.reason}"
        " (`osler data check` lists them, --strict stops at them)"
    )
    if line not in _TOLD:
        _TOLD.add(line)
        logging.getLogger("osler").warning("%s", line.replace("\n", " "))


@pausing_collection()
def read_with_report(name: str, root: str | Path | None = None, /, **options: Any) -> ReadReport:
    """The same as `read` with all splits where none is named, with the refused rows and the counts of repaired or unusual rows."""
    reader = READERS.find(name)
    if options.get("split") == "all":
        options["split"] = None
    valid = (*COMMON_OPTIONS, *reader.card.options)
    if unknown := sorted(set(options) - set(valid)):
        raise ConfigError(f"unknown option {unknown[0]!r} of reader {name!r}: use {', '.join(valid)}")
    if root is None and reader.needs_root:
        raise ConfigError(f"reader {name!r} needs a root: {reader.card.layout}")
    if not isinstance(seed := options.get("seed", 0), int) or isinstance(seed, bool):
        raise ConfigError(f"the seed of reader {name!r} is {seed!r}: use a whole number")
    return reader.read(None if root is None else Path(root), **options)
