"""VQA-RAD's public JSON with its folder of images.

There is no modality column. It is read from the data's own modality questions about the same image and from nothing else: an answer that
names a technique ("MRI - DWI"), or a "yes" to a question whether the image is one. Images without such a question have no modality.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.data.readers.base import Reader, ReaderCard, ReadReport, Rows, check_choice, get_text
from osler.data.readers.make_choices import OUTCOMES, Answered, AnswerPool, parse_content_type
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import repair_mojibake
from osler.errors import DataError
from osler.images.files import ImageFile
from osler.taxonomy import Modality
from osler.text import fold_words
from osler.types import Sample

SPLITS: Final = ("train", "test")
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

# What an answer to a modality question has to hold, as a folded word, to name the technique.
_TECHNIQUES: Final = (
    (Modality.MRI, re.compile(r"\b(mri?|t1|t2|flair|dwi|diffusion weighted)\b")),
    (Modality.CT, re.compile(r"\b(ct|computed tomography)\b")),
    (Modality.XRAY, re.compile(r"(\b|(?<=chest))(x ?rays?|cxr|radiographs?|plain films?)\b")),
    (Modality.ULTRASOUND, re.compile(r"\b(ultrasound|sonogram)\b")),
)
_ASKS_WHETHER: Final = re.compile(r"^(is|was) (this|the)\b")
_NEGATED: Final = re.compile(r"\bnot\b")
_CASE_ID: Final = re.compile(r"[?&]id=([\w-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    raw: dict[str, Any]
    split: str
    image: str
    question: str
    answer: str
    content_type: str


def read_vqa_rad(root: Path, *, split: str | None = None, seed: int = 0) -> ReadReport:
    """The questions of one split: "test" is what the data mark as test_freeform or test_para, the rest is "train"."""
    check_choice("split", split, SPLITS)
    file = root if root.is_file() else root / _FILE
    image_root = next((file.parent / name for name in _IMAGE_FOLDERS if (file.parent / name).is_dir()), file.parent / _IMAGE_FOLDERS[0])
    rows = Rows()
    parsed: list[_Row] = []
    for index, raw in enumerate(load_rows(file)):
        try:
            parsed.append(_parse_row(raw, rows.notes))
        except DataError as error:
            rows.refuse(f"vqa_rad/row {index}", error)
    modalities = find_modalities(((row.image, row.question, row.answer) for row in parsed if "MODALITY" in row.content_type), rows.notes)
    answered = [_answered(row, modalities) for row in parsed]
    pool = AnswerPool(answered, seed=seed)
    cases = _find_cases(parsed)
    for row, answer in zip(parsed, answered, strict=True):
        if split in (None, row.split):
            rows.add(answer.id, lambda: _make_sample(row, answer, pool, cases, image_root, rows.notes))  # noqa: B023 - called at once
    return rows.report()


def _parse_row(raw: Any, notes: Counter[str]) -> _Row:
    if not isinstance(raw, dict):
        raise DataError("the row is not an object")
    phrase = get_text(raw, "phrase_type", notes)
    return _Row(
        raw=raw | {"qid": get_text(raw, "qid"), "answer_type": get_text(raw, "answer_type", notes).upper()},
        split="test" if phrase.startswith("test_") else "train",
        image=get_text(raw, "image_name", notes),
        question=repair_mojibake(get_text(raw, "question", notes), notes),
        answer=repair_mojibake(get_text(raw, "answer", notes), notes),
        content_type=get_text(raw, "question_type", notes),
    )


def _answered(row: _Row, modalities: dict[str, Modality]) -> Answered:
    return Answered(
        id=f"vqa_rad/{row.raw['qid']}",
        question=row.question,
        answer=row.answer,
        content_type=row.content_type,
        answer_type=row.raw["answer_type"],
        modality=modalities.get(row.image),
    )


def find_modalities(rows: Iterable[tuple[str, str, str]], notes: Counter[str]) -> dict[str, Modality]:
    """Image -> modality, from (image, question, answer) of modality questions. Images whose answers disagree are left out, and counted."""
    named: defaultdict[str, set[Modality]] = defaultdict(set)
    for image, question, answer in rows:
        if (modality := name_modality(question, answer)) is not None:
            named[image].add(modality)
    for found in named.values():
        if len(found) > 1:
            notes["image whose modality answers disagree"] += 1
    return {image: found.pop() for image, found in named.items() if len(found) == 1}


def name_modality(question: str, answer: str) -> Modality | None:
    """The modality that a modality question and its answer state for the image: ("Is this a CT?", "yes") -> CT; None if they state none."""
    asked, said = fold_words(question), fold_words(answer)
    if _NEGATED.search(asked) or said == "no":
        return None
    if said == "yes":
        said = asked if _ASKS_WHETHER.search(asked) else ""
    found = [modality for modality, pattern in _TECHNIQUES if pattern.search(said)]
    return found[0] if len(found) == 1 else None


def _find_cases(rows: Iterable[_Row]) -> dict[str, str]:
    """Image name -> case; an image that two cases show belongs to the first, so that no image has two subjects."""
    cases: dict[str, str] = {}
    for row in rows:
        if case := _CASE_ID.search(str(row.raw.get("image_case_url"))):
            cases.setdefault(row.image, case[1])
    return cases


def _make_sample(
    row: _Row, answered: Answered, pool: AnswerPool, cases: Mapping[str, str], image_root: Path, notes: Counter[str]
) -> Sample:
    closed = pool.close(answered)
    question_type = parse_content_type(row.content_type)
    notes[f"{row.raw['answer_type']} question made {OUTCOMES[closed.rule]}"] += 1
    if question_type is None:
        notes["question types that disagree, such as 'PRES, POS'"] += 1
    return Sample(
        id=answered.id,
        dataset="vqa_rad",
        images=(ImageFile(root=image_root, path=row.image),),
        question=row.question,
        choices=closed.choices,
        target=closed.target,
        modality=answered.modality,
        question_type=question_type,
        subject_id=cases.get(row.image),
        metadata={
            "answer": row.answer,
            "answer_type": row.raw["answer_type"],
            "content_type": row.content_type,
            "organ": row.raw.get("image_organ"),
            "split": row.split,
        },
    )


READER: Final = Reader(name="vqa_rad", card=CARD, read=read_vqa_rad)
