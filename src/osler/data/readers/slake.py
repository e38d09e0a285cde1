"""SLAKE in its official layout: train.json, validate.json, test.json and imgs/xmlabN/source.jpg.

`make_choices` turns closed questions, and open questions with few possible answers, into multiple choice. The metadata keep the answer.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, get_text
from osler.data.readers.make_choices import Answered, AnswerPool
from osler.data.readers.read_files import load_rows
from osler.data.readers.slake_annotation import TERMS, SlakeFacts
from osler.data.readers.text import parse_label, repair_mojibake
from osler.errors import DataError
from osler.taxonomy import SPLITS, parse_modality
from osler.types import Sample

_FILES: Final = {"train": "train.json", "validation": "validate.json", "test": "test.json"}

CARD: Final = ReaderCard(
    title="SLAKE 1.0",
    source="Liu et al., ISBI 2021, arXiv 2102.09542",
    licence="CC BY 4.0",
    counts="642 images, 14,028 questions in English and Chinese",
    layout="the folder that holds train.json, validate.json, test.json and imgs/",
    options={"language": "en (when left out), zh, or all; the splits are disjoint only within a language"},
)


def read(root: Path, *, split: str | None = None, seed: int = 0, language: str = "en") -> ReadReport:
    """The questions of one split and language. Distractors come from the rows of all present files, so they do not depend on `split`.

    Raises ConfigError for an unknown split or language and DataError for missing or unreadable files.
    """
    check_choice("split", split, SPLITS)
    check_choice("language", language, ("en", "zh", "all"))
    parsed: list[Answered] = []
    rows = Rows()
    present = {part: name for part, name in _FILES.items() if part == split or (root / name).is_file()}
    if not present:
        raise DataError(f"{root} holds none of {', '.join(_FILES.values())}: check the data root")
    for part, name in present.items():
        for index, raw in enumerate(load_rows(root / name)):
            is_wanted = split in (None, part) and (language == "all" or not isinstance(raw, dict) or raw.get("q_lang") == language)
            try:
                parsed.append(_parse_row(raw, part, rows.notes if is_wanted else Counter()))
            except DataError as error:
                if is_wanted:
                    rows.refuse(f"slake/{name}/{index}", error)
    pool = AnswerPool(parsed, seed=seed)
    facts = SlakeFacts(root, rows.notes)
    for row in parsed:
        if row.language == "en":
            facts.add(str(row.raw.get("img_name")), row)
    for row in parsed:
        if split in (None, row.split) and language in ("all", row.language):
            rows.add(row.id, _make_sample, row, pool, facts, root, rows.notes)
    return rows.report(splits=list(_FILES) if split is None else ())


def _parse_row(raw: Any, split: str, notes: Counter[str]) -> Answered:
    raw = check_object(raw)
    return Answered(
        id=f"slake/{get_text(raw, 'qid')}",
        question=repair_mojibake(get_text(raw, "question", notes), notes),
        answer=repair_mojibake(get_text(raw, "answer", notes), notes),
        content_type=get_text(raw, "content_type", notes),
        answer_type=get_text(raw, "answer_type", notes).upper(),
        modality=parse_label(raw.get("modality"), parse_modality, "modality", notes),
        language=get_text(raw, "q_lang", notes),
        split=split,
        raw=raw,
    )


def _make_sample(row: Answered, pool: AnswerPool, facts: SlakeFacts, root: Path, notes: Counter[str]) -> Sample:
    path = get_text(row.raw, "img_name")
    subject_id = PurePosixPath(path).as_posix().partition("/")[0]  # the folder of one image
    location = row.raw.get("location")
    known = facts.facts_of(path, row)
    return pool.make_sample(
        row,
        "slake",
        root / "imgs",
        path,
        notes,
        subject_id=subject_id,
        facts=known,
        terms=TERMS,
        language=row.language,
        location=location,
    )
