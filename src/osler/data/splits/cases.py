"""Find the patient or case of an image from the dataset or from the file name.

Samples with different images can still share a patient. Datasets rarely name the patient, but many file names in the sources of OmniMedVQA
contain the patient number of the source. A rule exists only where the source documents its file names or where they are self-explanatory.
An image that no rule matches has an unknown case (None), which does not connect it to other images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from osler.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingRule:
    """How the file names of one source contain the case."""

    pattern: re.Pattern[str]  # searched in the path below the source's folder; its groups, joined by "/", are the case
    unit: str  # "patient": what a case is
    namespace: str | None = None  # sources with the same namespace share cases; None: the source does not share cases

    def read(self, source: str, rest: str) -> str | None:
        """The case of the image "Images/<source><rest>", e.g. "Mura:patient11186"; None if the name does not match."""
        if (match := self.pattern.search(rest)) is None:
            return None
        return f"{self.namespace or source}:{'/'.join(group for group in match.groups() if group)}"


def _rule(pattern: str, unit: str, namespace: str | None = None) -> NamingRule:
    return NamingRule(pattern=re.compile(pattern), unit=unit, namespace=namespace)


# Three sources contain the paediatric chest X-rays of Kermany et al. (2018) under their original names, e.g. person150_bacteria_717.
_KERMANY: Final = r"(?:^|/)(person\d+_[a-z]+)_|(?:^|/)((?:NORMAL2-)?IM-\d+)-"

CASES: Final[Mapping[str, NamingRule]] = {
    "Blood Cell": _rule(r"/([A-Z]+/_\d+)_\d+\.", "micrograph before augmentation"),
    "BreakHis": _rule(r"-(\d\d-\d+)[A-Z]*-\d+-\d+\.", "patient"),
    "Chest CT Scan": _rule(r"/([^/]+)/(\d{6})", "numbered slice position of one diagnosis"),
    "Chest X-Ray PA": _rule(_KERMANY + r"|/(\d{8})_\d{3}\.", "patient", "kermany"),
    "CoronaHack": _rule(_KERMANY, "patient", "kermany"),
    "Covid CT": _rule(r"/(\d{4}\.\d\d\.\d\d\.\d+|[a-z][\w.]*)[^/]*-p\d+-\d+", "publication"),
    "COVIDx CXR-4": _rule(r"/(MIDRC-RICORD-1C-\w+-\d+)-", "patient"),
    "DeepDRiD": _rule(r"/(\d+)/\d+_[lr]\d\.", "patient"),
    "Diabetic Retinopathy": _rule(r"/(\d+)_(?:left|right)\.", "patient"),
    "Knee Osteoarthritis": _rule(r"/(\d{7})[LR]\.", "patient"),
    "MAlig Lymph": _rule(r"/(sj-\d\d-\d+)", "slide"),
    "Mura": _rule(r"/(patient\d+)/", "patient"),
    "NLM- Malaria Data": _rule(r"/C\d+(P\d+)", "patient"),
    "OCT & X-Ray 2017": _rule(r"/((?:CNV|DME|DRUSEN|NORMAL)-\d+)-\d+\.|" + _KERMANY, "patient", "kermany"),
    "OLIVES": _rule(r"/Prime_FULL_Prime_FULL_(\d\d-\d{3})_|/TREX DME_[A-Za-z]+_(\d{4})[A-Z]+_", "patient"),
    "PAD-UFES-20": _rule(r"/(PAT_\d+)_", "patient"),
}
"""Source folder below `Images/` -> its rule."""


_FOLDER: Final = "Images"


def case_of(sample: Sample) -> str | None:
    """The patient or case of a sample, from its `subject_id` or else from the path of its first image; None if unknown."""
    if sample.subject_id is not None:
        return f"{sample.dataset}:{sample.subject_id}"
    return read_case(sample.images[0].uri) if sample.images else None


def source_of(uri: str) -> str | None:
    """The source folder of an image, "Mura" for "Images/Mura/..."; None for other paths."""
    parts = uri.split("/", 2)
    return parts[1] if len(parts) == 3 and parts[0] == _FOLDER else None


def read_case(uri: str) -> str | None:
    """The case in the path of an image, e.g. "Images/Mura/../patient11186/study1/image2.png" -> "Mura:patient11186"; None if unknown."""
    return _read_case(uri) if uri.startswith(f"{_FOLDER}/") else None  # most datasets have no such paths, so nothing is kept of them


@lru_cache(maxsize=1 << 17)
def _read_case(uri: str) -> str | None:
    source = source_of(uri)
    if source is None or (rule := CASES.get(source)) is None:
        return None
    return rule.read(source, uri.removeprefix(f"Images/{source}"))
