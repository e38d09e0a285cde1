"""VQA-RAD: its public JSON file and its folder of images.

The rows have no modality. It is taken only from the modality questions about the same image: from an answer that names a technique
("MRI - DWI"), or from a "yes" to a question that names one ("Is this a CT?"). It is None for images without such a question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from osler.data.facts.names import anatomy_facts
from osler.data.facts.questions import read_facts
from osler.data.facts.table import FactTable
from osler.data.readers.base import TRAIN_TEST, ReaderCard, ReadReport, Rows, check_choice, check_object, get_text
from osler.data.readers.make_choices import Answered, AnswerPool, parse_content_type
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import repair_mojibake
from osler.errors import DataError
from osler.facts import Fact, Kind
from osler.taxonomy import Modality
from osler.text import fold_words
from osler.types import Sample

_FILE: Final = "VQA_RAD Dataset Public.json"
_IMAGE_FOLDERS: Final = ("VQA_RAD Image Folder", "images")

CARD: Final = ReaderCard(
    title="VQA-RAD",
    source="Lau et al., Scientific Data 2018, osf.io/89kps",
    licence="CC0 1.0",
    counts="315 images, 2,248 questions; the official test split shares nearly all its images with train",
    layout=f"the folder that holds '{_FILE}' and '{_IMAGE_FOLDERS[0]}/' (or images/)",
    options={},
)

# Searched in the answer to a modality question after `fold_words`.
_TECHNIQUES: Final = (
    (Modality.MRI, re.compile(r"\b(mri?|t1|t2|flair|dwi|diffusion weighted)\b")),
    (Modality.CT, re.compile(r"\b(ct|computed tomography)\b")),
    (Modality.XRAY, re.compile(r"(\b|(?<=chest))(x ?rays?|cxr|radiographs?|plain films?)\b")),
    (Modality.ULTRASOUND, re.compile(r"\b(ultrasound|sonogram)\b")),
)
_REGIONS: Final = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
_ASKS_WHETHER: Final = re.compile(r"^(is|was) (this|the)\b")
_NEGATED: Final = re.compile(r"\bnot\b")
_CASE_ID: Final = re.compile(r"[?&]id=([\w-]+)")


def read(root: Path, *, split: str | None = None, seed: int = 0) -> ReadReport:
    """The questions of one split: rows with the phrase type test_freeform or test_para are "test", all others "train".

    Raises ConfigError for an unknown split and DataError for a missing or unreadable file.
    """
    check_choice("split", split, TRAIN_TEST)
    file = root if root.is_file() else root / _FILE
    image_root = next((file.parent / name for name in _IMAGE_FOLDERS if (file.parent / name).is_dir()), file.parent / _IMAGE_FOLDERS[0])
    rows = Rows()
    parsed: list[Answered] = []
    for index, raw in enumerate(load_rows(file)):
        try:
            parsed.append(_parse_row(raw, rows.notes))
        except DataError as error:
            rows.refuse(f"vqa_rad/row {index}", error)
    modalities = _find_modalities(parsed, rows.notes)
    parsed = [replace(row, modality=modalities.get(_image_name(row))) for row in parsed]
    pool = AnswerPool(parsed, seed=seed)
    cases = _find_cases(parsed)
    facts = _collect_facts(parsed, rows.notes)
    for row in parsed:
        if split in (None, row.split):
            rows.add(row.id, _make_sample, row, pool, cases, facts, image_root, rows.notes)
    return rows.report(splits=TRAIN_TEST if split is None else ())


def _parse_row(raw: Any, notes: Counter[str]) -> Answered:
    raw = check_object(raw)
    phrase = get_text(raw, "phrase_type", notes)
    question_id, answer_type = get_text(raw, "qid"), get_text(raw, "answer_type", notes)
    get_text(raw, "image_name", notes)  # refuses a row without an image before its answer is used
    return Answered(
        id=f"vqa_rad/{question_id}",
        question=repair_mojibake(get_text(raw, "question", notes), notes),
        answer=repair_mojibake(get_text(raw, "answer", notes), notes),
        content_type=get_text(raw, "question_type", notes),
        answer_type=answer_type.upper(),
        modality=None,
        split="test" if phrase.startswith("test_") else "train",
        raw=raw,
    )


def _image_name(row: Answered) -> str:
    return get_text(row.raw, "image_name")


def _find_modalities(rows: Iterable[Answered], notes: Counter[str]) -> dict[str, Modality]:
    """Image -> modality. Images with modality answers that disagree are left out and counted."""
    named: defaultdict[str, set[Modality]] = defaultdict(set)
    for row in rows:
        modality = name_modality(row.question, row.answer)
        if modality is not None and "MODALITY" in row.content_type:
            named[_image_name(row)].add(modality)
    for modalities in named.values():
        if len(modalities) > 1:
            notes["image whose modality answers disagree"] += 1
    return {image: modalities.pop() for image, modalities in named.items() if len(modalities) == 1}


def name_modality(question: str, answer: str) -> Modality | None:
    """The modality that a modality question and its answer state: ("Is this a CT?", "yes") -> CT; None for no or several modalities."""
    folded_question, statement = fold_words(question), fold_words(answer)
    if _NEGATED.search(folded_question) or statement == "no":
        return None
    if statement == "yes":
        statement = folded_question if _ASKS_WHETHER.search(folded_question) else ""
    modalities = [modality for modality, pattern in _TECHNIQUES if pattern.search(statement)]
    return modalities[0] if len(modalities) == 1 else None


def _find_cases(rows: Iterable[Answered]) -> dict[str, str]:
    """Image name -> case; an image of two cases gets the first one, so that no image has two subjects."""
    cases: dict[str, str] = {}
    for row in rows:
        if case := _CASE_ID.search(str(row.raw.get("image_case_url"))):
            cases.setdefault(_image_name(row), case[1])
    return cases


def _collect_facts(rows: Iterable[Answered], notes: Counter[str]) -> FactTable:
    """The body region of each image, and what its questions state."""
    table = FactTable(notes)
    for row in rows:
        image = _image_name(row)
        table.add(image, anatomy_facts(_REGIONS[region]) if (region := str(row.raw.get("image_organ"))) in _REGIONS else ())
        table.add(image, read_facts(row.question, row.answer), row.id)
        modality = name_modality(row.question, row.answer) if "MODALITY" in row.content_type else None
        table.add(image, () if modality is None else (Fact(kind=Kind.MODALITY, value=modality.value),), row.id)
    return table


def _make_sample(
    row: Answered, pool: AnswerPool, cases: Mapping[str, str], facts: FactTable, image_root: Path, notes: Counter[str]
) -> Sample:
    if parse_content_type(row.content_type) is None:
        notes["question types that disagree, such as 'PRES, POS'"] += 1
    image, organ = _image_name(row), row.raw.get("image_organ")
    known = facts.facts_of(image, row.id)
    return pool.make_sample(row, "vqa_rad", image_root, image, notes, subject_id=cases.get(image), facts=known, organ=organ)
