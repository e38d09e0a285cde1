"""The patient or case that an image shows, where its dataset says so or its file name does.

Rows split apart by image can still share a patient. Datasets rarely publish the patient, but many file names of OmniMedVQA's sources keep
the number that their source gave it. A rule stands here only where the naming is documented by the source or plain from the names
themselves; what no rule reads has no case, and is never guessed to be a case of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from osler.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingRule:
    """How one source writes a case into its file names."""

    pattern: re.Pattern[str]  # searched in the path after the source's folder; its groups together name the case
    unit: str  # what the groups name, "patient"
    namespace: str | None = None  # sources that share one namespace share their cases; the source's own folder when None

    def read(self, source: str, rest: str) -> str | None:
        """The case of "<source>/<rest>", e.g. "Mura:patient11186"; None where the name does not follow the rule."""
        if (match := self.pattern.search(rest)) is None:
            return None
        return f"{self.namespace or source}:{'/'.join(group for group in match.groups() if group)}"


def _rule(pattern: str, unit: str, namespace: str | None = None) -> NamingRule:
    return NamingRule(pattern=re.compile(pattern), unit=unit, namespace=namespace)


# Three sources took images from the paediatric chest X-rays of Kermany et al. (2018) and kept their names, person150_bacteria_717.
_KERMANY: Final = r"(?:^|/)(person\d+_[a-z]+)_|(?:^|/)((?:NORMAL2-)?IM-\d+)-"

CASES: Final[Mapping[str, NamingRule]] = MappingProxyType(
    {
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
)
"""By the folder below `Images/` that OmniMedVQA keeps a source in."""


def case_of(sample: Sample) -> str | None:
    """The patient or case of a sample: its own `subject_id`, else what a rule reads from its first image's path, else None."""
    if sample.subject_id is not None:
        return f"{sample.dataset}:{sample.subject_id}"
    return read_case(sample.images[0].uri) if sample.images else None


def source_of(uri: str) -> str | None:
    """The source folder of an image below `Images/`, e.g. "Mura"; None for a path of another layout."""
    parts = uri.split("/", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "Images" else None


@cache
def read_case(uri: str) -> str | None:
    """The case that a path below `Images/` names, e.g. "Images/Mura/../patient11186/study1/image2.png" -> "Mura:patient11186"."""
    source = source_of(uri)
    if source is None or (rule := CASES.get(source)) is None:
        return None
    return rule.read(source, uri.removeprefix(f"Images/{source}"))
