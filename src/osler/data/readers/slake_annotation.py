"""The facts of SLAKE's images: modality, body region, boxes of organs and diseases, and all English questions about the same image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from osler.data.facts.names import OWN_ORGANS, anatomy_facts, organ_of
from osler.data.facts.places import Place, asked_place, common_place, place_facts, place_of_answer, place_of_box
from osler.data.facts.questions import disease_of, findings_listed, read_facts
from osler.data.facts.table import FactTable
from osler.data.readers.make_choices import Answered
from osler.data.readers.read_files import load_object, load_rows
from osler.errors import DataError
from osler.facts import Fact, Facts, Kind, Term
from osler.grading.terms import GENERIC
from osler.images.files import ImageFile

Box = tuple[float, float, float, float]

TERMS: Final = (
    Term(phrase="enhancing tumor", kind=Kind.PRESENCE, value="enhancing tumour"),
    Term(phrase="non-enhancing tumor", kind=Kind.PRESENCE, value="non-enhancing tumour"),
    Term(phrase="nonenhancing tumor", kind=Kind.PRESENCE, value="non-enhancing tumour"),
    *(Term(phrase=organ, kind=Kind.ANATOMY, value=organ) for organ in OWN_ORGANS),
)
"""Phrases of SLAKE that the general vocabulary lacks."""

_REGIONS: Final = {
    "Lung": ("chest",), "Chest_lung": ("chest",), "Chest_heart": ("chest",), "Chest_mediastinal": ("chest",), "Abdomen": ("abdomen",),
    "Brain": ("brain", "head"), "Brain_Tissue": ("brain", "head"), "Brain_Face": ("head",), "Neck": ("neck",), "Pelvic Cavity": ("pelvis",),
}  # fmt: skip
_PATIENT_SIDES: Final = frozenset({"Lung", "Chest_lung", "Chest_heart", "Chest_mediastinal", "Brain_Tissue"})
"""The locations whose answers give the patient's side of a disease. Those of "Brain" and "Abdomen" give the image's side."""
_HAS_SIDE: Final = re.compile(r"(?:left|right) ", re.IGNORECASE)


class SlakeFacts:
    """Collects the rows of all files; `facts_of` then gives the facts of a sample. Images with boxes are opened for their size."""

    def __init__(self, root: Path, notes: Counter[str]) -> None:
        self._root = root
        self._notes = notes
        self._table = FactTable(notes)
        self._rows: dict[str, list[Answered]] = {}
        self._boxes: Mapping[str, Any] | None = None
        self._is_complete: set[str] = set()

    def add(self, image: str, row: Answered) -> None:
        """Add an English row about an image, a path such as "xmlab1/source.jpg"."""
        self._rows.setdefault(image, []).append(row)

    def facts_of(self, image: str, row: Answered) -> Facts | None:
        """The facts of an image for one question about it. Raises DataError for boxes in an unreadable file."""
        if image not in self._is_complete:
            self._is_complete.add(image)
            self._collect(image, row)
        return self._table.facts_of(image, row.id)

    def _collect(self, image: str, row: Answered) -> None:
        rows = self._rows.get(image, [])
        location = str(row.raw.get("location"))
        boxes = list(self._read_boxes(image))
        self._table.add(image, _metadata_facts(row, location))
        self._table.add(image, self._box_facts(image, boxes, location))
        findings = {found for name, _ in boxes if (found := disease_of(name))}
        only_finding = findings.pop() if len(findings) == 1 else None
        for other in rows:
            self._table.add(image, read_facts(other.question, other.answer), other.id)
            self._table.add(image, _answered_place(other, only_finding, location), other.id)

    def _read_boxes(self, image: str) -> Iterator[tuple[str, Box]]:
        """Name and box of each organ or disease. They stand in detection.json, of the whole dataset or in the folder of the image."""
        case = image.partition("/")[0]
        if self._boxes is None:
            file = self._root / "detection.json"
            self._boxes = load_object(file) if file.is_file() else {}
        own = self._root / "imgs" / case / "detection.json"
        raw = self._boxes[case] if case in self._boxes else load_rows(own) if own.is_file() else []
        for name, box in (item for entry in raw if isinstance(entry, dict) for item in entry.items()):
            if isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) for number in box):
                yield name, (box[0], box[1], box[2], box[3])
            else:
                self._notes["box that is not [x, y, width, height]"] += 1

    def _box_facts(self, image: str, boxes: Sequence[tuple[str, Box]], location: str) -> Iterator[Fact]:
        found: dict[str, list[Box]] = {}
        names = dict.fromkeys(name for name, _ in boxes)
        yield from findings_listed((name for name in names if disease_of(name)), is_complete=True)
        for name, box in boxes:
            if finding := disease_of(name):
                found.setdefault(finding, []).append(box)
            elif organ := organ_of(name):
                yield from anatomy_facts(organ)
                if not _HAS_SIDE.match(name):
                    found.setdefault(organ, []).append(box)
        if not found or (size := self._size_of(image)) is None:
            return
        for about, own in found.items():
            place = common_place([place_of_box(box, size) for box in own])
            yield from place_facts(about, place if organ_of(about) else _finding_place(place.mirrored(), location))

    def _size_of(self, image: str) -> tuple[int, int] | None:
        try:
            return ImageFile(root=self._root / "imgs", path=image).read_size()
        except DataError:
            return None


def _metadata_facts(row: Answered, location: str) -> Iterator[Fact]:
    if row.modality is not None:
        yield Fact(kind=Kind.MODALITY, value=row.modality.value)
    for region in _REGIONS.get(location, ()):
        yield from anatomy_facts(region)


def _answered_place(row: Answered, only_finding: str | None, location: str) -> Iterator[Fact]:
    """The place that the answer to a position question gives; that of "the abnormality" only where the image has one disease."""
    name = asked_place(row.question)
    place = place_of_answer(row.answer) if name else None
    if name is None or place is None or _HAS_SIDE.match(name):
        return
    if organ := organ_of(name):
        yield from place_facts(organ, place)
    elif finding := only_finding if name in GENERIC else disease_of(name):
        yield from place_facts(finding, _finding_place(place, location))


def _finding_place(place: Place, location: str) -> Place:
    """The place of a disease by the patient's sides; without a side where SLAKE's answers are not about the patient's sides."""
    return place if location in _PATIENT_SIDES else Place(None, place.half)
